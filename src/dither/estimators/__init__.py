"""Gradient estimators: an estimator is to gradients what an optimizer is to updates."""

from dither.estimators._deterministic import Deterministic
from dither.estimators._estimator import Estimator
from dither.estimators._exact import Exact
from dither.estimators._per_node import PerNode
from dither.estimators._score_function import ScoreFunction
from dither.estimators._site import Site
from dither.estimators._straight_through import StraightThrough

__all__ = ["Deterministic", "Estimator", "Exact", "PerNode", "ScoreFunction", "Site", "StraightThrough"]
