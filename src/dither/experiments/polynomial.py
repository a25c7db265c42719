"""Polynomial programming: 128 free categorical nodes, each to be brought to a value near a target, by every estimator.

Each node has K = 4 categories with fixed values v; the cost is the mean over nodes of |v'z - 0.45|^p, p = 1.5, 2, 3, for a
batch of 8 samples, and the logits are trained by Adam at 1e-3 for 50 epochs of 200 steps. What is compared is the mean training
loss of the last epoch. Liu et al. 2023 ("Bridging discrete and backpropagation", polynomial programming) have two categories.

The published table does not print its four values. The default, (0, 0.5, 0.75, 1), was *fitted*: with it straight-through,
whose loss is that of its fixed point and so tells the values apart, has the published loss within 1 % for all three p. Most
other rows are lower than published with it, by up to 16 %, and one is higher, so the published set-up is another: compare the
rows with each other rather than with `published`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

# method -> loss at p = 1.5, 2, 3.
PUBLISHED: dict[str, tuple[float, float, float]] = {
    "straight-through": (0.2272, 0.1480, 0.0688),
    "gumbel-softmax": (0.0203, 0.00751, 0.00253),
    "gumbel-rao": (0.01561, 0.00448, 0.000815),
    "reinmax": (0.01516, 0.00427, 0.000709),
    "score-optimal-local": (0.01397, 0.00356, 0.00037),
    "score-optimal": (0.0519, 0.0327, 0.0165),
}


@dataclass(frozen=True)
class Method:
    """build: model -> estimator. local: whether the closure tells the terms of the cost apart, one per node."""

    build: Callable[[Any], Any]
    local: bool = False


def _named(name: str, *arguments: Any, **options: Any) -> Callable[[Any], Any]:
    def build(model: Any) -> Any:
        import dither

        return getattr(dither, name)(model, *arguments, **options)

    return build


METHODS: dict[str, Method] = {
    "straight-through": Method(_named("StraightThrough")),
    "gumbel-softmax": Method(_named("GumbelSoftmax", temperature=0.1)),
    "gumbel-rao": Method(_named("GumbelRao", temperature=0.1, draws=20)),
    "reinmax": Method(_named("ReinMax")),
    "mve": Method(_named("MVE")),
    "score-optimal-local": Method(_named("ScoreFunction", "optimal"), local=True),
    "score-leave-one-out-2-local": Method(_named("ScoreFunction", "leave-one-out", samples=2), local=True),
    "score-optimal-split-sums": Method(_named("ScoreFunction", "optimal", split_sums=True)),
    "score-optimal": Method(_named("ScoreFunction", "optimal")),
    "score-leave-one-out-10": Method(_named("ScoreFunction", "leave-one-out", samples=10)),
}


@dataclass(frozen=True)
class Config:
    """128 categorical nodes under a polynomial cost: the loss that every estimator reaches."""

    methods: tuple[str, ...] = tuple(METHODS)
    powers: tuple[float, ...] = (1.5, 2.0, 3.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    values: tuple[float, ...] = (0.0, 0.5, 0.75, 1.0)
    """of the categories"""
    target: float = 0.45
    nodes: int = 128
    batch_size: int = 8
    epochs: int = 50
    steps: int = 200
    """per epoch"""
    lr: float = 1e-3
    threads: int = 1


def run(config: Config, folder: Path, progress: Callable[[str], None] = print) -> dict[str, Any]:
    """{"rows": a row per method and power: the mean, least and greatest loss over seeds, and the published one}."""
    import torch

    unknown = [name for name in config.methods if name not in METHODS]
    if unknown:
        raise ValueError(f"there is no method {', '.join(map(repr, unknown))}; choose among {', '.join(METHODS)}")
    torch.set_num_threads(config.threads)
    rows = []
    for method in config.methods:
        for power in config.powers:
            began = time.perf_counter()
            losses = [train(config, method, power, seed) for seed in config.seeds]
            seconds = (time.perf_counter() - began) / len(losses)
            rows.append(_row(method, power, losses, seconds))
            progress(f"{method} p = {power:g}: {rows[-1]['loss']:.5f} in {seconds:.1f} s a run")
    return {"rows": rows}


def _row(method: str, power: float, losses: list[float], seconds: float) -> dict[str, Any]:
    published = dict(zip((1.5, 2.0, 3.0), PUBLISHED.get(method, ()), strict=False)).get(power)
    least, most = (float(f"{value:.4g}") for value in (min(losses), max(losses)))
    loss = float(f"{fmean(losses):.4g}")
    return {"method": method, "p": power, "loss": loss, "least": least, "most": most, "published": published} | {
        "seconds": round(seconds, 1)
    }


def train(config: Config, method: str, power: float, seed: int) -> float:
    """The mean training loss of the last epoch."""
    import torch
    from torch import nn

    import dither

    class Nodes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.empty(config.nodes, len(values)).uniform_(-0.01, 0.01))
            self.node = dither.Categorical()

        def forward(self) -> torch.Tensor:
            return (self.node(self.logits.expand(config.batch_size, -1, -1)) * values).sum(-1)

    torch.manual_seed(seed)
    values = torch.tensor(config.values)
    model = Nodes()
    estimator = METHODS[method].build(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)

    def closure() -> torch.Tensor:
        terms = (model() - config.target).abs() ** power / config.nodes
        return terms if METHODS[method].local else terms.sum(1)

    total = torch.zeros(())
    for _ in range(config.epochs):
        total = torch.zeros(())
        for _ in range(config.steps):
            optimizer.zero_grad()
            loss = estimator(closure)
            loss.backward()
            optimizer.step()
            total += loss.detach()
    return float(total) / config.steps
