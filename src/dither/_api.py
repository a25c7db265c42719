"""The public names of dither, in one place."""

from dither import exact, functional, noise, testing
from dither.auditing import AuditReport, audit
from dither.estimators import (
    SPSA,
    Deterministic,
    DisARM,
    Episodes,
    Estimator,
    Exact,
    FiniteDifference,
    NodePerturbation,
    PerNode,
    ScoreFunction,
    StraightThrough,
)
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
    "SPSA",
    "AuditReport",
    "Bernoulli",
    "Categorical",
    "Deterministic",
    "DisARM",
    "Episodes",
    "Estimator",
    "Exact",
    "FiniteDifference",
    "FiringRate",
    "NodePerturbation",
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
