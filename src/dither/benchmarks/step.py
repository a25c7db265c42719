"""A training step of deep nets of hard binary units: ForwardOnly beside straight-through in plain torch.

A step is forward and gradient, without the optimizer's update. "bf16" is under torch.autocast; packed products stay
float32 there, and are faster than bfloat16 ones. `floor` is the time of two dense products for each layer at the
machine's measured rate of multiply-adds: what a forward-only step of dense float32 products cannot beat.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dither.benchmarks import deep_nets, timing
from dither.benchmarks.deep_nets import BERNOULLI, FORWARD_ONLY, RAND
from dither.models.mlp import StochasticMLP
from dither.plots import bars
from dither.tables import NamedFigure, Progress, Result, Row

AGAINST = {
    "times_bernoulli": BERNOULLI,
    "times_rand": RAND,
    "times_bernoulli_bf16": f"{BERNOULLI}, bf16",
    "times_rand_bf16": f"{RAND}, bf16",
    "times_forward_only": FORWARD_ONLY,
}


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


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """{"rows": a row per depth and implementation}: milliseconds, and times the steps of plain torch."""
    timing.prepare(config.threads, config.precision, config.seed)
    rate = timing.multiply_add_rate(config.threads)
    rows = []
    for depth in config.depths:
        net, x, y = deep_nets.problem(depth, config.width, config.batch_size)
        times = timing.in_turn(deep_nets.steps(net, x, y), config.repeats, before=net.zero_grad)
        own = timing.rows_of(times, AGAINST, depth=depth)
        rows += own
        if rate:
            rows.append({"depth": depth, "implementation": "floor", "milliseconds": floor(net, config.batch_size, rate)})
        ours = next(row for row in own if row["implementation"] == FORWARD_ONLY)
        times_bernoulli, times_rand = ours["times_bernoulli"], ours["times_rand"]
        progress(f"depth {depth}: {FORWARD_ONLY} takes {times_bernoulli} of bernoulli's time, {times_rand} of rand's")
    return {"rows": rows, "curves": [{k: row.get(k) for k in ("depth", "implementation", "milliseconds")} for row in rows]}


def floor(net: StochasticMLP, batch_size: int, rate: float) -> float:
    """Milliseconds of two dense products for each layer, at `rate` GFLOP/s."""
    multiply_adds = 2 * batch_size * sum(p.numel() for p in net.parameters() if p.dim() == 2)
    return round(2 * multiply_adds / rate / 1e6, 3)


def figures(curves: list[Row]) -> Iterator[NamedFigure]:
    title = "One training step of 784-500x(D-1)-10 hard binary units, of D layers of weights"
    yield "time", bars.panels(curves, x="depth", panel="D = {}", title=title)
