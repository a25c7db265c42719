"""What a forward-only layer is made of, beside what it takes in dense torch.

    forward product     x W^T of hard {0, 1} activations
    gradient product    g^T x of the same
    samples             hard activations from logits, with their bits
    score               (h - p) (L - b)

Four bits choose one of the sixteen sums of four weights, so a product takes a quarter of the additions of a dense one,
no multiplication, and reads 1/32 of the activation's bytes. `of_peak` is the dense product's operations by the time, as
a part of the machine's measured rate of multiply-adds: above 1 no dense float32 product can go.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from dither import kernels, noise
from dither.benchmarks import timing
from dither.benchmarks.timing import Step
from dither.tables import Progress, Result, Row

Parts = dict[str, dict[str, Step]]  # part -> implementation -> step
AGAINST = {"times_float32": "dense float32", "times_bfloat16": "dense bfloat16"}


@dataclass(frozen=True)
class Config:
    """The parts of a forward-only layer, on packed bits, against dense float32 and bfloat16."""

    sizes: tuple[tuple[int, int, int], ...] = (
        (256, 500, 500),
        (1000, 200, 500),
        (1024, 784, 2048),
        (64, 500, 500),
        (8, 500, 500),
    )
    """(batch, inputs, outputs)"""
    precision: str = "medium"
    repeats: int = 40
    threads: int = 2
    seed: int = 0


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """{"rows": a row per size, part and implementation}."""
    timing.prepare(config.threads, config.precision, config.seed)
    rate = timing.multiply_add_rate(config.threads)
    rows = []
    for batch, inputs, outputs in config.sizes:
        products, others = parts(batch, inputs, outputs)
        for part, steps in (products | others).items():
            times = timing.in_turn(steps, config.repeats)
            measured = timing.rows_of(times, AGAINST, part=part, batch=batch, inputs=inputs, outputs=outputs)
            operations = 2 * batch * inputs * outputs
            rows += [row | _of_peak(row, operations, rate) for row in measured] if part in products else measured
            progress(f"{batch} x {inputs} x {outputs}, {part}: {rows[-1]['times_float32']} of dense float32's time")
    return {"rows": rows}


def _of_peak(row: Row, operations: int, rate: float | None) -> Row:
    return {"of_peak": round(operations / 1e6 / row["milliseconds"] / rate, 2)} if rate else {}


def parts(batch: int, inputs: int, outputs: int) -> tuple[Parts, Parts]:
    """(the products, the others)."""
    h, w, g = (
        torch.empty(batch, inputs, dtype=torch.float32, device="cpu").bernoulli_(),
        torch.randn(outputs, inputs, dtype=torch.float32, device="cpu"),
        torch.randn(batch, outputs, dtype=torch.float32, device="cpu"),
    )
    packed, h16, w16, g16 = kernels.pack(h), h.bfloat16(), w.bfloat16(), g.bfloat16()
    a, advantage = (
        torch.randn(batch, outputs, dtype=torch.float32, device="cpu"),
        torch.randn(batch, 1, dtype=torch.float32, device="cpu"),
    )
    bits = kernels.pack(torch.empty(batch, outputs, dtype=torch.float32, device="cpu").bernoulli_())
    hard = kernels.unpack(bits, outputs)
    key = noise.Keyed(
        "uniform",
        torch.tensor(1, dtype=torch.int64, device="cpu"),
        0,
        torch.tensor(0, dtype=torch.int64, device="cpu"),
        (batch, outputs),
        a.device,
    ).key
    products: Parts = {
        "forward product": {
            "dense float32": lambda: h @ w.T,
            "dense bfloat16": lambda: h16 @ w16.T,
            "packed": lambda: kernels.packed_linear(packed, w),
        },
        "gradient product": {
            "dense float32": lambda: g.T @ h,
            "dense bfloat16": lambda: g16.T @ h16,
            "packed": lambda: kernels.packed_outer(packed, g, inputs),
        },
    }
    others: Parts = {
        "samples": {
            "dense float32": lambda: (torch.rand_like(a) < torch.sigmoid(a)).float(),
            "packed": lambda: kernels.bernoulli_packed(a, key),
        },
        "score": {
            "dense float32": lambda: (hard - torch.sigmoid(a)) * advantage,
            "packed": lambda: kernels.packed_score(bits, a, advantage),
        },
    }
    return products, others
