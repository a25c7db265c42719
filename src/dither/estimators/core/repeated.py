"""Samples as repeated rows: one plain run of the closure on a batch that holds every example once for each sample.

Row k * batch + i is example i under sample k. A node's call samples the rows of each k as run k does: by a vmap over the call
alone. So all bits are those of a vmap over the whole closure, and what the run leaves is put together in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from dither.estimators.core.call import Call
from dither.estimators.core.randomness import Randomness
from dither.estimators.core.run import Plan, Run
from dither.estimators.core.site import Closure
from dither.estimators.core.vectorized import vectorized
from dither.nodes import ClosureError, Node, is_concrete, present_rows

T = TypeVar("T")


def repeat_rows(tensors: T, samples: int) -> T:
    """The batch once for each sample, (batch, ...) -> (samples * batch, ...): what a closure of `repeated=True` runs on.

    Row k * batch + i of the result is row i: first all examples for the first sample, then all for the second. (The rows of
    torch.repeat_interleave are in another order.) tensors: a tensor, or a tuple, list or dict of them.

    >>> import torch, dither
    >>> dither.repeat_rows(torch.tensor([1, 2]), 3)
    tensor([1, 2, 1, 2, 1, 2])
    >>> x, y = dither.repeat_rows((torch.randn(8, 5), torch.arange(8)), 3)
    >>> x.shape, y.shape
    (torch.Size([24, 5]), torch.Size([24]))
    """
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples is {samples!r}: how often each row is to be there is an integer of 1 or more")
    return tree_map(lambda tensor: _repeated(tensor, samples), tensors)


def _repeated(tensor: Any, samples: int) -> Tensor:
    if not isinstance(tensor, Tensor) or tensor.dim() == 0:
        kind = "a scalar" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"repeat_rows got {kind}: tensors are needed whose first dimension is the batch")
    return tensor.repeat(samples, *[1] * (tensor.dim() - 1))


def require_independent(plan: Plan) -> None:
    if plan.runs_depend_on_layout or plan.runs(()) != plan.samples or plan.run_type is not Run:
        raise ValueError(
            f"repeated is True, but the runs of {type(plan).__name__} are not as many as its samples, or not ordinary ones: "
            "leave repeated out, or use ScoreFunction, VIMCO, DoubleCV, StraightThrough or another whose samples are "
            "independent runs"
        )


class RepeatedRun(Run):
    """All runs at once, as rows of one."""

    plan: Plan

    def on_node(self, node: Node, logits: Tensor) -> Tensor:
        if present_rows() is not None:
            raise ClosureError(
                f"{node.label} is called inside dither.rows with repeated=True, where a row of a part would belong to an "
                "example and to a sample: leave repeated out"
            )
        return super().on_node(node, logits)

    def sampling(self, node: Node, key: tuple[Any, ...]) -> Callable[[Tensor], Any]:
        return partial(_by_samples, self.plan.sample, node, key, self.plan.samples)

    def over(self, closure: Closure, handler: Callable[[Node, Tensor], Tensor]):
        cost, *parts = super().over(closure, handler)
        count = self.plan.samples
        if self.plan.local_credit and cost.shape[-1] > 1:
            raise ClosureError(
                f"the closure returned {cost.shape[-1]} cost terms per example, whose credit cannot be followed with "
                "repeated=True: return their sum, cost.sum(1), or leave repeated out"
            )
        return _apart(cost, count, "a cost"), *([_apart(t, count, "logits") for t in part] for part in parts)


class CheckedRows(RepeatedRun):
    """The same, for a first call: before anything was sampled, the rows of an example must be alike."""

    def over(self, closure: Closure, handler: Callable[[Node, Tensor], Tensor]):
        self._before = Randomness.now()
        return super().over(closure, handler)

    def on_node(self, node: Node, logits: Tensor) -> Tensor:
        looks = self.calls == 0 and present_rows() is None and is_concrete(logits)
        if looks and not self._alike(node, logits.detach()) and not self._before.moved(0):
            count = self.plan.samples
            raise ClosureError(
                f"repeated=True takes row k * {len(logits) // count} + i of the batch for example i under sample k, but at "
                f"{node.label} the rows of an example have different logits before anything was sampled: repeat inputs and "
                f"targets by dither.repeat_rows((x, y), {count}); the rows of repeat_interleave are in another order"
            )
        return super().on_node(node, logits)

    def _alike(self, node: Node, logits: Tensor) -> bool:
        groups = _apart(logits, self.plan.samples, f"{node.label}: logits")
        accuracy = torch.finfo(logits.dtype).eps ** 0.5  # sums of different rows may be taken in another order
        return torch.allclose(groups[:1].expand_as(groups), groups, rtol=accuracy, atol=accuracy, equal_nan=True)


def _by_samples(sample: Callable[[Call], Any], node: Node, key: tuple[Any, ...], count: int, logits: Tensor) -> Any:
    """What `sample` gives for the rows of each sample, (rows, ...)."""
    seed, site, number, _, layout, graph = key

    def one(index: Tensor, own: Tensor) -> tuple[Tensor, list[Tensor]]:
        output, credited = sample(Call(node, own, seed, site, number, index, layout, graph))
        return output, [] if credited is None else [credited]

    groups = _apart(logits, count, f"{node.label}: logits")
    if node._source is None:
        output, credited = vectorized(one, count, groups)
    else:  # an oracle tells runs apart by their numbers
        runs = [one(torch.tensor(k, dtype=torch.int64, device="cpu"), groups[k]) for k in range(count)]
        output = torch.stack([run[0] for run in runs])
        credited = [torch.stack(same) for same in zip(*(run[1] for run in runs), strict=True)]
    return output.flatten(0, 1), credited[0].flatten(0, 1) if credited else None


def _apart(tensor: Tensor, count: int, what: str) -> Tensor:
    """(rows, ...) -> (samples, batch, ...)."""
    rows = tensor.shape[0]
    if rows % count:
        raise ClosureError(
            f"{what} of {rows} rows with repeated=True and samples={count}: the batch must hold each example {count} times; "
            f"repeat inputs and targets by dither.repeat_rows((x, y), {count})"
        )
    return tensor.unflatten(0, (count, rows // count))
