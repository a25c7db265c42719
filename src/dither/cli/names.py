"""Strings become objects here and nowhere else in the library.

The tables are read by `--help`, so nothing heavy is imported until an entry is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

EstimatorName = Literal[
    "straight-through-identity",
    "straight-through",
    "score-function",
    "score-function-mean",
    "score-function-optimal",
    "score-function-leave-one-out",
    "deterministic",
]
ModelName = Literal["mlp"]
DataName = Literal["digits", "mnist", "fashion_mnist"]


def _straight_through(kind: Literal["identity", "sigmoid"]) -> Callable[[Any, int], Any]:
    def build(model, samples: int):
        import dither

        return dither.StraightThrough(model, kind, samples=samples)

    return build


def _score_function(baseline: str | None) -> Callable[[Any, int], Any]:
    def build(model, samples: int):
        import dither

        return dither.ScoreFunction(model, baseline=baseline, samples=samples)

    return build


def _deterministic(model, samples: int):
    import dither

    return dither.Deterministic(model)


# name -> (model, samples) -> estimator
ESTIMATORS: dict[EstimatorName, Callable[[Any, int], Any]] = {
    "straight-through-identity": _straight_through("identity"),
    "straight-through": _straight_through("sigmoid"),
    "score-function": _score_function(None),
    "score-function-mean": _score_function("mean"),
    "score-function-optimal": _score_function("optimal"),
    "score-function-leave-one-out": _score_function("leave-one-out"),
    "deterministic": _deterministic,
}


def _mlp(features: int, hidden: tuple[int, ...], classes: int, gain: float):
    from dither.models.mlp import StochasticMLP

    return StochasticMLP((features, *hidden, classes), gain=gain)


# name -> (features, hidden, classes, gain) -> model
MODELS: dict[ModelName, Callable[[int, tuple[int, ...], int, float], Any]] = {"mlp": _mlp}
