"""The nets and steps of the benchmarks `step` and `memory`: 784-500x(D-1)-10 of hard binary units, for ten classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import dither
from dither import methods
from dither.benchmarks.timing import Step
from dither.models.mlp import StochasticMLP

BERNOULLI, RAND = "torch, bernoulli", "torch, rand < p"  # by hand, in plain torch
STRAIGHT_THROUGH, SCORE_FUNCTION, FORWARD_ONLY = "straight-through", "score-function:mean", "forward-only:mean"


def problem(depth: int, width: int, batch_size: int) -> tuple[StochasticMLP, Tensor, Tensor]:
    """(net, x, y): `depth` Linear layers, a Bernoulli node behind all but the last."""
    net = StochasticMLP((784,) + (width,) * (depth - 1) + (10,))
    return (
        net,
        torch.rand(batch_size, 784, dtype=torch.float32, device="cpu"),
        torch.randint(10, (batch_size,), dtype=torch.int64, device="cpu"),
    )


def by_torch(net: StochasticMLP, x: Tensor, y: Tensor, sampler: str, autocast: bool = False) -> Step:
    """Back-propagated straight-through as one writes it in plain torch. sampler: BERNOULLI or RAND."""

    def forward() -> Tensor:
        h = x
        for linear in net.linears[:-1]:
            p = torch.sigmoid(linear(h))
            hard = torch.bernoulli(p.detach()) if sampler == BERNOULLI else (torch.rand_like(p) < p).to(p.dtype)
            h = hard + (p - p.detach())
        return F.cross_entropy(net.linears[-1](h).float(), y)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = forward()
        loss.backward()

    return step


def by_dither(estimator: dither.Estimator, net: StochasticMLP, x: Tensor, y: Tensor, autocast: bool = False) -> Step:
    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = estimator(lambda: F.cross_entropy(net(x).float(), y, reduction="none"))
        loss.backward()

    return step


def steps(net: StochasticMLP, x: Tensor, y: Tensor) -> dict[str, Step]:
    """Every way of training it, by name; "bf16" is under torch.autocast."""
    forward_only = methods.build(FORWARD_ONLY, net)
    bits = f"{FORWARD_ONLY},bits"
    return {
        BERNOULLI: by_torch(net, x, y, BERNOULLI),
        RAND: by_torch(net, x, y, RAND),
        f"{BERNOULLI}, bf16": by_torch(net, x, y, BERNOULLI, autocast=True),
        f"{RAND}, bf16": by_torch(net, x, y, RAND, autocast=True),
        STRAIGHT_THROUGH: by_dither(methods.build(STRAIGHT_THROUGH, net), net, x, y),
        SCORE_FUNCTION: by_dither(methods.build(SCORE_FUNCTION, net), net, x, y),
        FORWARD_ONLY: by_dither(forward_only, net, x, y),
        f"{FORWARD_ONLY}, bf16": by_dither(forward_only, net, x, y, autocast=True),
        bits: by_dither(methods.build(bits, net), net, x, y),
    }
