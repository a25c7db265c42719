"""What a layer of hard units costs beside its matrix product: Linear(784, 2048), then sampling.

"forward" is compared with the product alone, "step" (forward and straight-through backward) with the same layer of
deterministic sigmoid units. Both settings of torch's float32 products are measured, in turn: on some processors
`torch.set_float32_matmul_precision("medium")` is much faster at the same accuracy, whose measure is in the rows `product`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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


def run(config: Config, folder: Path, progress: Callable[[str], Any] = print) -> dict[str, Any]:
    """{"rows": a row per part, batch size, precision and implementation}."""
    from dither.experiments import _timing

    rows = []
    for precision in config.precisions:
        for batch_size in config.batch_sizes:
            _timing.prepare(config.threads, precision, config.seed)
            repeats = config.repeats * (1 if batch_size > 256 else 8)
            for part, reference, steps in parts(config, batch_size):
                times = _timing.in_turn(steps, repeats, warm_up=5)
                best = min(
                    (name for name in steps if name.startswith("torch")), key=lambda name: sorted(times[name])[repeats // 2]
                )
                common = {"part": part, "batch_size": batch_size, "precision": precision}
                rows += _timing.rows_of(times, {"times_reference": reference, "times_best_torch": best}, **common)
                progress(f"{precision}, batch {batch_size}, {part}: {rows[-1]['times_reference']} times the {reference}")
    return {"rows": rows + accuracy(config)}


def parts(config: Config, batch_size: int) -> list[tuple[str, str, dict[str, Callable[[], Any]]]]:
    """(part, what it is compared with, steps)."""
    import torch

    import dither

    linear, node = torch.nn.Linear(config.inputs, config.units), dither.Bernoulli()
    x = torch.randn(batch_size, config.inputs)
    gradient = torch.randn(batch_size, config.units)
    through = dither.functional.bernoulli_straight_through_sigmoid

    def bernoulli() -> Any:
        p = torch.sigmoid(linear(x))
        return torch.bernoulli(p.detach()) + (p - p.detach())

    def rand() -> Any:
        p = torch.sigmoid(linear(x))
        return (torch.rand_like(p) < p).to(p.dtype) + (p - p.detach())

    def forward(f: Callable[[], Any]) -> Callable[[], Any]:
        def step() -> None:
            with torch.no_grad():
                f()

        return step

    def step(f: Callable[[], Any]) -> Callable[[], Any]:
        def both() -> None:
            linear.zero_grad()
            f().backward(gradient)

        return both

    hard = {
        "torch.bernoulli": lambda: torch.bernoulli(torch.sigmoid(linear(x))),
        "torch rand < p": lambda: (torch.rand_like(gradient) < torch.sigmoid(linear(x))).float(),
        "dither": lambda: node(linear(x)),
    }
    trained = {"torch.bernoulli": bernoulli, "torch rand < p": rand, "dither": lambda: node(linear(x))}
    assert node.sampler is through
    return [
        ("forward", "product", {"product": forward(lambda: linear(x))} | {n: forward(f) for n, f in hard.items()}),
        (
            "step",
            "sigmoid layer",
            {"sigmoid layer": step(lambda: torch.sigmoid(linear(x)))} | {n: step(f) for n, f in trained.items()},
        ),
    ]


def accuracy(config: Config) -> list[dict[str, Any]]:
    """The greatest error of torch's product in each setting, as a part of the greatest entry."""
    import torch

    torch.manual_seed(config.seed)
    x, w = torch.randn(max(config.batch_sizes), config.inputs), torch.randn(config.units, config.inputs)
    exact = x.double() @ w.double().T
    rows = []
    for precision in config.precisions:
        torch.set_float32_matmul_precision(precision)
        error = float(((x @ w.T) - exact).abs().max() / exact.abs().max())
        rows.append(
            {"part": "error of the product", "precision": precision, "implementation": "product", "relative_error": error}
        )
    return rows
