"""The proofs, for users too: check your own estimator as the library checks its own."""

from dither.testing._checks import (
    CheckFailed,
    assert_mean,
    assert_unbiased,
    bias,
    check_estimator,
    default_problems,
    fits,
)
from dither.testing._examples import assert_examples_separate
from dither.testing._mutants import MUTANTS
from dither.testing._nodes import check_node
from dither.testing._zoo import Problem, random_problem, rectifier_problem, zoo

__all__ = [
    "MUTANTS",
    "CheckFailed",
    "Problem",
    "assert_examples_separate",
    "assert_mean",
    "assert_unbiased",
    "bias",
    "check_estimator",
    "check_node",
    "default_problems",
    "fits",
    "random_problem",
    "rectifier_problem",
    "zoo",
]
