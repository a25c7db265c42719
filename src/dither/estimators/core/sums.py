"""The terms of a cost that the closure has summed itself: what it returned is a sum, so what it summed are its terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dither.estimators.core.site import Closure
from dither.estimators.core.versions import version
from dither.nodes import is_concrete

_SUMS = {torch.sum: False, Tensor.sum: False, torch.mean: True, Tensor.mean: True}  # whether it is a mean


def with_terms(closure: Closure) -> Tensor:
    """The closure's cost, (batch,), or, where it is the plain sum or mean over all but the batch of a tensor, its terms,
    (batch, terms)."""
    with _Watch() as watch:
        cost = closure()
    with torch._C.DisableTorchFunction():
        return watch.terms_of(cost)


@dataclass
class _Sum:
    """One sum over all dimensions but the first. versions: how often what it gave and what it read had been changed."""

    result: Tensor
    summed: Tensor
    again: Callable[[], Tensor]
    mean: bool
    versions: tuple[int, int]


class _Watch(TorchFunctionMode):
    """Remembers the sums over all dimensions but the first."""

    def __init__(self) -> None:
        super().__init__()
        self.sums: dict[int, _Sum] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _SUMS and isinstance(result, Tensor):
            with torch._C.DisableTorchFunction():  # what is looked up here is no part of the closure
                summed, dims = _arguments(*args, **kwargs)
                if _over_all_but_the_first(summed, dims, kwargs):
                    self.sums[id(result)] = _Sum(
                        result, summed, lambda: func(*args, **kwargs), _SUMS[func], (version(result), version(summed))
                    )
        return result

    def terms_of(self, cost: Tensor) -> Tensor:
        one = self.sums.get(id(cost))
        if one is None or one.result is not cost or cost.dim() != 1 or not self._is_still(one):
            return cost
        summed = one.summed
        if summed.shape[0] != cost.shape[0] or not summed.is_floating_point() or summed.dtype != cost.dtype:
            return cost
        terms = summed.flatten(1)
        if terms.shape[1] == 0:
            return cost
        return terms / terms.shape[1] if one.mean else terms

    def _is_still(self, one: _Sum) -> bool:
        """Whether the cost is the sum of these terms now: neither was changed since, by whatever way."""
        if (version(one.result), version(one.summed)) != one.versions:
            return False
        if not is_concrete(one.result):  # in a vmap there is no `.data`, nor numpy, to write by unnoticed
            return True
        with torch.no_grad():
            return torch.equal(one.again(), one.result)


def _arguments(input: Tensor, dim: Any = None, *rest: Any, axis: Any = None, **kwargs: Any) -> tuple[Tensor, Any]:
    return input, None if rest else axis if dim is None else dim


def _over_all_but_the_first(summed: Any, dims: Any, kwargs: dict[str, Any]) -> bool:
    if not isinstance(summed, Tensor) or kwargs.keys() - {"input", "dim", "axis", "keepdim", "dtype"} or summed.dim() < 2:
        return False
    dims = [dims] if isinstance(dims, int) else dims
    if not isinstance(dims, (list, tuple)) or not all(isinstance(d, int) for d in dims):
        return False
    return sorted(d % summed.dim() for d in dims) == list(range(1, summed.dim()))
