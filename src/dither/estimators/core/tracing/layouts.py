"""Masks of memory, as small as they can be: what is equal along a dimension is kept once.

A mask is kept for each storage, so that all views of it agree, as an array over the dimensions of the tensor that it was made
as. Where it is the same along a dimension, such as that of the examples, this dimension has size 1. A view, of whatever sizes
and strides, is looked up by arithmetic: the digits of its places in the memory, in the system whose bases are those
dimensions. Nothing is approximated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

SMALL = 1 << 12  # elements of a mask that are not worth a look whether they are equal


@dataclass(frozen=True)
class _Places:
    """Where a view's elements lie in a compact mask: index, of shape `shape`, whose dimensions are 1 where nothing changes.

    whole: whether it is the mask itself, in its order. dims: the dimension of the view that runs over all of each dimension of
    the storage and over nothing else, None if there is none. period: after so many the index begins anew.
    """

    index: Tensor
    shape: tuple[int, ...]
    whole: bool
    dims: tuple[int | None, ...]
    period: int


@dataclass
class _Kept:
    """bytes: of an element, when the mask was made. shape: that of the whole storage, row by row."""

    bytes: int
    shape: tuple[int, ...]
    mask: Tensor  # (rows, *shape), sizes 1 where it is the same along a dimension


class Store:
    """Masks with `rows` bits for every element, by the address of the storage. Those that it has none for are all False."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._kept: dict[int, _Kept] = {}
        self._shapes: dict[int, tuple[tuple[int, ...], tuple[int, ...], int]] = {}

    def made(self, tensor: Tensor, address: int) -> None:
        """Memory for this tensor: its shape will be that of the mask, if there comes to be one."""
        if address not in self._shapes:
            self._shapes[address] = tuple(tensor.shape), tensor.stride(), tensor.element_size()

    def forget(self, address: int) -> None:
        self._kept.pop(address, None)
        self._shapes.pop(address, None)

    def size(self, address: int) -> int:
        """Elements of the mask of a storage."""
        record = self._kept.get(address)
        return 0 if record is None else record.mask.numel()

    def has(self, tensor: Tensor) -> bool:
        """Whether there may be something in its mask, in any view."""
        return bool(self._kept) and tensor.layout == torch.strided and tensor.untyped_storage().data_ptr() in self._kept

    def of(self, tensor: Tensor) -> Tensor | None:
        """(rows, *sizes), each size that of the tensor or 1; None if there is none."""
        record = self._kept.get(tensor.untyped_storage().data_ptr())
        if record is None or tensor.numel() == 0:
            return None
        if tensor.element_size() != record.bytes:  # seen as another type: all of it
            return record.mask.flatten(1).any(1).view(-1, *[1] * tensor.dim())
        places = _places_in(record, tensor)
        if places.whole:
            return record.mask.reshape(self.rows, *places.shape)
        period = record.mask.reshape(self.rows, -1).index_select(1, places.index[: places.period])
        return period.unsqueeze(1).expand(-1, len(places.index) // places.period, -1).reshape(self.rows, *places.shape)

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        """The dimensions over which the mask of its storage is record."""
        record = self._kept.get(tensor.untyped_storage().data_ptr())
        return () if record is None else record.shape

    def write(self, tensor: Tensor, mask: Tensor, added: bool, hint: tuple[int, ...] = ()) -> None:
        """Set the mask of a tensor, or add to it. mask: (rows, *sizes), each that of the tensor or 1. hint: dimensions of what
        it was computed from: (batch, time, ...) if this one's first is batch * time."""
        if tensor.numel() == 0:
            return
        address = tensor.untyped_storage().data_ptr()
        record = self._kept.get(address)
        if record is None and not bool(mask.any()):
            return
        if record is not None and record.bytes != tensor.element_size():
            if added:
                everywhere = mask.flatten(1).any(1).view(-1, *[1] * (record.mask.dim() - 1))
                self._kept[address] = _Kept(record.bytes, record.shape, record.mask | everywhere)
            return
        filled = _filled(tensor)
        if filled is not None:
            if added and record is not None:
                own = self.of(tensor)
                assert own is not None
                mask = mask | own
            order = _order(tuple(tensor.shape), tensor.stride())
            mask = mask.permute(0, *(d + 1 for d in order))
            if mask.numel() >= SMALL and (split := _split(filled, mask.shape[1:], hint)):
                filled = split + filled[1:]
                mask = mask.reshape(self.rows, *split, *mask.shape[2:])
            mask = compact(mask)
            if record is not None and not added and not bool(mask.any()):
                del self._kept[address]
            else:
                self._kept[address] = _Kept(tensor.element_size(), filled, mask)
            return
        self._write_part(tensor, address, mask, added)

    def _write_part(self, tensor: Tensor, address: int, mask: Tensor, added: bool) -> None:
        record = self._kept.get(address)
        if record is None:
            size = tensor.untyped_storage().nbytes() // tensor.element_size()
            sizes, strides, item = self._shapes.get(address, ((), (), 0))
            shape = (_in_order(sizes, strides) if item == tensor.element_size() and math.prod(sizes) == size else None) or (
                size,
            )
            empty = torch.zeros(self.rows, *[1] * len(shape), dtype=torch.bool, device="cpu")
            record = _Kept(tensor.element_size(), shape, empty)
        dims = _places(record.shape, (True,) * len(record.shape), *_layout(tensor)).dims
        keep = [
            d is None or record.mask.shape[j + 1] > 1 or mask.shape[d + 1] > 1 for j, d in enumerate(dims)
        ]  # the others stay the same along a dimension of which all is written
        sizes = [n if k else 1 for n, k in zip(record.shape, keep, strict=True)]
        full = record.mask.expand(self.rows, *sizes).clone(memory_format=torch.contiguous_format)
        places = _places(record.shape, tuple(n > 1 for n in full.shape[1:]), *_layout(tensor))
        index, flat = places.index.flatten(), full.view(self.rows, -1)
        new = mask.expand(self.rows, *_common(mask.shape[1:], places.shape))
        for d, n in enumerate(places.shape):  # what lies in one place: it is all of a dimension that stays the same
            if n == 1 and new.shape[d + 1] > 1:
                new = new.any(d + 1, keepdim=True)
        new = new.reshape(self.rows, -1)
        if not added:
            flat[:, index] = False
        flat |= (
            torch.zeros(flat.shape, dtype=torch.int32, device="cpu").index_add_(1, index, new.int()) > 0
        )  # a place may be there twice
        self._kept[address] = _Kept(record.bytes, record.shape, full)


def compact(mask: Tensor) -> Tensor:
    """(rows, *sizes) -> the same with size 1 where it is the same along a dimension."""
    if mask.numel() >= SMALL:
        for d in range(1, mask.dim()):
            if mask.shape[d] > 1 and torch.equal(mask.narrow(d, 1, mask.shape[d] - 1), mask.narrow(d, 0, mask.shape[d] - 1)):
                mask = mask.narrow(d, 0, 1)
    return mask.contiguous()


def _split(filled: tuple[int, ...], sizes: tuple[int, ...], hint: tuple[int, ...]) -> tuple[int, ...]:
    """The first of these dimensions as several, as in the hint; () if it is none of its products."""
    if not filled or sizes[0] == 1:
        return ()
    return next((hint[:k] for k in range(2, len(hint) + 1) if math.prod(hint[:k]) == filled[0]), ())


def _common(one: Any, other: Any) -> list[int]:
    return [max(a, b) for a, b in zip(one, other, strict=True)]


def _layout(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    return tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())


def _order(sizes: tuple[int, ...], strides: tuple[int, ...]) -> list[int]:
    """The dimensions in the order in which they lie in memory."""
    return sorted(range(len(sizes)), key=lambda d: (-strides[d], sizes[d] == 1))


def _filled(tensor: Tensor) -> tuple[int, ...] | None:
    """The sizes in the order of memory, if the tensor is all of its storage, and each place once."""
    if tensor.storage_offset() or tensor.numel() * tensor.element_size() != tensor.untyped_storage().nbytes():
        return None
    return _in_order(tuple(tensor.shape), tensor.stride())


@lru_cache(maxsize=4096)
def _in_order(sizes: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...] | None:
    order = _order(sizes, strides)
    shape, steps = tuple(sizes[d] for d in order), [strides[d] for d in order]
    return shape if all(n == 1 or s == e for n, s, e in zip(shape, steps, _strides(shape), strict=True)) else None


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [math.prod(shape[d + 1 :]) for d in range(len(shape))]


def _places_in(record: _Kept, tensor: Tensor) -> _Places:
    return _places(record.shape, tuple(n > 1 for n in record.mask.shape[1:]), *_layout(tensor))


@lru_cache(maxsize=4096)
def _places(
    shape: tuple[int, ...], varies: tuple[bool, ...], sizes: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> _Places:
    """Of a view in a storage of `shape`, whose mask has the dimensions that vary."""
    small = tuple(n if v else 1 for n, v in zip(shape, varies, strict=True))
    steps = list(zip(shape, _strides(shape), _strides(small), varies, strict=True))

    def digits(flat: Any) -> list[Any]:
        return [flat // stride % n for n, stride, _, _ in steps]

    def inside(found: list[Any]) -> Any:
        """Of digits, the place in the mask."""
        return sum((d * s for d, (_, _, s, v) in zip(found, steps, strict=True) if v), np.int64(0))

    runs = [digits(np.arange(n, dtype=np.int64) * stride) for n, stride in zip(sizes, strides, strict=True)]
    start = digits(np.int64(offset))
    last = [int(start[j]) + sum(int(run[j].max()) for run in runs) for j in range(len(shape))]
    dims = tuple(_alone(j, n, runs, int(start[j])) for j, n in enumerate(shape))
    if all(top < n for top, n in zip(last, shape, strict=True)):  # no carries: the digits of a sum are sums of digits
        parts = [np.zeros(n, np.int64) + inside(run) for n, run in zip(sizes, runs, strict=True)]
        parts = [part if part.any() else part[:1] for part in parts]
        index = np.asarray(inside(start))
        for d, part in enumerate(parts):
            index = index + part.reshape(*[1] * d, -1, *[1] * (len(sizes) - d - 1))
    else:
        index = np.asarray(offset, np.int64)
        for d, (n, stride) in enumerate(zip(sizes, strides, strict=True)):
            index = index + (np.arange(n, dtype=np.int64) * stride).reshape(*[1] * d, -1, *[1] * (len(sizes) - d - 1))
        index = np.asarray(inside(digits(index)) + np.zeros_like(index))
    view = tuple(index.shape)
    flat = index.reshape(-1)
    whole = len(flat) == math.prod(small) and bool((flat == np.arange(len(flat))).all())
    period = math.prod(small)
    if len(flat) % period or not (flat.reshape(-1, period) == flat[:period]).all():
        period = len(flat)
    return _Places(torch.from_numpy(flat.copy()), view, whole, dims, period)


def _alone(j: int, size: int, runs: list[list[Any]], start: int) -> int | None:
    """The dimension of the view that runs once over all of dimension j of the storage, by itself."""
    moving = [d for d, run in enumerate(runs) if run[j].any()]
    if start or len(moving) != 1:
        return None
    run = runs[moving[0]]
    alone = not any(other.any() for i, other in enumerate(run) if i != j)
    return moving[0] if alone and np.array_equal(run[j], np.arange(size)) else None
