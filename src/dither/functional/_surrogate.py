"""Surrogates: scalars or tensors whose gradient is the estimate. The value of a surrogate means nothing."""

from __future__ import annotations

from torch import Tensor


def score_function_surrogate(cost: Tensor, log_prob: Tensor, baseline: Tensor | float) -> Tensor:
    """(cost - baseline) log P(h), cost and baseline held constant: its gradient with respect to a logit of a binary unit
    is (h - sigmoid(a)) (L - b) (Bengio 2013, Theorem 1 and Corollary 1). Shapes broadcast."""
    return (cost - baseline).detach() * log_prob
