"""How the variance of every estimator's gradient grows with the number of stochastic binary units.

The open question at the end of Bengio 2013, "Estimating or propagating gradients through stochastic neurons". What is
compared is noise to signal: the total variance of one sample of the gradient (all coordinates, one example) over
|true gradient|^2, and the squared bias over the same. Of width, one layer of n units, and of depth, layers of
`depth_width` units; the cost as one number ("global") and as one term for each group of four units ("local"), of which
dither finds which unit influences which. The problem, and why its signal is comparable over n: `problem`.

`how`: "exact" is a sum over all joint outcomes (`exact.moments`), where there are few; "measured" an average over
independent samples, with its standard error. Where both are there they must agree: `worst_z` is their maximal distance
in standard errors. Baselines and other state are learned first and then left as they are. Growth is the exponent of
noise as a power of the number of units, from `fit_from` units on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from dither import methods
from dither.experiments.variance_units.growth import Key, Point, curve, growth
from dither.experiments.variance_units.measurement import Effort, points
from dither.plots import variance_growth
from dither.tables import NamedFigure, Progress, Result, Row

METHODS = (
    "score-function",
    "score-function:mean,decay=0.9",
    "score-function:optimal,decay=0.9",
    "score-function:leave-one-out,samples=2",
    "disarm",
    "arms:samples=3",
    "muprop",
    "double-cv:decay=0.9",
    "rebar:decay=0.9",
    "local-expectation",
    "blend:prediction",
    "blend:control-variate",
    "straight-through",
    "reinmax",
    "node-perturbation",
    "spsa:scale=0.1",
)

# What stands together in a panel of the figures.
GROUPS = {
    "score function": METHODS[:4],
    "coupled samples, sums": ("disarm", "arms:samples=3", "local-expectation"),
    "control variates": ("muprop", "rebar:decay=0.9", "double-cv:decay=0.9", "blend:control-variate"),
    "biased": ("straight-through", "reinmax", "blend:prediction", "node-perturbation", "spsa:scale=0.1"),
}
AXES = {"width": ("units", "units in the layer"), "depth": ("layers", "layers of {width} units")}


@dataclass(frozen=True)
class Config:
    """How the variance of every estimator's gradient grows with the number of stochastic units."""

    methods: tuple[str, ...] = METHODS
    widths: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    """units of one layer"""
    depths: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    depth_width: int = 16
    """units of each layer, where the depth is varied"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """a problem for each"""
    draws: int = 2048
    """samples of each gradient; fewer where they exceed `work`"""
    single_draws: int = 200
    """of methods that give one sample a call"""
    work: int = 1 << 19
    """the maximal units times runs times draws of one measurement"""
    warmup: int = 16
    """calls that learn baselines, of up to 256 examples each"""
    single_warmup: int = 100
    """calls that learn a Blend, of one example each"""
    max_outcomes: int = 1 << 12
    """the maximal number of joint outcomes to sum over"""
    fit_from: int = 16
    """units, of which the growth is fitted"""
    quick: bool = False
    """a few sizes, draws and one problem"""
    threads: int = 1

    @property
    def effort(self) -> Effort:
        return Effort(**{field.name: getattr(self, field.name) for field in fields(Effort)})


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """{"rows": the growth of each method, "curves": noise and bias at every size}."""
    for method in config.methods:
        methods.parse(method)  # raises ValueError for one that is not known
    if config.quick:
        config = quick(config)
    torch.set_num_threads(config.threads)
    by_key: dict[Key, list[Point]] = defaultdict(list)
    for part, width, layers in sizes(config):
        for seed in config.seeds:
            for (credit, method, how), point in points(config.methods, config.effort, width, layers, seed):
                by_key[part, width * layers, layers, credit, method, how].append(point)
        progress(f"{part}: {width * layers} units")
    return {"rows": growth(by_key, config.fit_from), "curves": [curve(key, own) for key, own in by_key.items()]}


def quick(config: Config) -> Config:
    return replace(
        config, widths=(1, 4, 8, 16), depths=(1, 2), depth_width=8, seeds=config.seeds[:1], draws=256, single_draws=20,
        warmup=3, single_warmup=25, max_outcomes=256, fit_from=4,
    )  # fmt: skip


def sizes(config: Config) -> Iterator[tuple[str, int, int]]:
    """(part, width, layers)."""
    yield from (("width", width, 1) for width in config.widths)
    yield from (("depth", config.depth_width, layers) for layers in config.depths)


def figures(curves: list[Row]) -> Iterator[NamedFigure]:
    """(name, figure): noise against the units of one layer, and against the number of layers."""
    for part in dict.fromkeys(row["part"] for row in curves):
        rows = [row for row in curves if row["part"] == part]
        x, label = AXES[part]
        label = label.format(width=rows[0]["units"] // rows[0]["layers"])
        title = f"Variance of one sample of the gradient over its squared norm, by {part}"
        yield f"variance-{part}", variance_growth.draw(rows, GROUPS, x=x, x_label=label, title=title)
