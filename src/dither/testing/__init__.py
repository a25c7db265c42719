"""The proofs, for users too: check your own estimator as the library checks its own."""

from dither.testing._causes import CAUSES
from dither.testing._checks import check_estimator, default_problems, fits
from dither.testing._credit import check_credit
from dither.testing._examples import assert_examples_separate
from dither.testing._means import assert_mean
from dither.testing._mutants import MUTANTS
from dither.testing._nodes import check_node
from dither.testing._position_mutants import POSITION_MUTANTS
from dither.testing._positions import POSITIONS, REFUSALS, check_positions
from dither.testing._tiny import Tiny
from dither.testing._unbiased import CheckFailed, assert_unbiased, bias
from dither.testing._zoo import Problem, random_problem, rectifier_problem, zoo

__all__ = [
    "CAUSES",
    "MUTANTS",
    "POSITIONS",
    "POSITION_MUTANTS",
    "REFUSALS",
    "CheckFailed",
    "Problem",
    "Tiny",
    "assert_examples_separate",
    "assert_mean",
    "assert_unbiased",
    "bias",
    "check_credit",
    "check_estimator",
    "check_node",
    "check_positions",
    "default_problems",
    "fits",
    "random_problem",
    "rectifier_problem",
    "zoo",
]
