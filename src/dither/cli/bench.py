"""`dither bench`: what things cost."""

from __future__ import annotations

from collections.abc import Sequence

from dither.cli import catalogue

BENCHMARKS = {
    "samples": ("dither.experiments.bench_samples", "the time of K samples per step against one"),
    "overhead": ("dither.experiments.bench_overhead", "the time of a step against the same estimator written by hand"),
}


def main(arguments: Sequence[str]) -> int:
    return catalogue.main("bench", BENCHMARKS, arguments)
