"""Scalars with a given gradient with respect to a node's logits: what most surrogates are."""

from __future__ import annotations

import math

from torch import Tensor

from dither.functional import widen, without_infinities
from dither.nodes import is_concrete


def along(logits: Tensor, estimate: Tensor, batch: int) -> Tensor:
    """A scalar whose gradient with respect to the logits is `estimate` / batch, and 0 where a logit is infinite."""
    estimate, logits = estimate.detach(), widen(logits)
    total = None
    if logits.is_cpu and is_concrete(logits) and is_concrete(estimate):
        total = (estimate * logits).sum()
    if total is None or not math.isfinite(total.item()):  # which is cheaper than to look for infinities in all logits
        total = (estimate * without_infinities(logits)).sum()
    return total / batch if batch > 1 else total
