"""`testing.bias` of every estimator: the exact bias, or an error of the library's own that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from torch import nn

import dither
from dither import exact, methods, testing
from dither.estimators.perturbation.perturbing import Perturbing

NODES = {"binary": (1, dither.Bernoulli), "one-hot": (2, dither.Categorical)}


def problem(node: str) -> tuple[nn.Module, Callable[[], torch.Tensor]]:
    torch.manual_seed(0)
    units, kind = NODES[node]
    net, x = nn.Sequential(nn.Linear(1, units), kind(), nn.Linear(units, 1)).double(), torch.ones(1, 1, dtype=torch.float64)
    return net, lambda: torch.sin(2 * net(x)).sum(1)


def built(method: str) -> tuple[dither.Estimator, Callable[[], torch.Tensor]]:
    """The estimator on a net of the first node that it takes."""
    for node in NODES:
        net, closure = problem(node)
        with suppress(TypeError):
            return methods.build(method, net, samples=1), closure
    raise AssertionError(f"{method} takes no node of these")


@pytest.mark.parametrize("method", methods.every())
def test_the_bias_of_every_estimator_is_exact_or_refused(method: str) -> None:
    estimator, closure = built(method)
    refused = isinstance(estimator, Perturbing) or "dirichlet" in method
    for ask in (exact.outcomes, testing.bias):
        try:
            answer = ask(estimator, closure)
        except exact.CannotEnumerate as error:
            assert refused and "dither.audit(" in str(error)
            continue
        assert not refused
        if ask is testing.bias and estimator.unbiased:
            assert max(float(error.abs().max()) for error in answer.values()) < 1e-6
