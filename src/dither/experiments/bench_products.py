"""Products with packed bits beside dense ones: forward x W^T and the weight's gradient g^T x, for hard {0, 1} activations.

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
    """Packed products against dense float32 and bfloat16 ones."""

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
    """{"rows": a row per size, product and implementation}."""
    import torch

    from dither import kernels
    from dither.experiments import _timing

    _timing.prepare(config.threads, config.precision, config.seed)
    rate = _timing.limits(config.threads).get("fma_gflop_s")
    rows = []
    for batch, inputs, outputs in config.sizes:
        h, w, g = torch.empty(batch, inputs).bernoulli_(), torch.randn(outputs, inputs), torch.randn(batch, outputs)
        packed, h16, w16, g16 = kernels.pack(h), h.bfloat16(), w.bfloat16(), g.bfloat16()
        products: dict[str, dict[str, Callable[[], Any]]] = {
            "forward": {
                "dense float32": lambda h=h, w=w: h @ w.T,
                "dense bfloat16": lambda h=h16, w=w16: h @ w.T,
                "packed": lambda p=packed, w=w: kernels.packed_linear(p, w),
            },
            "gradient": {
                "dense float32": lambda h=h, g=g: g.T @ h,
                "dense bfloat16": lambda h=h16, g=g16: g.T @ h,
                "packed": lambda p=packed, g=g, n=inputs: kernels.packed_outer(p, g, n),
            },
        }
        for product, steps in products.items():
            times = _timing.in_turn(steps, config.repeats)
            against = {"times_float32": "dense float32", "times_bfloat16": "dense bfloat16"}
            for row in _timing.rows_of(times, against, product=product, batch=batch, inputs=inputs, outputs=outputs):
                operations = 2 * batch * inputs * outputs / 1e6 / row["milliseconds"]
                rows.append(row | ({"of_peak": round(operations / rate, 2)} if rate else {}))
        progress(
            f"{batch} x {inputs} x {outputs}: {rows[-4]['times_float32']} "
            f"and {rows[-1]['times_float32']} of dense float32's time"
        )
    return {"rows": rows}
