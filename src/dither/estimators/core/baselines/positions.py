"""Statistics kept per unit when the number of units changes: positions that come and go share theirs."""

from __future__ import annotations

import torch
from torch import Tensor

from dither.estimators.core.ranks import world

_DIMENSIONS = 16  # of units, at most, in what ranks tell each other


def common_units(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what can be kept for units of both shapes, the last dimensions side by side: a dimension of another size
    becomes 1, shared by its positions, and one that only the other has is left out.

    >>> common_units((5, 3), (7, 3)), common_units((5, 3), (3,)), common_units((5,), (7,))
    ((1, 3), (3,), (1,))
    """
    count = min(len(first), len(second))
    pairs = zip(first[len(first) - count :], second[len(second) - count :], strict=True)
    return tuple(a if a == b else 1 for a, b in pairs)


def fitted(statistics: Tensor, units: tuple[int, ...]) -> Tensor:
    """Statistics (2, *kept) for units of this shape, to which they broadcast, averaged over positions of another number.

    Of a numerator and a denominator both are averaged, so their ratio weighs positions as it weighs examples. No position at
    all gives 0 for both, which moves no ratio.
    """
    before = tuple(statistics.shape[1:])
    if before == units:
        return statistics
    shape = common_units(before, units)
    statistics = reduced(statistics, shape)
    return statistics.view(2, *[1] * (len(units) - len(shape)), *shape)


def reduced(statistics: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Statistics (2, *units) averaged to (2, *shape), a shape that `common_units` gave."""
    extra = statistics.dim() - 1 - len(shape)
    dims = [1 + i for i, size in enumerate(statistics.shape[1:]) if i < extra or shape[i - extra] != size]
    if not dims:
        return statistics
    empty = any(statistics.shape[d] == 0 for d in dims)
    averaged = statistics.sum(dims, keepdim=True) if empty else statistics.mean(dims, keepdim=True)
    return averaged.reshape(2, *shape)


def common_over_ranks(units: tuple[int, ...], device: torch.device) -> tuple[int, ...]:
    """What can be kept for the units of all ranks, whose sequences may differ in length."""
    if world() == 1 or not units:
        return units
    sizes = torch.zeros(_DIMENSIONS, dtype=torch.int64, device="cpu")
    sizes[_DIMENSIONS - len(units) :] = torch.tensor(units, dtype=torch.int64, device="cpu")
    extremes = torch.cat((sizes, -sizes)).to(device)
    torch.distributed.all_reduce(extremes, torch.distributed.ReduceOp.MAX)
    largest, smallest = extremes[:_DIMENSIONS].tolist(), (-extremes[_DIMENSIONS:]).tolist()
    return tuple(a if a == b else 1 for a, b in zip(largest, smallest, strict=True) if a and b)
