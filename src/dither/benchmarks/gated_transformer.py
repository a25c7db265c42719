"""What tracing costs, and gains, on sequences: a causal Transformer whose gates skip tokens, a cost for each position.

    traced     gradients by following the first call: its time and memory, and those of the calls after it
    causal     declared: unit t answers for term t and all later ones
    global     every unit answers for every term

`first_steps` and `first_memory` are the first call, with its look at the examples, against a step of `global`: medians of
ratios within one turn, and peak bytes. `variance` is that of the gradient of the gates' parameters, by a running mean as
baseline, and `variance_saved` how many times that of `global` is as large.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dither
from dither.benchmarks import memory, timing
from dither.tables import Row

VOCABULARY = 256
CREDITS = ("global", "causal", "traced")


class Block(nn.Module):
    """A token that its gate skips is left out of the block, as query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm, self.norm_mlp = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.decide, self.gate = nn.Linear(width, 1), dither.Bernoulli()
        self.inputs, self.outputs, self.dropout = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Dropout(0.1)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(self.decide(x))  # (batch, time, 1)
        query, key, value = self.inputs(gate * self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        heard = F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.outputs(heard))
        return x + gate * self.mlp(self.norm_mlp(x))


class GatedTransformer(nn.Module):
    """Token ids (batch, time) -> logits of the next ones (batch, time, VOCABULARY)."""

    def __init__(self, length: int, width: int, layers: int, heads: int = 4) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, VOCABULARY))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.blocks(self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]))

    def gates(self) -> list[nn.Parameter]:
        """The parameters of the gates."""
        return [p for name, p in self.named_parameters() if ".decide." in name]


def next_token_costs(net: GatedTransformer, tokens: Tensor) -> Tensor:
    """(batch, time) of tokens (batch, time + 1)."""
    return F.cross_entropy(net(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:], reduction="none")


def rows(net: GatedTransformer, tokens: Tensor, repeats: int, gradients: int, clock: Callable[[], float]) -> list[Row]:
    """A row for each way of credit."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)  # a step ends a window of the baselines

    def closure() -> Tensor:
        return next_token_costs(net, tokens)

    def step(estimator: dither.ScoreFunction) -> None:
        net.zero_grad(set_to_none=False)
        estimator(closure).backward()
        optimizer.step()

    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    estimators = {credit: dither.ScoreFunction(net, baseline="mean", credit=credit) for credit in CREDITS}
    steps = {credit: (lambda estimator=estimator: step(estimator)) for credit, estimator in estimators.items()}
    first = {"first": lambda: step(dither.ScoreFunction(net, baseline="mean"))}
    times = timing.in_turn(steps | first, repeats, warm_up=2, clock=clock)
    variances = {credit: _variance(estimator, closure, net.gates(), gradients) for credit, estimator in estimators.items()}
    peak = memory.measured(steps["global"])[1]
    first_peak = memory.measured(lambda: step(dither.ScoreFunction(net, baseline="mean")))[1]
    result = []
    for credit in CREDITS:
        row: Row = {"costs": "sequence", "implementation": credit, "milliseconds": round(median(times[credit]), 3)}
        row |= {"times_global": timing.ratio(times[credit], times["global"])}
        row |= {"variance": variances[credit], "variance_saved": round(variances["global"] / variances[credit], 2)}
        if credit == "traced":
            row |= {"first_steps": timing.ratio(times["first"], times["global"])}
            row |= {"first_memory": round(first_peak / peak, 3)}
        result.append(row)
    return result


def _variance(
    estimator: dither.ScoreFunction, closure: Callable[[], Tensor], parameters: list[nn.Parameter], draws: int
) -> float:
    """The sum of the variances of the gradient's entries, the same draws for each estimator."""
    torch.manual_seed(1)
    gradients = []
    with estimator.frozen():
        for _ in range(draws):
            parts = torch.autograd.grad(estimator(closure), parameters)
            gradients.append(torch.cat([part.flatten() for part in parts]).double())
    return float(torch.stack(gradients).var(0).sum())


def problem(batch: int, length: int, width: int, layers: int) -> tuple[GatedTransformer, Tensor]:
    """A net and random tokens."""
    net = GatedTransformer(length, width, layers)
    return net, torch.randint(VOCABULARY, (batch, length + 1), dtype=torch.int64, device="cpu")


def clock_of(threads: int) -> Callable[[], float]:
    return time.thread_time if threads == 1 else time.perf_counter
