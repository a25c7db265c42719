"""The checkers checked: every mutant is caught, by the check that its entry names."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import dither
from dither import testing

# Of the biased ones: why, and what the message says of it.
WHY = {
    "scaled by 1.001": ("multiple", "1.001 times the exact gradient at every node"),
    "wrong sign": ("multiple", "-1 times .* the sign"),
    "missing centring": ("uncentred", "a constant added to the costs"),
    "sigmoid' factor": ("uncentred", "must have mean zero"),
    "lost pathwise term": ("direct", r"right with respect to the logits of every node, and wrong for readout \(0 times"),
    "only the last layer": ("node", "0 times the exact gradient at node 'nodes.0': nothing is credited"),
    "dropped unit": ("multiple", "nothing is credited"),
    "counted twice": ("node", "2 times the exact gradient at node 'nodes.0': counted twice"),
    "summed over the batch": ("multiple", "summed over the batch of 2"),
    "summed over samples": ("multiple", "summed over the 2 samples"),
    "leak across examples": ("multiple", "another example's"),
    "leak across samples": ("multiple", "another run's"),
    "credit to the own term only": ("unit", r"0 times the exact gradient at node 'nodes.0', logit \[1\]"),
    "half-precision cost": ("nonlinear", "rounded"),
    "baseline of the batch": ("multiple", "0.5 times .* contains the sample's own cost, as one of 2"),
    "baseline folds in the current cost": ("state", "even while it is frozen"),
    "baseline learns before it is used": ("state", "frozen it is unbiased"),
    "leave-one-out leaves nobody out": ("multiple", "contains the sample's own cost"),
    "baseline looks at the sample": ("offset", "subtracted from them depends on the sample"),
    "wrong temperature": ("uncentred", "under the very probabilities"),
    "credits another sample": ("uncentred", "mean zero"),
    "claims to be unbiased": ("multiple", "0 times"),
}


@pytest.mark.parametrize("mutant", testing.MUTANTS)
def test_a_mutant_is_caught_by_name(mutant: str) -> None:
    build, check = testing.MUTANTS[mutant]
    with pytest.raises(testing.CheckFailed) as caught:
        testing.check_estimator(build)
    assert caught.value.check == check
    cause, words = WHY.get(mutant, ("", ""))
    assert caught.value.cause == cause and re.search(words, str(caught.value))
    assert (check == "unbiased") == bool(cause)


class OnlyTheTerm(dither.ScoreFunction):
    """Credits every unit with the first term, where there are terms."""

    def surrogate(self, site, costs):
        return super().surrogate(site, costs * (torch.arange(costs.shape[-1]) == 0))


def test_of_several_units_the_wrong_ones_are_named() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 2), dither.Bernoulli()).double()
    x, weight = torch.randn(2, 2, dtype=torch.float64), torch.tensor([1.0, 0.6], dtype=torch.float64)

    def why(build, terms: bool) -> testing.CheckFailed:
        def cost() -> torch.Tensor:
            h = net(x)
            both = torch.stack((torch.sin(2 * h @ weight), (h @ weight - 0.4) ** 3), 1)
            return both if terms else both.sum(1)

        with pytest.raises(testing.CheckFailed) as caught:
            testing.assert_unbiased(build, net, cost)
        return caught.value

    dropped = why(testing.MUTANTS["dropped unit"][0], False)
    assert dropped.cause == "unit" and "0 times the exact gradient at node '1', logit [0]: nothing" in str(dropped)
    assert "logit [1]" not in str(dropped)
    assert why(OnlyTheTerm, True).cause == "terms"
    biased = why(lambda model: dither.StraightThrough(model), False)
    assert biased.cause == "" and "estimators that propagate" in str(biased)
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias"], "what was added for the search is gone"
    assert not any(module._forward_pre_hooks for module in net)


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
