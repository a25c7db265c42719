"""The theorems of generalized denoising auto-encoders where all of it can be computed: no network, no sampling error.

In spaces of ten to 256 states the denoiser is a table of counts, the chain a matrix and its distribution the solution of
linear equations. Five parts: counting from n pairs (Theorem 1), walkback (Proposition 1, Algorithm 2), clamped chains (GSN
paper, Proposition 1), energies (Sec. 2.4), and data near a curve in R^10 with a kernel denoiser (Fig. 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
    """the most states for which walks are made"""
    clamped_sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    recovered: int = 5000
    """examples, and samples, of the histogram"""
    examples: int = 5000
    """of the curve, to train and again to hold out"""
    choosing: int = 400
    """held-out pairs that choose the kernel's widths"""
    chains: int = 500
    burn_in: int = 100
    points: tuple[int, ...] = (100, 400)
    """of loops around the curve, for energies"""
    threads: int = 1


PAIRS = (("x1", "x2"), ("x3", "x4"), ("x5", "x6"))
LEAST_WALKS = 4


def run(config: Config, folder: Path, progress: Callable[[str], Any] = print) -> dict[str, Any]:
    """{"rows": what was found beside what is expected, "curves": KL against n, a histogram, points in R^10}."""
    import torch

    from dither.experiments import _gdae_spaces as spaces

    if config.rounds < LEAST_WALKS:
        raise ValueError(f"rounds is {config.rounds}: the walks of the last {LEAST_WALKS} are counted together, give more")
    torch.set_num_threads(config.threads)
    places = [spaces.space(name) for name in config.spaces]
    rows, curves = [], []
    for part in (_counts, _clamped, _energies, _curve):
        found, drawn = part(config, places, progress)
        rows += found
        curves += drawn
    return {"rows": rows, "curves": curves}


def figures(curves: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    """(name, figure): KL against n, the histogram of ten values, pairs of units of the curve."""
    from dither.plots import bars, power_law, scatter_pairs

    by_figure = {name: [row for row in curves if row["figure"] == name] for name in ("kl", "recovered", "r10")}
    if any(row["kl"] for row in by_figure["kl"]):
        yield (
            "kl",
            power_law.draw(
                by_figure["kl"],
                reference="empirical",
                x_label="training examples n",
                y_label="KL(data ‖ chain), nats",
                title="How far the distribution of the chain is from the data's",
            ),
        )
    if by_figure["recovered"]:
        title = "Ten values: the distribution, and what is found from examples of it"
        ax = bars.draw(
            by_figure["recovered"], x="value", y="probability", group="distribution", y_label="probability", title=title
        )
        ax.set_yscale("linear")
        ax.set_ylim(0, None)
        for text in list(ax.texts):  # four numbers above every value would cover each other
            text.remove()
        yield "recovered", ax.figure
    if by_figure["r10"]:
        yield "r10", scatter_pairs.draw(by_figure["r10"], pairs=PAIRS, title="A curve in R¹⁰: pairs of units")


Found = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def _counts(config: Config, places: list[Any], progress: Callable[[str], Any]) -> Found:
    from dither.experiments import _gdae_counts as counts

    table, walks, drawn = [], [], []
    for place in places:
        small = len(place.data) <= config.walk_states
        points = counts.curves(place, config.sizes, config.seeds, config.rounds, small)
        table += counts.rows(place, points, config.fit_from)
        walks += counts.walkback(place)
        drawn += [{"figure": "kl"} | {k: v for k, v in point.items() if k != "kls"} for point in points]
        progress(f"counts: {place.name}")
    return table + walks, drawn + counts.recovered(config.recovered)


def _clamped(config: Config, places: list[Any], progress: Callable[[str], Any]) -> Found:
    from dither.experiments import _gdae_clamped as clamped

    rows = list(clamped.example())
    for place in places:
        if place.name.startswith("binary") and len(place.data) <= config.walk_states:
            rows += clamped.exactly(place)
            for n in config.clamped_sizes:
                rows += clamped.learned(place, n, config.seeds)
            progress(f"clamped chains: {place.name}")
    return rows, []


def _energies(config: Config, places: list[Any], progress: Callable[[str], Any]) -> Found:
    from dither.experiments import _gdae_energies as energies

    rows = [energies.exactly(places)]
    for place in places:
        if place.name.startswith("ten"):
            rows += energies.along_the_ring(place, [n for n in config.sizes if n >= config.fit_from], config.seeds)
        elif len(place.data) <= config.walk_states:
            rows += energies.by_distance(place, max(config.sizes), config.seeds)
    progress("energies")
    return rows, []


def _curve(config: Config, places: list[Any], progress: Callable[[str], Any]) -> Found:
    from dither.experiments import _gdae_curve as curve

    made = curve.study(config.examples, config.choosing, seed=0)
    progress("curve in R^10: the kernel's widths are chosen")
    starts = {"from the data": made.train[: config.chains], "from one point": made.train[:1].expand(config.chains, -1)}
    generated = {name: curve.generate(made, x, config.examples, config.burn_in, seed=0) for name, x in starts.items()}
    progress("curve in R^10: generated")
    sets = {"training": made.train, "held out": made.held_out} | {f"chain {name}": x for name, x in generated.items()}
    rows = [*curve.chosen(made), *(row for name, x in sets.items() for row in curve.judged(made, name, x))]
    rows += curve.energies(made, config.points)
    return rows, curve.shown("training", made.train) + curve.shown("generated", generated["from the data"])
