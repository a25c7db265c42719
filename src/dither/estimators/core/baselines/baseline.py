"""Baselines of the score function: what is subtracted from the cost. All are out-of-sample: none sees the cost that it is
subtracted from, so none biases the gradient (an in-sample mean would make a one-example gradient exactly 0)."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from dither.estimators.core.shapes import divided
from dither.estimators.core.site import Site
from dither.functional import score_function_surrogate


class Baseline(nn.Module, ABC):
    """credit (K, batch, *units or ones) -> what to subtract from it, broadcastable to it.

    A module: the parameters of one that learns are listed, moved and saved with the estimator's. What it learns besides is a
    `NodeState`, itself or a part of it.
    """

    minimum_samples = 1

    @abstractmethod
    def value(self, site: Site, credit: Tensor) -> Tensor | float:
        """The baseline of each credit; computed before `update` has seen it."""

    def update(self, site: Site, credit: Tensor, value: Tensor | float) -> None:
        """Learn from this call, in which it was `value`, for the next ones."""
        return None

    def loss(self, site: Site, credit: Tensor, value: Tensor | float) -> Tensor | None:
        """A scalar to minimise by the user's optimizer, for baselines with parameters."""
        return None


class Zero(Baseline):
    def value(self, site: Site, credit: Tensor) -> float:
        return 0.0


class LeaveOneOut(Baseline):
    """The mean cost of the same example's other K - 1 samples (Kool et al. 2019; Salimans & Knowles 2014)."""

    minimum_samples = 2

    def value(self, site: Site, credit: Tensor) -> Tensor:
        return divided(credit.sum(0, keepdim=True) - credit, credit.shape[0] - 1)


def score_alone(site: Site, costs: Tensor) -> Tensor:
    """A scalar whose gradient is (L - b) d log P(sample), the mean over runs and examples; b the mean cost of the other runs,
    or 0. For estimators whose control variate takes runs of another kind than the net's own."""
    credit = site.over_units(costs.sum(-1))
    baseline = LeaveOneOut().value(site, credit) if len(credit) > 1 else 0.0
    return score_function_surrogate(credit, site.log_prob, baseline).sum() / max(credit.shape[:2].numel(), 1)
