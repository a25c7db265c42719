"""The nets and steps of the benchmarks `step` and `memory`: 784-500x(D-1)-10 of hard binary units, one class per example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Step = Callable[[], Any]


def problem(depth: int, width: int, batch_size: int) -> tuple[Any, Any, Any]:
    """(net, x, y): `depth` Linear layers, a Bernoulli node behind all but the last."""
    import torch

    from dither.models.mlp import StochasticMLP

    net = StochasticMLP((784,) + (width,) * (depth - 1) + (10,))
    return net, torch.rand(batch_size, 784), torch.randint(10, (batch_size,))


def by_torch(net: Any, x: Any, y: Any, sampler: str, autocast: bool = False) -> Step:
    """Back-propagated straight-through as one writes it in plain torch. sampler: "bernoulli" or "rand"."""
    import torch
    import torch.nn.functional as F

    def forward() -> Any:
        h = x
        for linear in net.linears[:-1]:
            p = torch.sigmoid(linear(h))
            hard = torch.bernoulli(p.detach()) if sampler == "bernoulli" else (torch.rand_like(p) < p).to(p.dtype)
            h = hard + (p - p.detach())
        return F.cross_entropy(net.linears[-1](h).float(), y)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = forward()
        loss.backward()

    return step


def by_dither(estimator: Any, net: Any, x: Any, y: Any, autocast: bool = False) -> Step:
    import torch
    import torch.nn.functional as F

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = estimator(lambda: F.cross_entropy(net(x).float(), y, reduction="none"))
        loss.backward()

    return step


def steps(net: Any, x: Any, y: Any) -> dict[str, Step]:
    """Every way of training it, by name."""
    import dither

    only = {keep: dither.ForwardOnly(net, "mean", keep=keep) for keep in ("logits", "bits")}
    return {
        "torch, bernoulli": by_torch(net, x, y, "bernoulli"),
        "torch, rand < p": by_torch(net, x, y, "rand"),
        "torch, bernoulli, bf16": by_torch(net, x, y, "bernoulli", autocast=True),
        "torch, rand < p, bf16": by_torch(net, x, y, "rand", autocast=True),
        "StraightThrough": by_dither(dither.StraightThrough(net), net, x, y),
        "ScoreFunction": by_dither(dither.ScoreFunction(net, "mean"), net, x, y),
        "ForwardOnly": by_dither(only["logits"], net, x, y),
        "ForwardOnly, bf16": by_dither(only["logits"], net, x, y, autocast=True),
        "ForwardOnly, bits": by_dither(only["bits"], net, x, y),
    }
