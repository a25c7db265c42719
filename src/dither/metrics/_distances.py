"""Euclidean distances between two sets of points, block by block, so that a matrix of all pairs never exists."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BUDGET = 64 << 20  # bytes that one intermediate may take if the caller does not say `chunk`


def points(name: str, value: Tensor) -> Tensor:
    """`value` without its graph, if it is a non-empty finite (n, units) tensor; ValueError naming `name` otherwise."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is a {type(value).__name__}: a tensor of shape (n, units) is needed")
    if value.dim() != 2:
        raise ValueError(f"{name} has shape {tuple(value.shape)}: one row per point is needed; pass {name}.flatten(1)")
    if value.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(value.shape)}: at least one point of at least one unit is needed")
    if value.is_complex():
        raise ValueError(f"{name} is complex ({value.dtype}): real numbers are needed")
    value = value.detach()
    parts = value.split(max(1, BUDGET // (8 * value.shape[1])))  # the test makes copies
    if not all(bool(torch.isfinite(part).all()) for part in parts):
        raise ValueError(f"{name} holds NaN or infinity: find where they come from; no point is dropped here")
    return value


def same_units(x_name: str, x: Tensor, y_name: str, y: Tensor) -> None:
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{x_name} has {x.shape[1]} units and {y_name} has {y.shape[1]}: "
            "points of one space are needed; resize or cut one of them"
        )


def rows_of(chunk: int | None, columns: int) -> int:
    """How many rows of `columns` float64 numbers to hold at once: `chunk`, or as many as fit in BUDGET."""
    if chunk is None:
        return max(1, BUDGET // (8 * columns))
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"chunk is {chunk!r}: a number of rows, at least 1, is needed; leave it out for {BUDGET >> 20} MB")
    return chunk


def squared_distances(x: Tensor, y: Tensor, *, chunk: int | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Squared distances of all pairs, a block of rows at a time.

    Formula     block[i, j] = ||x[rows][i] - y[j]||^2, as ||x||^2 - 2 x·y + ||y||^2 of points centred at the mean of y,
                in float64, clamped at 0: the error is about 1e-15 (||x||^2 + ||y||^2).
    Shapes      x (n, units), y (m, units), any real type; yields (rows of x: slice, block (rows, m) float64). The block
                is the caller's: it may be changed in place.
    Memory      a float64 copy of y, and per block chunk · max(m, units) numbers; chunk: rows, by default 64 MB of them.
    Raises      ValueError (at the call, before the first block) for NaN, infinity, empty or differently wide inputs.
    """
    x, y = points("x", x), points("y", y)
    same_units("x", x, "y", y)
    return _blocks(x, y, rows_of(chunk, max(y.shape)))


def _blocks(x: Tensor, y: Tensor, rows: int) -> Iterator[tuple[slice, Tensor]]:
    # Centred, since the rounding is relative to the norms: far from the origin small distances would lose digits.
    y = y.to(torch.float64, copy=True)
    centre = y.mean(0)
    y -= centre
    y_norms = _norms("y", y)
    for start in range(0, len(x), rows):
        part = x[start : start + rows].to(torch.float64) - centre
        block = part @ y.T
        block.mul_(-2).add_(y_norms).add_(_norms("x", part).unsqueeze(1)).clamp_(min=0)
        yield slice(start, start + len(part)), block


def _norms(name: str, centred: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(centred, dim=1).square()  # no squared copy of the points
    if not bool(torch.isfinite(norms).all()):
        raise ValueError(
            f"{name} is up to {float(centred.abs().max()):.1e} from the mean: squares overflow; scale the data down"
        )
    return norms


def nearest(x: Tensor, y: Tensor, *, k: int = 1, exclude_self: bool = False, chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """The k nearest points of y for each point of x, nearest first.

    Returns     (distances (n, k) float64, not squared; indices into y (n, k) int64). The distances are computed again
                from differences, so that a copy is at distance 0 exactly. Of points equally near, any may be named.
    exclude_self  x and y are the same points in the same order, and a point is not its own neighbour
                  (its duplicates are).
    Raises      ValueError as `squared_distances`, for k outside 1 ... the number of candidates, and if exclude_self is
                set for sets of different sizes.
    """
    x, y = points("x", x), points("y", y)
    if exclude_self and x.shape != y.shape:
        raise ValueError(
            f"exclude_self: x has shape {tuple(x.shape)} and y {tuple(y.shape)}, but they must be the same points; "
            "leave exclude_self out for two different sets"
        )
    candidates = len(y) - exclude_self
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= candidates:
        raise ValueError(f"k is {k!r}: a number of neighbours from 1 to the {candidates} candidates in y is needed")
    distances = torch.empty(len(x), k, dtype=torch.float64, device=x.device)
    indices = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    for rows, block in squared_distances(x, y, chunk=chunk):
        if exclude_self:
            block[:, rows].fill_diagonal_(torch.inf)
        neighbours = block.topk(k, dim=1, largest=False).indices
        part = x[rows].to(torch.float64)
        differences = (part - y[column].to(torch.float64) for column in neighbours.T)
        exact = torch.stack([torch.linalg.vector_norm(difference, dim=1) for difference in differences], 1)
        distances[rows], order = exact.sort(dim=1, stable=True)
        indices[rows] = neighbours.gather(1, order)
    return distances, indices
