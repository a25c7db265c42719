"""The terms of a cost that the closure has summed itself: what it returned is a sum, so what it summed are its terms."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dither.estimators.core.site import Closure

_SUMS = {torch.sum: 1, Tensor.sum: 1, torch.mean: 0, Tensor.mean: 0}


def with_terms(closure: Closure) -> Tensor:
    """The closure's cost, (batch,), or, where it is the plain sum or mean over all but the batch of a tensor, its terms,
    (batch, terms)."""
    with _Watch() as watch:
        cost = closure()
    return watch.terms_of(cost)


class _Watch(TorchFunctionMode):
    """Remembers the last sum."""

    def __init__(self) -> None:
        super().__init__()
        self.last: tuple[Tensor, Tensor, bool] | None = None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in _SUMS and isinstance(result, Tensor) and isinstance(args[0], Tensor):
            self.last = (result, args[0], not _SUMS[func])
        return result

    def terms_of(self, cost: Tensor) -> Tensor:
        if self.last is None or cost is not self.last[0] or cost.dim() != 1:
            return cost
        _, summed, mean = self.last
        if summed.dim() < 2 or summed.shape[0] != cost.shape[0] or summed.is_complex() or not summed.is_floating_point():
            return cost
        terms = summed.flatten(1)
        return terms / terms.shape[1] if mean else terms
