"""What dither adds to the arithmetic of one small node: 100 x 200 units, K = 10 samples, the gradient of the logits.

The cost is sum_i (h_i - .499)^2 b_i for fixed b, averaged over units. By hand: one torch.rand for all samples,
leave-one-out, the score in closed form, no loop and no autograd. And many calls in a step, as recurrent and spiking nets
make them: 16 of one node on (1, 32) logits, one sample, by autograd on both sides. Peers, storchastic and Pyro (pip install
"dither[bench]"), are in the benchmark `overhead`, on a net.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

import dither
from dither import methods
from dither.benchmarks import timing
from dither.benchmarks.timing import Step
from dither.tables import Progress, Result

METHOD = "score-function:leave-one-out"


@dataclass(frozen=True)
class Config:
    """One Bernoulli node, K samples, gradient only: dither beside a loop-free version by hand."""

    batch_sizes: tuple[int, ...] = (100, 1)
    units: int = 200
    samples: int = 10
    calls: int = 16
    """How many a step makes of one node, of 32 units, in the last comparison."""
    repeats: int = 200
    threads: int = 2
    seed: int = 0


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """{"rows": a row per batch size and implementation}."""
    timing.prepare(config.threads, "highest", config.seed)
    rows = []
    for batch_size in config.batch_sizes:
        logits = torch.randn(batch_size, config.units, requires_grad=True, dtype=torch.float32, device="cpu")
        times = timing.in_turn(
            steps(logits, torch.rand(config.units, dtype=torch.float32, device="cpu"), config.samples),
            config.repeats,
            warm_up=10,
        )
        rows += timing.rows_of(times, {"times_hand": "by hand"}, batch_size=batch_size, calls=1)
        progress(f"batch {batch_size}: {rows[-1]['times_hand']} times the hand-written one")
    times = timing.in_turn(steps_of_many(config.calls), config.repeats, warm_up=10)
    rows += timing.rows_of(times, {"times_hand": "by hand"}, batch_size=1, calls=config.calls)
    each = 1000 * (median(times["dither"]) - median(times["without a node"])) / config.calls
    progress(f"{config.calls} calls: {each:.0f} microseconds each beyond the rest of the step")
    return {"rows": rows}


def steps(logits: Tensor, weight: Tensor, samples: int) -> dict[str, Step]:
    node = dither.Bernoulli()
    estimator = methods.build(METHOD, node, samples=samples)

    def cost(h: Tensor) -> Tensor:
        return ((h - 0.499).square() * weight).mean(-1)

    def by_hand() -> Tensor:
        p = torch.sigmoid(logits.detach())
        h = (torch.rand(samples, *p.shape, dtype=torch.float32, device="cpu") < p).to(p.dtype)
        costs = cost(h)
        centred = (costs - costs.mean(0)) / (samples - 1)
        return (centred.unsqueeze(-1) * (h - p)).sum(0) / len(p)

    def by_dither() -> tuple[Tensor, ...]:
        return torch.autograd.grad(estimator(lambda: cost(node(logits))), logits)

    return {"by hand": by_hand, "dither": by_dither}


def steps_of_many(calls: int) -> dict[str, Step]:
    """A step that makes several calls of one node and nothing else, its gradient by autograd."""
    node = dither.Bernoulli()
    logits = [torch.randn(1, 32, requires_grad=True, dtype=torch.float32, device="cpu") for _ in range(calls)]
    estimator = dither.ScoreFunction(node)

    def by_hand() -> tuple[Tensor, ...]:
        cost, log_prob = torch.zeros(1, dtype=torch.float32, device="cpu"), torch.zeros(1, dtype=torch.float32, device="cpu")
        for a in logits:
            p = torch.sigmoid(a.detach())
            h = (torch.rand_like(p) < p).to(p.dtype)
            cost, log_prob = cost + h.sum(1), log_prob + ((2 * h - 1) * a).neg().exp().log1p().neg().sum(1)
        return torch.autograd.grad((cost * log_prob).mean(), logits)

    def cost(sampled: Callable[[Tensor], Tensor] = node) -> Tensor:
        total = torch.zeros(1, dtype=torch.float32, device="cpu")
        for a in logits:
            total = total + sampled(a).sum(1)
        return total

    def by_dither() -> tuple[Tensor, ...]:
        return torch.autograd.grad(estimator(cost), logits)

    def without() -> tuple[Tensor, ...]:
        return torch.autograd.grad(cost(lambda a: a).mean(), logits)

    return {"by hand": by_hand, "dither": by_dither, "without a node": without}
