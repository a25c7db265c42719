"""The terms of a cost that the closure has summed itself: what it returned is a sum, so what it summed are its terms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dither.estimators.core.site import Closure
from dither.estimators.core.versions import version

_SUMS = {torch.sum: 1, Tensor.sum: 1, torch.mean: 0, Tensor.mean: 0}


def with_terms(closure: Closure) -> Tensor:
    """The closure's cost, (batch,), or, where it is the plain sum or mean over all but the batch of a tensor, its terms,
    (batch, terms)."""
    with _Watch() as watch:
        cost = closure()
    return watch.terms_of(cost)


class _Watch(TorchFunctionMode):
    """Remembers the last sum over all dimensions but the first, and how often what it read and gave had been changed."""

    def __init__(self) -> None:
        super().__init__()
        self.last: tuple[Tensor, Tensor, bool, tuple[int, int]] | None = None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in _SUMS and isinstance(result, Tensor) and isinstance(args[0], Tensor):
            summed = args[0]
            with torch._C.DisableTorchFunction():  # what is looked up here is no part of the closure
                own = _over_all_but_the_first(summed, args[1:], kwargs or {})
                self.last = (result, summed, not _SUMS[func], _versions(result, summed)) if own else None
        return result

    def terms_of(self, cost: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            return self._terms_of(cost)

    def _terms_of(self, cost: Tensor) -> Tensor:
        if self.last is None or cost is not self.last[0] or cost.dim() != 1:
            return cost
        _, summed, mean, versions = self.last
        if summed.dim() < 2 or summed.shape[0] != cost.shape[0] or summed.is_complex() or not summed.is_floating_point():
            return cost
        if _versions(cost, summed) != versions or summed.dtype != cost.dtype:
            return cost  # changed in place since: no longer the sum of these terms
        terms = summed.flatten(1)
        return terms / terms.shape[1] if mean else terms


def _over_all_but_the_first(summed: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    dims = kwargs.get("dim", kwargs.get("axis", args[0] if args else None))
    if dims is None or kwargs.keys() - {"dim", "axis", "keepdim", "dtype"} or len(args) > 1:
        return False
    dims = [dims] if isinstance(dims, int) else list(dims)
    return sorted(d % summed.dim() for d in dims) == list(range(1, summed.dim()))


def _versions(*tensors: Tensor) -> tuple[int, int]:
    first, second = (version(tensor) for tensor in tensors)
    return first, second
