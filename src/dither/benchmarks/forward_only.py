"""What a forward-only layer is made of, beside what it takes in dense torch: the products x W^T and g^T x of hard {0, 1}
activations, decisions with their bits, and the score (h - p) (L - b).

Four bits choose one of the sixteen sums of four weights, so a product takes a quarter of the additions of a dense one, no
multiplication, and reads 1/32 of the activation's bytes. `of_peak` is the dense product's operations by the time, as a part of
the machine's measured rate of multiply-adds: above 1 no dense float32 product can go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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


def run(config: Config, folder: Path, progress: Callable[[str], Any] = print) -> dict[str, Any]:
    """{"rows": a row per size, part and implementation}."""
    import torch

    from dither import kernels, noise
    from dither.experiments import _timing

    _timing.prepare(config.threads, config.precision, config.seed)
    rate = _timing.limits(config.threads).get("fma_gflop_s")
    rows = []
    for batch, inputs, outputs in config.sizes:
        h, w, g = torch.empty(batch, inputs).bernoulli_(), torch.randn(outputs, inputs), torch.randn(batch, outputs)
        packed, h16, w16, g16 = kernels.pack(h), h.bfloat16(), w.bfloat16(), g.bfloat16()
        a, advantage = torch.randn(batch, outputs), torch.randn(batch, 1)
        decided = kernels.pack(torch.empty(batch, outputs).bernoulli_())
        hard = kernels.unpack(decided, outputs)
        key = noise.Keyed("uniform", torch.tensor(1), 0, torch.tensor(0), (batch, outputs), a.device).key
        parts: dict[str, dict[str, Callable[[], Any]]] = {
            "forward product": {
                "dense float32": lambda h=h, w=w: h @ w.T,
                "dense bfloat16": lambda h=h16, w=w16: h @ w.T,
                "packed": lambda p=packed, w=w: kernels.packed_linear(p, w),
            },
            "gradient product": {
                "dense float32": lambda h=h, g=g: g.T @ h,
                "dense bfloat16": lambda h=h16, g=g16: g.T @ h,
                "packed": lambda p=packed, g=g, n=inputs: kernels.packed_outer(p, g, n),
            },
            "decisions": {
                "dense float32": lambda a=a: (torch.rand_like(a) < torch.sigmoid(a)).float(),
                "packed": lambda a=a, key=key: kernels.bernoulli_packed(a, key),
            },
            "score": {
                "dense float32": lambda a=a, h=hard, b=advantage: (h - torch.sigmoid(a)) * b,
                "packed": lambda a=a, p=decided, b=advantage: kernels.packed_score(p, a, b),
            },
        }
        for part, steps in parts.items():
            times = _timing.in_turn(steps, config.repeats)
            against = {"times_float32": "dense float32", "times_bfloat16": "dense bfloat16"}
            for row in _timing.rows_of(times, against, part=part, batch=batch, inputs=inputs, outputs=outputs):
                operations = 2 * batch * inputs * outputs / 1e6 / row["milliseconds"]
                rows.append(row | ({"of_peak": round(operations / rate, 2)} if rate and "product" in part else {}))
            progress(f"{batch} x {inputs} x {outputs}, {part}: {rows[-1]['times_float32']} of dense float32's time")
    return {"rows": rows}
