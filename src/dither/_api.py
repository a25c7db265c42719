"""The public names of dither, in one place."""

from dither import exact, functional, noise, testing
from dither.auditing import AuditReport, audit
from dither.estimators import Deterministic, Estimator, Exact, PerNode, ScoreFunction, StraightThrough
from dither.homeostasis import FiringRate
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
    "AuditReport",
    "Bernoulli",
    "Categorical",
    "Deterministic",
    "Estimator",
    "Exact",
    "FiringRate",
    "NoisyMaxPool2d",
    "NoisyReLU",
    "NoisyTanh",
    "PerNode",
    "ScoreFunction",
    "StochasticPool2d",
    "StraightThrough",
    "audit",
    "deterministic",
    "exact",
    "functional",
    "noise",
    "testing",
]
