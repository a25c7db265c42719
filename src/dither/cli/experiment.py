"""`dither experiment`: the tables and figures of the papers, made again."""

from __future__ import annotations

from collections.abc import Sequence

from dither.cli import catalogue

EXPERIMENTS = {
    "first-demo": (
        "dither.experiments.first_demo",
        "MNIST 784-100(binary)-10 by every estimator, at equal epochs and equal time",
    ),
}


def main(arguments: Sequence[str]) -> int:
    return catalogue.main("experiment", EXPERIMENTS, arguments)
