"""A training step of deep nets of hard binary units: ForwardOnly beside back-propagated straight-through in plain torch.

A step is forward and gradient, without the optimizer's update. "bf16" is under torch.autocast; packed products stay float32
there, and are faster than bfloat16 ones. `floor` is the time of two dense products for each layer at the machine's measured
rate of multiply-adds: what a forward-only step of dense float32 products cannot beat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Config:
    """The time of a step of 784-500x(D-1)-10, by every estimator and by plain torch."""

    depths: tuple[int, ...] = (3, 10, 30)
    width: int = 500
    batch_size: int = 256
    precision: str = "medium"
    """torch.set_float32_matmul_precision for all, torch's products included: the machine's best float32 setting."""
    repeats: int = 15
    threads: int = 2
    seed: int = 0


def run(config: Config, folder: Path, progress: Callable[[str], Any] = print) -> dict[str, Any]:
    """{"rows": a row per depth and implementation}: milliseconds, and times the steps of plain torch."""
    from dither.experiments import _deep, _timing

    _timing.prepare(config.threads, config.precision, config.seed)
    rate = _timing.limits(config.threads).get("fma_gflop_s")
    rows = []
    for depth in config.depths:
        net, x, y = _deep.problem(depth, config.width, config.batch_size)
        times = _timing.in_turn(_deep.steps(net, x, y), config.repeats, before=net.zero_grad)
        against = {
            "times_bernoulli": "torch, bernoulli",
            "times_rand": "torch, rand < p",
            "times_bernoulli_bf16": "torch, bernoulli, bf16",
            "times_rand_bf16": "torch, rand < p, bf16",
            "times_forward_only": "ForwardOnly",
        }
        rows += _timing.rows_of(times, against, depth=depth)
        multiply_adds = 2 * config.batch_size * sum(linear.weight.numel() for linear in net.linears)
        if rate:
            rows.append({"depth": depth, "implementation": "floor", "milliseconds": round(2 * multiply_adds / rate / 1e6, 3)})
        only = next(row for row in rows if row["depth"] == depth and row["implementation"] == "ForwardOnly")
        progress(
            f"depth {depth}: ForwardOnly takes {only['times_bernoulli']} of bernoulli's time, {only['times_rand']} of rand's"
        )
    return {"rows": rows, "curves": [{k: row.get(k) for k in ("depth", "implementation", "milliseconds")} for row in rows]}


def figures(curves: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    from dither.plots import bars

    title = "One training step of 784-500x(D-1)-10 hard binary units"
    yield "time", bars.draw(curves, x="depth", x_label="depth D (layers of weights)", title=title).figure
