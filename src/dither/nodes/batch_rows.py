"""Which example each row belongs to, in a part of a net that sees some examples, or examples more than once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch  # type: ignore[attr-defined]

from dither import noise
from dither.nodes.checks import Labelled
from dither.scoped import Scoped

_MASK = noise.ID_LIMIT - 1
# 2^48 times an irrational number: the golden ratio's, of which small multiples are as far apart as they can be, then those of
# other roots for rows within rows.
_STRIDES = (173961102589771, 116590752822205, 206053984011467, 181762835242781)


@dataclass(frozen=True)
class Rows:
    """index: the example of each row, (rows,) int64. ids: what names its noise. depth: how many such parts it is within. batch:
    how many examples there are, if it was said."""

    index: Tensor
    ids: Tensor
    depth: int = 0
    batch: int | None = None

    @cached_property
    def occurrence(self) -> Tensor:
        """Which of its example's rows each is, (rows,) int64."""
        return occurrences(self.index)


_ROWS: Scoped[Rows | None] = Scoped(None)


def present_rows() -> Rows | None:
    """Those of the part that runs at present; None where row i is example i."""
    return _ROWS.get()


class rows:
    """Within it row i of the logits belongs to example `index[i]`: a part of a net that sees only some of the examples, or some
    more than once.

    >>> import torch, dither
    >>> experts = torch.nn.ModuleList([dither.Bernoulli(), dither.Bernoulli()])
    >>> logits, mine = torch.zeros(4, 3), torch.tensor([0, 0, 1, 0])
    >>> out = torch.zeros(4, 3)
    >>> for number, expert in enumerate(experts):
    ...     index = (mine == number).nonzero().flatten()
    ...     with dither.rows(index):
    ...         out = out.index_put((index,), expert(logits[index]))
    >>> out.shape
    torch.Size([4, 3])

    index    (rows,) of whole numbers, the example of each row; or a bool mask (batch,) of the examples that take part. An
             example may have several rows (sequences flattened to batch * time), or none. Within other `rows` the numbers are
             those of the rows there.
    batch    the number of examples; needed only under several ranks, where no `noise.examples` says which they are.

    Noise follows the example: it is the same whichever other rows are there, and in whichever order. Where an example has
    several rows its first has the noise that it would have alone, the second other noise, and so on by their order. Credit
    follows the example, too: under an estimator the cost of example `index[i]` is what row i answers for. The closure still
    returns a cost for each example.

    An index that depends on samples has another length in each run of a closure, which a vmap cannot have: with several samples
    such a net needs a loop.

    Raises   TypeError or ValueError for an index of another kind; where a node gets another number of rows; for an example
             outside of the batch.
    """

    def __init__(self, index: Tensor, *, batch: int | None = None) -> None:
        self._index, self._mask = _checked(index), len(index) if index.dtype == torch.bool else None
        self._batch = batch
        self._scopes: list[tuple[Any, Any]] = []

    def __enter__(self) -> None:
        here = self._present()
        scopes = _ROWS.set(here), noise.naming(here.ids)
        for scope in scopes:
            scope.__enter__()
        self._scopes.append(scopes)

    def __exit__(self, *error: object) -> None:
        for scope in reversed(self._scopes.pop()):
            scope.__exit__(*error)

    def _present(self) -> Rows:
        index, outer = self._index, _ROWS.get()
        if outer is not None:
            self._require_mask(len(outer.index), "rows of the part that it is within")
            _require_below(index, len(outer.index), "rows of the part that it is within")
            ids, own, batch = outer.ids[index], outer.index[index], outer.batch
        else:
            named = noise.named_examples()
            batch = self._batch if self._batch is not None else named if named is not None else self._mask
            if batch is not None:
                self._require_mask(batch, "examples of the batch")
                _require_below(index, batch, "examples of the batch")
            ids, own = noise.ids_of(index, self._batch), index
        depth = 0 if outer is None else outer.depth + 1
        if not _ascends(index):
            moved = (ids + occurrences(index) * _STRIDES[depth % len(_STRIDES)]) & _MASK
            ids = (ids & ~_MASK) | moved  # the bits above are the sample's
        return Rows(own, ids, depth, batch)

    def _require_mask(self, limit: int, what: str) -> None:
        if self._mask is not None and self._mask != limit:
            raise ValueError(
                f"index is a mask of {self._mask}, but there are {limit} {what}: it must say of each whether it runs"
            )


def _checked(index: Any) -> Tensor:
    if not isinstance(index, Tensor):
        raise TypeError(f"index is {type(index).__name__}: a tensor of whole numbers is needed, the example of each row")
    if index.dim() != 1 or index.is_floating_point() or index.is_complex():
        raise ValueError(
            f"index has shape {tuple(index.shape)} and dtype {index.dtype}: the example of each row is needed, (rows,) of "
            "whole numbers, or a bool mask (batch,) of examples; for (batch, time) flattened to batch * time rows it is "
            "torch.arange(batch).repeat_interleave(time)"
        )
    if not torch.compiler.is_compiling() and _functorch.is_batchedtensor(index):
        raise RuntimeError(
            "index of dither.rows depends on what is sampled, so that it differs between the runs of a vmap: give the "
            "estimator vectorize=False, and its runs are made one after the other"
        )
    if index.dtype == torch.bool:
        return index.nonzero().flatten()
    index = index.to(torch.int64, copy=True)  # the program may use its own for something else meanwhile
    if index.is_cpu and not torch.compiler.is_compiling() and len(index) and int(index.min()) < 0:
        raise ValueError(f"index has {int(index.min())}: examples are numbered from 0; take index % batch")
    return index


def _require_below(index: Tensor, limit: int, what: str) -> None:
    if index.is_cpu and not torch.compiler.is_compiling() and len(index) and int(index.max()) >= limit:
        raise ValueError(f"index has {int(index.max())}, but there are {limit} {what}: give numbers from 0 to {limit - 1}")


def _ascends(index: Tensor) -> bool:
    """Whether no example can have two rows, where that is seen at once: as in what `nonzero` gives."""
    if not index.is_cpu or torch.compiler.is_compiling():
        return False
    return len(index) < 2 or bool((index[1:] > index[:-1]).all())


def occurrences(index: Tensor) -> Tensor:
    """How many earlier entries equal each, (rows,) int64."""
    order = index.argsort(stable=True)
    places = torch.arange(len(index), device=index.device, dtype=torch.int64)
    new = torch.ones_like(index, dtype=torch.bool)
    new[1:] = index[order[1:]] != index[order[:-1]]
    first = torch.where(new, places, 0).cummax(0).values if len(index) else places
    return torch.empty_like(places).index_put((order,), places - first)


def require_rows(node: Labelled, count: int) -> None:
    """Raise if a node got another number of rows than the present part has."""
    present = _ROWS.get()
    if present is not None and len(present.index) != count:
        raise ValueError(
            f"{node.label} got logits of {count} rows inside dither.rows(index) with an index of {len(present.index)}: "
            "it must say of each row whose it is"
        )


def refuse_within_rows(name: str) -> None:
    """Raise where a closure would be run within `rows`, whose numbers its own would be taken for."""
    if _ROWS.get() is not None:
        raise RuntimeError(
            f"{name} is called within dither.rows: rows are those of a part of the closure's batch, so the block "
            "belongs into the closure"
        )
