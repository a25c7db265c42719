"""An epoch of training GSN-2 (784-1500-1500, 4 steps, batch 100, 60,000 examples) by the authors' recipe.

    dither              models.GSN, the recipe of gsn-mnist, SGD included
    products            its 26 matrix products alone, at the same setting: 14 forward, 10 backward, 2 for the weights
    torch               a literal transcription in eager torch at its defaults (float32 matmul precision "highest")
    torch, best         the same at the best setting
    dither, bfloat16    under torch.autocast, another accuracy

A step is measured and multiplied by the 600 of an epoch. All take turns, in blocks of four steps; the first of a block, which
finds the caches as another implementation left them, is told apart, since in an epoch a step follows its own kind. `floor` is
the arithmetic at the machine's measured rate of multiply-adds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Config:
    """The time of a training epoch of GSN-2 beside its matrix products and beside eager torch."""

    units: int = 784
    width: int = 1500
    walk: int = 4
    """steps of the walk"""
    batch_size: int = 100
    examples: int = 60_000
    precision: str = "medium"
    """torch.set_float32_matmul_precision of all but the eager version at torch's defaults"""
    repeats: int = 15
    threads: int = 2
    seed: int = 0


def run(config: Config, folder: Path, progress: Callable[[str], Any] = print) -> dict[str, Any]:
    """{"rows": a row per implementation}: seconds of an epoch, and times the products and eager torch."""
    from dither.experiments import _timing

    _timing.prepare(config.threads, config.precision, config.seed)
    rate = _timing.limits(config.threads).get("fma_gflop_s")
    against = {"times_products": "products", "times_torch": "torch", "times_torch_best": "torch, best"}
    hot, cold = _timing.in_blocks(steps(config), config.repeats)
    rows, first = _timing.rows_of(hot, against), _timing.rows_of(cold, against)
    per_epoch = config.examples / config.batch_size
    for row, one in zip(rows, first, strict=True):
        row["epoch_seconds"] = round(row["milliseconds"] * per_epoch / 1e3, 1)
        row |= {"first_milliseconds": one["milliseconds"], "first_times_products": one["times_products"]}
    flop = multiply_adds(config) * 2 * config.examples
    if rate:
        rows.append({"implementation": "floor", "epoch_seconds": round(flop / rate / 1e9, 1)})
    progress(f"{flop / 1e12:.1f} TFLOP an epoch; dither takes {rows[0]['times_products']} of its products' time")
    return {"rows": rows}


def multiply_adds(config: Config) -> int:
    """Of one example: what the recipe needs. The first product from h_2 is with zeros, the last update of h_2 is not seen."""
    low, high, walk = config.units * config.width, config.width**2, config.walk
    forward = 2 * walk * low + 2 * (walk - 1) * high
    backward = 2 * forward - walk * low  # no gradient flows into the corrupted input
    return forward + backward


def steps(config: Config) -> dict[str, Callable[[], Any]]:
    import torch

    from dither.experiments import _gsn
    from dither.models.gsn import GSN

    x = torch.rand(config.batch_size, config.units)
    model = GSN((config.units, config.width, config.width), steps=config.walk)
    optimizer = _gsn.sgd(model, 0.25 / config.units, 0.5)

    def dither_step(bfloat16: bool = False) -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            cost = model.cost(x).mean()
        cost.backward()
        optimizer.step()

    return {
        "dither": dither_step,
        "products": products(config),
        "torch": at("highest", eager(config, x), config.precision),
        "torch, best": eager(config, x),
        "dither, bfloat16": lambda: dither_step(True),
    }


def at(precision: str, step: Callable[[], Any], afterwards: str) -> Callable[[], Any]:
    import torch

    def wrapped() -> None:
        torch.set_float32_matmul_precision(precision)
        step()
        torch.set_float32_matmul_precision(afterwards)

    return wrapped


def products(config: Config) -> Callable[[], Any]:
    """Every product of a step, with no more around it than the memory for its result."""
    import torch

    low, high = torch.randn(config.width, config.units), torch.randn(config.width, config.width)
    x, h = torch.randn(config.batch_size, config.units), torch.randn(config.batch_size, config.width)
    walk = config.walk
    below, above = (
        torch.randn(2 * walk * config.batch_size, config.units),
        torch.randn(2 * walk * config.batch_size, config.width),
    )
    upper = torch.randn(2 * (walk - 1) * config.batch_size, config.width)

    def step() -> None:
        for _ in range(walk):
            _ = x @ low.T, h @ low, x @ low.T  # up, down, gradient of down
        for _ in range(walk - 1):
            _ = h @ high.T, h @ high, h @ high, h @ high.T
        _ = above.T @ below, upper.T @ upper

    return step


def eager(config: Config, x: Any) -> Callable[[], Any]:
    """The recipe as it reads, in plain torch."""
    import torch
    import torch.nn.functional as F

    sizes = (config.units, config.width, config.width)
    weights = [torch.nn.Parameter((2 * torch.rand(a, b) - 1) * (6 / (a + b)) ** 0.5) for a, b in pairwise(sizes)]
    biases = [torch.nn.Parameter(torch.zeros(size)) for size in sizes]
    optimizer = torch.optim.SGD([*weights, *biases], 0.25, momentum=0.5, dampening=0.5)

    def salt_and_pepper(x: Any) -> Any:
        keep = torch.bernoulli(torch.full_like(x, 0.6))
        return x * keep + (1 - keep) * torch.bernoulli(torch.full_like(x, 0.5))

    def noise(a: Any) -> Any:
        return a + 2 * torch.randn_like(a)

    def step() -> None:
        visible, h2, cost = salt_and_pepper(x), torch.zeros(len(x), config.width), torch.zeros(())
        for _ in range(config.walk):
            h1 = torch.tanh(visible @ weights[0] + h2 @ weights[1].T + biases[1])
            p = torch.sigmoid(h1 @ weights[0].T + biases[0])
            h2 = noise(torch.tanh(noise(h1 @ weights[1] + biases[2])))
            cost = cost + F.binary_cross_entropy(p, x)
            visible = salt_and_pepper(torch.bernoulli(p.detach()))
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()

    return step
