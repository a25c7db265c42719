"""Gradient estimators: an estimator is to gradients what an optimizer is to updates."""

from dither.estimators._arm import ARM
from dither.estimators._arms import ARMS
from dither.estimators._blend import Blend
from dither.estimators._carms import CARMS
from dither.estimators._deterministic import Deterministic
from dither.estimators._disarm import DisARM
from dither.estimators._double_cv import DoubleCV
from dither.estimators._episodes import Episodes
from dither.estimators._estimator import Estimator
from dither.estimators._exact import Exact
from dither.estimators._forward_only import ForwardOnly
from dither.estimators._gumbel_rao import GumbelRao
from dither.estimators._gumbel_softmax import GumbelSoftmax
from dither.estimators._local_expectation import LocalExpectation
from dither.estimators._muprop import MuProp
from dither.estimators._node_perturbation import NodePerturbation
from dither.estimators._nvil import NVIL
from dither.estimators._path_sample_analytic import PathSampleAnalytic
from dither.estimators._per_node import PerNode
from dither.estimators._perturbation import FiniteDifference
from dither.estimators._rebar import REBAR
from dither.estimators._reinmax import MVE, ReinMax
from dither.estimators._relax import RELAX
from dither.estimators._rodeo import RODEO
from dither.estimators._score_function import ScoreFunction
from dither.estimators._site import Site
from dither.estimators._spsa import SPSA
from dither.estimators._straight_through import StraightThrough
from dither.estimators._sum_and_sample import SumAndSample
from dither.estimators._unordered_set import UnorderedSet
from dither.estimators._vimco import VIMCO

__all__ = [
    "ARM",
    "ARMS",
    "CARMS",
    "MVE",
    "NVIL",
    "REBAR",
    "RELAX",
    "RODEO",
    "SPSA",
    "VIMCO",
    "Blend",
    "Deterministic",
    "DisARM",
    "DoubleCV",
    "Episodes",
    "Estimator",
    "Exact",
    "FiniteDifference",
    "ForwardOnly",
    "GumbelRao",
    "GumbelSoftmax",
    "LocalExpectation",
    "MuProp",
    "NodePerturbation",
    "PathSampleAnalytic",
    "PerNode",
    "ReinMax",
    "ScoreFunction",
    "Site",
    "StraightThrough",
    "SumAndSample",
    "UnorderedSet",
]
