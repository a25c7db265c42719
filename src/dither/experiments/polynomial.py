"""Polynomial programming: 128 free categorical nodes, each to be brought to a value near a target, by every estimator.

Each node has K = 4 categories with fixed values v; the cost is the mean over nodes of |v'z - 0.45|^p, p = 1.5, 2, 3, for a
batch of 8 samples, and the logits are trained by Adam at 1e-3 for 50 epochs of 200 steps. What is compared is the mean training
loss of the last epoch. Liu et al. 2023 ("Bridging discrete and backpropagation", polynomial programming) have two categories.

The published table does not print its four values. The default, (0, 0.5, 0.75, 1), was *fitted*: with it straight-through,
whose loss is that of its fixed point and so identifies the values, has the published loss within 1 % for all three p. Most
other rows are lower than published with it, by up to 16 %, and one is higher, so the published set-up is another: compare the
rows with each other rather than with `published`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import dither
from dither import methods
from dither.experiments.core.summary import mean_and_sd
from dither.tables import Progress, Result, Row

# (method, credit) -> loss at p = 1.5, 2, 3.
PUBLISHED: dict[tuple[str, str], tuple[float, float, float]] = {
    ("straight-through", "global"): (0.2272, 0.1480, 0.0688),
    ("gumbel-softmax:temperature=0.1", "global"): (0.0203, 0.00751, 0.00253),
    ("gumbel-rao:temperature=0.1,draws=20", "global"): (0.01561, 0.00448, 0.000815),
    ("reinmax", "global"): (0.01516, 0.00427, 0.000709),
    ("score-function:optimal", "local"): (0.01397, 0.00356, 0.00037),
    ("score-function:optimal", "global"): (0.0519, 0.0327, 0.0165),
}


@dataclass(frozen=True)
class Config:
    """128 categorical nodes under a polynomial cost: the loss that every estimator reaches."""

    methods: tuple[str, ...] = (
        "straight-through",
        "gumbel-softmax:temperature=0.1",
        "gumbel-rao:temperature=0.1,draws=20",
        "reinmax",
        "mve",
        "score-function:optimal,split_sums=true",
        "score-function:optimal",
        "score-function:leave-one-out,samples=10",
    )
    """with a closure that returns one cost per example: global credit"""
    local: tuple[str, ...] = ("score-function:optimal", "score-function:leave-one-out,samples=2")
    """with a closure that returns the terms of the cost, one per node: local credit; --local alone: none"""
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


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """A row per method, credit and power: the loss over seeds, and the published one."""
    pairs = [(method, "global") for method in config.methods] + [(method, "local") for method in config.local]
    for method, _ in pairs:
        methods.parse(method)
    torch.set_num_threads(config.threads)
    rows = []
    for method, credit in pairs:
        for power in config.powers:
            rows.append(_row(config, method, credit, power))
            progress(f"{method}, {credit} credit, p = {power:g}: {rows[-1]['loss']:.5f} in {rows[-1]['seconds']:.1f} s a run")
    return {"rows": rows}


def _row(config: Config, method: str, credit: str, power: float) -> Row:
    began = time.perf_counter()
    losses = [train(config, method, power, seed, local=credit == "local") for seed in config.seeds]
    seconds = (time.perf_counter() - began) / len(losses)
    published = dict(zip((1.5, 2.0, 3.0), PUBLISHED.get((method, credit), ()), strict=False)).get(power)
    row: Row = {"method": method, "credit": credit, "p": power, "seeds": len(losses), **mean_and_sd("loss", losses)}
    return row | {"published": published, "seconds": round(seconds, 1)}


def train(config: Config, method: str, power: float, seed: int, local: bool = False) -> float:
    """The mean training loss of the last epoch."""
    torch.manual_seed(seed)
    model = Nodes(config)
    estimator = methods.build(method, model)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)

    def closure() -> Tensor:
        terms = (model() - config.target).abs() ** power / config.nodes
        return terms if local else terms.sum(1)

    total = torch.zeros((), dtype=torch.float32, device="cpu")
    for _ in range(config.epochs):
        total = torch.zeros((), dtype=torch.float32, device="cpu")
        for _ in range(config.steps):
            optimizer.zero_grad()
            loss = estimator(closure)
            loss.backward()
            optimizer.step()
            total += loss.detach()
    return float(total) / config.steps


class Nodes(nn.Module):
    """The value of each node's category, (batch, nodes)."""

    values: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.batch_size = config.batch_size
        self.register_buffer("values", torch.tensor(config.values, dtype=torch.float32, device="cpu"))
        self.logits = nn.Parameter(
            torch.empty(config.nodes, len(config.values), dtype=torch.float32, device="cpu").uniform_(-0.01, 0.01)
        )
        self.node = dither.Categorical()

    def forward(self) -> Tensor:
        return (self.node(self.logits.expand(self.batch_size, -1, -1)) * self.values).sum(-1)
