"""Gradient estimators: an estimator is to gradients what an optimizer is to updates.

To add one, write a file in its family's folder and import its class here: `dither.NAME`, the conformance suite and the command
line take it from this list.
"""

from dither.estimators._deterministic import Deterministic as Deterministic
from dither.estimators._exact import Exact as Exact
from dither.estimators._per_node import PerNode as PerNode
from dither.estimators.antithetic._arm import ARM as ARM
from dither.estimators.antithetic._arms import ARMS as ARMS
from dither.estimators.antithetic._carms import CARMS as CARMS
from dither.estimators.antithetic._disarm import DisARM as DisARM
from dither.estimators.blend._blend import Blend as Blend
from dither.estimators.control_variates._double_cv import DoubleCV as DoubleCV
from dither.estimators.control_variates._rebar import REBAR as REBAR
from dither.estimators.control_variates._relax import RELAX as RELAX
from dither.estimators.control_variates._rodeo import RODEO as RODEO
from dither.estimators.core import Call as Call
from dither.estimators.core import Estimator as Estimator
from dither.estimators.core import Site as Site
from dither.estimators.episodes._episodes import Episodes as Episodes
from dither.estimators.forward_only._forward_only import ForwardOnly as ForwardOnly
from dither.estimators.perturbation._finite_difference import FiniteDifference as FiniteDifference
from dither.estimators.perturbation._node_perturbation import NodePerturbation as NodePerturbation
from dither.estimators.perturbation._spsa import SPSA as SPSA
from dither.estimators.propagating._gumbel_rao import GumbelRao as GumbelRao
from dither.estimators.propagating._gumbel_softmax import GumbelSoftmax as GumbelSoftmax
from dither.estimators.propagating._mve import MVE as MVE
from dither.estimators.propagating._path_sample_analytic import PathSampleAnalytic as PathSampleAnalytic
from dither.estimators.propagating._reinmax import ReinMax as ReinMax
from dither.estimators.propagating._straight_through import StraightThrough as StraightThrough
from dither.estimators.score._local_expectation import LocalExpectation as LocalExpectation
from dither.estimators.score._muprop import MuProp as MuProp
from dither.estimators.score._nvil import NVIL as NVIL
from dither.estimators.score._score_function import ScoreFunction as ScoreFunction
from dither.estimators.score._sum_and_sample import SumAndSample as SumAndSample
from dither.estimators.score._unordered_set import UnorderedSet as UnorderedSet
from dither.estimators.score._vimco import VIMCO as VIMCO
