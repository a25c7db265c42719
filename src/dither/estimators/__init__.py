"""Gradient estimators: an estimator is to gradients what an optimizer is to updates."""

from dither.estimators._deterministic import Deterministic
from dither.estimators._disarm import DisARM
from dither.estimators._episodes import Episodes
from dither.estimators._estimator import Estimator
from dither.estimators._exact import Exact
from dither.estimators._gumbel_rao import GumbelRao
from dither.estimators._gumbel_softmax import GumbelSoftmax
from dither.estimators._mixture import Mixture
from dither.estimators._muprop import MuProp
from dither.estimators._node_perturbation import NodePerturbation
from dither.estimators._per_node import PerNode
from dither.estimators._perturbation import FiniteDifference
from dither.estimators._reinmax import MVE, ReinMax
from dither.estimators._score_function import ScoreFunction
from dither.estimators._site import Site
from dither.estimators._spsa import SPSA
from dither.estimators._straight_through import StraightThrough

__all__ = [
    "MVE",
    "SPSA",
    "Deterministic",
    "DisARM",
    "Episodes",
    "Estimator",
    "Exact",
    "FiniteDifference",
    "GumbelRao",
    "GumbelSoftmax",
    "Mixture",
    "MuProp",
    "NodePerturbation",
    "PerNode",
    "ReinMax",
    "ScoreFunction",
    "Site",
    "StraightThrough",
]
