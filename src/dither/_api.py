"""The public names of dither, in one place."""

from dither import exact, functional, noise
from dither.estimators import Deterministic, Estimator, Exact, PerNode, ScoreFunction, StraightThrough
from dither.nodes import (
    Bernoulli,
    Categorical,
    NoisyMaxPool2d,
    NoisyReLU,
    NoisyTanh,
    StochasticPool2d,
    deterministic,
)

__all__ = [
    "Bernoulli",
    "Categorical",
    "Deterministic",
    "Estimator",
    "Exact",
    "NoisyMaxPool2d",
    "NoisyReLU",
    "NoisyTanh",
    "PerNode",
    "ScoreFunction",
    "StochasticPool2d",
    "StraightThrough",
    "deterministic",
    "exact",
    "functional",
    "noise",
]
