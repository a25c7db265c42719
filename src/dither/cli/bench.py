"""`dither bench`: what things cost."""

from __future__ import annotations

from collections.abc import Sequence

from dither.cli import catalogue

BENCHMARKS = {
    "sampling": ("dither.benchmarks.sampling", "hard bits and noise in units per nanosecond, against torch"),
    "layer": ("dither.benchmarks.layer", "a layer of hard units against its product, and against a layer of sigmoids"),
    "forward-only": ("dither.benchmarks.forward_only", "the parts of a forward-only layer, on packed bits and dense"),
    "step": ("dither.benchmarks.step", "a training step of deep nets, forward-only and back-propagated"),
    "memory": ("dither.benchmarks.memory", "what a training step keeps and allocates"),
    "gsn": ("dither.benchmarks.gsn", "an epoch of training a generative stochastic network against its matrix products"),
    "samples": ("dither.benchmarks.samples", "the time of K samples per step against one"),
    "node": ("dither.benchmarks.node", "the overhead on one small node"),
    "positions": (
        "dither.benchmarks.positions",
        "in which positions of a program unbiased estimators are right, or refused",
    ),
    "credit": ("dither.benchmarks.credit", "the time of a step whose credit is followed against one declared static"),
    "overhead": ("dither.benchmarks.overhead", "the time of a step against the same estimator written by hand"),
}


def main(arguments: Sequence[str]) -> int:
    return catalogue.main("bench", BENCHMARKS, arguments)
