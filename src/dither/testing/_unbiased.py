"""Is an estimator unbiased on a model? Its exact expectation beside the exact gradient, and the cause where they differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dither import exact
from dither.estimators.core.building import built, is_built
from dither.nodes import as_module, cost_alone
from dither.testing._causes import Biased, cause_of_bias

TOLERANCE = 1e-10


class CheckFailed(AssertionError):
    """An estimator failed a check. `check`: its name; `problem`: on which problem; `cause`: of a bias, one of CAUSES, "" where
    none was found."""

    def __init__(self, check: str, problem: str, what: str, *, cause: str = "") -> None:
        super().__init__(f"[{check}] on {problem}: {what}")
        self.check, self.problem, self.cause = check, problem, cause


def bias(estimator: Any, closure: Callable[[], Tensor], *, max_outcomes: int = exact.MAX_OUTCOMES) -> dict[str, Tensor]:
    """The exact bias of an estimator per parameter of its model: enumerated expectation minus exact gradient.

    Also exact for the learning estimator: its baselines may update during the call, as they do in training. Outcomes are taken
    one after the other if the estimator's runs are (`vectorize=False`): they may then call other nodes each.
    """
    if not is_built(estimator):
        raise TypeError(
            f"estimator is {estimator!r}: one that was built on a model is needed, whose closure this is; build it, such as "
            "dither.DisARM(net)"
        )
    how: Any = {"max_outcomes": max_outcomes, "vectorize": getattr(estimator, "vectorize", True)}
    expected = exact.gradient(estimator.model, objective(estimator, closure), **how)
    mean = exact.moments(estimator, closure, frozen=False, variance=False, **how).mean
    return {name: mean[name] - expected[name] for name in expected}


def objective(estimator: Any, closure: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The cost per example whose expectation the estimator differentiates: the closure's, or, where it is a function of several
    samples (a multi-sample bound), that function of as many independent runs of the closure."""
    closure = cost_alone(closure)
    if not getattr(estimator, "multi_sample", False):
        return closure

    def joint() -> Tensor:
        costs = [closure() for _ in range(estimator.samples)]
        return estimator.value(torch.stack([c.reshape(len(c), -1).sum(1, keepdim=True) for c in costs]))

    return joint


def assert_unbiased(
    estimator: Any,
    model: nn.Module | Sequence[nn.Module],
    closure: Callable[[], Tensor],
    *,
    tolerance: float = TOLERANCE,
    max_outcomes: int = exact.MAX_OUTCOMES,
) -> None:
    """Raise CheckFailed unless the estimator's exact expectation is the exact gradient, per parameter.

    estimator: one built on the model, or anything that builds one (`partial(ScoreFunction, samples=2)`). The model should be
    in float64 and small: all outcomes of all its samples and examples are summed, at most max_outcomes.
    tolerance: absolute, relative to the largest entry of the exact gradient where that exceeds 1.
    """
    subject = built(estimator, as_module(model), "estimator")
    vectorize = getattr(subject, "vectorize", True)
    expected = exact.gradient(subject.model, objective(subject, closure), max_outcomes=max_outcomes, vectorize=vectorize)
    tolerance = max(tolerance, accuracy(subject))
    errors = bias(subject, closure, max_outcomes=max_outcomes)
    scale = max(1.0, *(float(g.abs().max()) for g in expected.values()))
    for name, error in errors.items():
        worst = float(error.abs().max())
        if not worst <= tolerance * scale:
            at = tuple(int(i) for i in torch.unravel_index(error.abs().argmax(), error.shape))
            value, exactly = float(error[at] + expected[name][at]), float(expected[name][at])
            cause, why = cause_of_bias(Biased(subject, cost_alone(closure), objective, tolerance, max_outcomes))
            raise CheckFailed(
                "unbiased",
                "this model",
                f"{subject!r} is biased{_by_quadrature(subject)}: d/d {name}{list(at)} has expectation {value:.12g}, the exact "
                f"gradient is {exactly:.12g} (difference {worst:.3g}, tolerance {tolerance * scale:.3g}). Why: {why}",
                cause=cause,
            )


def _by_quadrature(estimator: Any) -> str:
    exactly = accuracy(estimator) <= TOLERANCE
    return (
        "" if exactly else f", by a quadrature that is good to {accuracy(estimator):g} for usual temperatures and gentle costs"
    )


def accuracy(estimator: Any) -> float:
    """Of the expectation that an oracle computes for it: 0 where it sums over outcomes."""
    return getattr(estimator, "oracle", exact.Oracle(accuracy=0.0)).accuracy
