"""What the denoisers without parameters share: samples from rows of weights, clamps, blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dither.reconstruction import check_clamp

BUDGET = 64 << 20  # bytes that one intermediate may take if the caller does not say `chunk`


def categorical_index(weights: Tensor, u: Tensor) -> Tensor:
    """An index for each row of weights (batch, n), by uniforms u (batch, 1) in (0, 1): (batch,) int64.

    An index is as probable as its share of the row's sum.
    """
    cumulative = weights.cumsum(1)
    # u < 1, so a value below the last sum: the first sum that reaches it ends at a weight above 0.
    return torch.searchsorted(cumulative, u.double() * cumulative[:, -1:]).squeeze(1)


def checked_clamp(clamp: Tensor | None, values: Tensor | None, like: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The mask and the values as (batch, units), or two None. Free units, which may be NaN, are 0 in the result."""
    if clamp is None:
        return None, None
    if values is None:
        raise ValueError("clamp is set without values: pass the values of the clamped units, shape (batch, units)")
    if values.shape != like.shape:
        raise ValueError(f"values has shape {tuple(values.shape)} and the batch {tuple(like.shape)}: they must be the same")
    check_clamp(clamp, values)
    return clamp.expand(values.shape), values.masked_fill(~clamp, 0)


def blocks(rows: int, columns: int, chunk: int | None = None) -> Iterator[slice]:
    """Slices of `chunk` rows, or of as many as keep (rows, columns) float64 numbers within the budget."""
    if chunk is not None and (type(chunk) is not int or chunk < 1):
        raise ValueError(f"chunk is {chunk!r}: a number of rows, at least 1, is needed")
    size = chunk or max(1, BUDGET // (8 * columns))
    yield from (slice(first, min(first + size, rows)) for first in range(0, rows, size))
