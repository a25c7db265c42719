"""The theorems of generalized denoising auto-encoders where all of it can be computed: no network, no sampling error.

In spaces of ten to 256 states the denoiser is a table of counts, the chain a matrix and its distribution the solution
of linear equations. Five parts: counting from n pairs (Theorem 1), walkback (Proposition 1, Algorithm 2), clamped
chains (GSN paper, Proposition 1), energies (Sec. 2.4), and data near a curve in R^10 with a kernel density as denoiser
(Fig. 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dither.experiments.gdae_consistency import clamped, counts, curve, energies
from dither.experiments.gdae_consistency.spaces import Space, space
from dither.plots import bars, power_law, scatter_pairs
from dither.tables import NamedFigure, Progress, Result, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure


@dataclass(frozen=True)
class Config:
    """Consistency of denoising auto-encoders, exactly: counts, walkback, clamped chains, energies, a curve in R^10."""

    spaces: tuple[str, ...] = ("ten", "ten-local", "binary-5", "binary-8")
    sizes: tuple[int, ...] = (100, 316, 1000, 3162, 10_000, 31_623, 100_000, 316_228, 1_000_000)
    """numbers of training examples"""
    fit_from: int = 10_000
    """examples, from which on slopes are fitted"""
    seeds: tuple[int, ...] = tuple(range(12))
    rounds: int = 12
    """of walkback: walks, then a new table"""
    walk_states: int = 32
    """the maximal number of states for which walks are made"""
    clamped_sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    recovered: int = 5000
    """examples, and samples, of the histogram"""
    examples: int = 5000
    """of the curve, to train and again to hold out"""
    choosing: int = 400
    """held-out pairs that choose the kernel density's widths"""
    chains: int = 500
    burn_in: int = 100
    points: tuple[int, ...] = (100, 400)
    """of loops around the curve, for energies"""
    threads: int = 1

    def is_small(self, place: Space) -> bool:
        return len(place.data) <= self.walk_states


PAIRS = (("x1", "x2"), ("x3", "x4"), ("x5", "x6"))
Part = tuple[list[Row], list[Row]]  # rows of the table, rows of figures


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """{"rows": measured values beside expected ones, "curves": KL against n, a histogram, points in R^10}."""
    if config.rounds < counts.POOLED:
        raise ValueError(f"rounds is {config.rounds}: the walks of the last {counts.POOLED} are counted together, give more")
    torch.set_num_threads(config.threads)
    places = [space(name) for name in config.spaces]
    parts = [part(config, places, progress) for part in (_counts, _clamped, _energies, _curve)]
    return {"rows": [row for rows, _ in parts for row in rows], "curves": [row for _, curves in parts for row in curves]}


def _counts(config: Config, places: list[Space], progress: Progress) -> Part:
    table, walks, curves = list[Row](), list[Row](), list[Row]()
    for place in places:
        points = counts.curves(place, config.sizes, config.seeds, config.rounds, config.is_small(place))
        table += counts.rows(place, points, config.fit_from)
        walks += counts.walkback(place)
        curves += [{"figure": "kl"} | {k: v for k, v in point.items() if k != "kls"} for point in points]
        progress(f"counts: {place.name}")
    return table + walks, curves + counts.recovered(config.recovered)


def _clamped(config: Config, places: list[Space], progress: Progress) -> Part:
    rows = list(clamped.example())
    for place in places:
        if place.name.startswith("binary") and config.is_small(place):
            rows += clamped.exactly(place)
            for n in config.clamped_sizes:
                rows += clamped.learned(place, n, config.seeds)
            progress(f"clamped chains: {place.name}")
    return rows, []


def _energies(config: Config, places: list[Space], progress: Progress) -> Part:
    rows = [energies.exactly(places)]
    for place in places:
        if place.name.startswith("ten"):
            rows += energies.along_the_ring(place, [n for n in config.sizes if n >= config.fit_from], config.seeds)
        elif config.is_small(place):
            rows += energies.by_distance(place, max(config.sizes), config.seeds)
    progress("energies")
    return rows, []


def _curve(config: Config, places: list[Space], progress: Progress) -> Part:
    study = curve.study(config.examples, config.choosing, seed=0)
    progress("curve in R^10: the kernel density's widths are chosen")
    starts = {"from the data": study.train[: config.chains], "from one point": study.train[:1].expand(config.chains, -1)}
    samples = {name: curve.generate(study, x, config.examples, config.burn_in, seed=0) for name, x in starts.items()}
    progress("curve in R^10: sampled")
    sets = {"training": study.train, "held out": study.held_out} | {f"chain {name}": x for name, x in samples.items()}
    rows = [*curve.widths(study), *(row for name, x in sets.items() for row in curve.evaluate(study, name, x))]
    rows += curve.energies(study, config.points)
    return rows, curve.shown("training", study.train) + curve.shown("generated", samples["from the data"])


# --- figures ----------------------------------------------------------------------------------------------------------
def figures(curves: list[Row]) -> Iterator[NamedFigure]:
    """(name, figure): KL against n, the histogram of ten values, pairs of units of the curve."""
    by_figure = {name: [row for row in curves if row["figure"] == name] for name in ("kl", "recovered", "r10")}
    if any(row["kl"] for row in by_figure["kl"]):
        yield "kl", _kl(by_figure["kl"])
    if by_figure["recovered"]:
        yield "recovered", _recovered(by_figure["recovered"])
    if by_figure["r10"]:
        yield "r10", scatter_pairs.draw(by_figure["r10"], pairs=PAIRS, title="A curve in R¹⁰: pairs of units")


def _kl(rows: list[Row]) -> Figure:
    return power_law.draw(
        rows,
        reference="empirical",
        x_label="training examples n",
        y_label="KL(data ‖ chain), nats",
        title="How far the distribution of the chain is from the data's",
    )


def _recovered(rows: list[Row]) -> Figure | SubFigure:
    title = "Ten values: the distribution, and its estimates from examples"
    return bars.draw(rows, x="value", y="probability", group="distribution", title=title).figure
