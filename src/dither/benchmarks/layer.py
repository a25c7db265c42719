"""What a layer of hard units costs beside its matrix product: Linear(784, 2048), then sampling.

"forward" is compared with the product alone, "step" (forward and straight-through backward) with the same layer of
deterministic sigmoid units. Both settings of torch's float32 products are measured, in turn: on some processors
`torch.set_float32_matmul_precision("medium")` is much faster at the same accuracy, whose measure is in the rows
`product`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

import dither
from dither.benchmarks import timing
from dither.benchmarks.timing import Step, Times
from dither.tables import Progress, Result, Row


@dataclass(frozen=True)
class Config:
    """A stochastic layer against its product alone, and against a layer of sigmoids."""

    inputs: int = 784
    units: int = 2048
    batch_sizes: tuple[int, ...] = (1024, 64, 1)
    precisions: tuple[str, ...] = ("highest", "medium")
    repeats: int = 25
    threads: int = 2
    seed: int = 0


@dataclass(frozen=True)
class Part:
    """`steps` by implementation, of which `reference` is what the others are compared with."""

    name: str
    reference: str
    steps: dict[str, Step]


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """{"rows": a row per part, batch size, precision and implementation}."""
    rows = []
    for precision in config.precisions:
        for batch_size in config.batch_sizes:
            timing.prepare(config.threads, precision, config.seed)
            repeats = config.repeats * (1 if batch_size > 256 else 8)
            for part in parts(config, batch_size):
                times = timing.in_turn(part.steps, repeats, warm_up=5)
                against = {"times_reference": part.reference, "times_best_torch": _best_torch(times)}
                rows += timing.rows_of(times, against, part=part.name, batch_size=batch_size, precision=precision)
                times_reference = rows[-1]["times_reference"]
                progress(f"{precision}, batch {batch_size}, {part.name}: {times_reference} times the {part.reference}")
    return {"rows": rows + accuracy(config)}


def _best_torch(times: Times) -> str:
    return min((name for name in times if name.startswith("torch")), key=lambda name: median(times[name]))


def parts(config: Config, batch_size: int) -> list[Part]:
    linear, node = nn.Linear(config.inputs, config.units), dither.Bernoulli()
    assert node.sampler is dither.functional.bernoulli_straight_through_sigmoid, "what the steps by hand do too"
    x, gradient = (
        torch.randn(batch_size, config.inputs, dtype=torch.float32, device="cpu"),
        torch.randn(batch_size, config.units, dtype=torch.float32, device="cpu"),
    )
    hard = {
        "torch.bernoulli": lambda: torch.bernoulli(torch.sigmoid(linear(x))),
        "torch rand < p": lambda: (torch.rand_like(gradient) < torch.sigmoid(linear(x))).float(),
        "dither": lambda: node(linear(x)),
    }
    trained = {
        "torch.bernoulli": lambda: _straight_through(linear(x), torch.bernoulli),
        "torch rand < p": lambda: _straight_through(linear(x), lambda p: (torch.rand_like(p) < p).to(p.dtype)),
        "dither": lambda: node(linear(x)),
    }
    forward = {"product": lambda: linear(x)} | hard
    step = {"sigmoid layer": lambda: torch.sigmoid(linear(x))} | trained
    return [
        Part("forward", "product", {name: _forward(f) for name, f in forward.items()}),
        Part("step", "sigmoid layer", {name: _step(f, linear, gradient) for name, f in step.items()}),
    ]


def _straight_through(logits: Tensor, sample: Callable[[Tensor], Tensor]) -> Tensor:
    p = torch.sigmoid(logits)
    return sample(p.detach()) + (p - p.detach())


def _forward(f: Callable[[], Tensor]) -> Step:
    def forward() -> None:
        with torch.no_grad():
            f()

    return forward


def _step(f: Callable[[], Tensor], linear: nn.Linear, gradient: Tensor) -> Step:
    def step() -> None:
        linear.zero_grad()
        f().backward(gradient)

    return step


def accuracy(config: Config) -> list[Row]:
    """The maximal error of torch's product in each setting, as a part of the maximal entry."""
    torch.manual_seed(config.seed)
    x, w = (
        torch.randn(max(config.batch_sizes), config.inputs, dtype=torch.float32, device="cpu"),
        torch.randn(config.units, config.inputs, dtype=torch.float32, device="cpu"),
    )
    exact = x.double() @ w.double().T
    rows = []
    for precision in config.precisions:
        torch.set_float32_matmul_precision(precision)
        error = float(((x @ w.T) - exact).abs().max() / exact.abs().max())
        row: Row = {"part": "error of the product", "precision": precision}
        rows.append(row | {"implementation": "product", "relative_error": error})
    return rows
