"""The checkers checked: every mutant is caught, by the check that its entry names."""

from __future__ import annotations

import pytest
import torch

from dither import testing


@pytest.mark.parametrize("mutant", testing.MUTANTS)
def test_a_mutant_is_caught_by_name(mutant: str) -> None:
    build, check = testing.MUTANTS[mutant]
    with pytest.raises(testing.CheckFailed) as caught:
        testing.check_estimator(build)
    assert caught.value.check == check


def test_there_are_enough_mutants() -> None:
    assert len(testing.MUTANTS) >= 25


def test_mean_test_accepts_the_truth_and_sees_a_bias() -> None:
    generator = torch.Generator().manual_seed(5)
    values = torch.randn(10_000, 50, generator=generator)
    testing.assert_mean(values, 0.0)
    with pytest.raises(AssertionError, match="standard errors"):
        testing.assert_mean(values, 0.12)
    with pytest.raises(ValueError, match="30 or more"):
        testing.assert_mean(values[:10], 0.0)


def test_mean_test_of_constant_draws() -> None:
    testing.assert_mean(torch.full((40,), 2.0), 2.0)
    with pytest.raises(AssertionError):
        testing.assert_mean(torch.full((40,), 2.0), 2.1)


def test_no_problem_small_enough_is_an_error() -> None:
    with pytest.raises(ValueError, match="smaller"):
        testing.check_estimator(
            lambda m: __import__("dither").ScoreFunction(m, samples=3), problems=testing.zoo(3, max_bits=8.0), max_bits=0.5
        )
