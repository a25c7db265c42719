"""Elements that a mask has set: to -inf, and to zero by the softmax that follows. They depend on no sample.

Attention that is spelt out (scores, a mask that puts -inf, softmax, product) is local by this. It is the one conclusion from
values: of a mask that no sample changes. x + mask is taken for -inf where the mask is, so x must not be +inf or NaN there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dither.estimators.core.tracing.rules import Masks, Operator

ROWS = 2
_OPERATORS = {
    *("masked_fill", "where", "add", "baddbmm", "_softmax", "_safe_softmax", "mul", "div", "native_dropout", "clone"),
    *("_to_copy", "contiguous"),
}


def fixes(op: Operator) -> bool:
    """Whether elements of its result may be known."""
    return op.name in _OPERATORS


def fixed(op: Operator, output: Tensor) -> Tensor | None:
    """(2, *sizes) bool: which elements of the output are -inf, and which are zero; None: none is known to be."""
    infinite = zero = None
    if op.name == "masked_fill":
        filled = _filled(op)  # with something else: what was -inf may no longer be
        infinite = filled if filled is None else _any(filled, op.masks.known(op.args[0], 0), dims=output.dim())
    elif op.name == "where":
        infinite = _chosen(op)
    elif op.name in ("add", "baddbmm"):
        plain = op.get("alpha" if op.name == "add" else "beta") == 1
        infinite = (
            None
            if not plain
            else _any(*(_infinite(op.masks, t) for t in op.args[: 2 if op.name == "add" else 1]), dims=output.dim())
        )
    elif op.name in ("_softmax", "_safe_softmax"):
        zero = op.masks.known(op.args[0], 0)
    elif op.name == "mul":
        zero = _any(*(op.masks.known(t, 1) for t in op.args[:2]), dims=output.dim())
    elif op.name in ("div", "native_dropout"):
        zero = _any(op.masks.known(op.args[0], 1), dims=output.dim())
    else:
        infinite, zero = (op.masks.known(op.args[0], row) for row in range(ROWS))
    if infinite is None and zero is None:
        return None
    rows = [torch.zeros([1] * output.dim(), dtype=torch.bool, device="cpu") if row is None else row for row in (infinite, zero)]
    return torch.stack(torch.broadcast_tensors(*rows))


def _any(*masks: Tensor | None, dims: int) -> Tensor | None:
    there = [m.reshape(*[1] * (dims - m.dim()), *m.shape) for m in masks if m is not None and m.dim() <= dims]
    if not there:
        return None
    return torch.stack(torch.broadcast_tensors(*there)).any(0)


def _filled(op: Operator) -> Tensor | None:
    mask, value = op.get("mask"), op.get("value")
    if op.masks.of(mask) is not None or not _is_infinite(op.masks, value) or not op.masks.consult(mask):
        return None
    return mask.cpu()


def _chosen(op: Operator) -> Tensor | None:
    """where(condition, a, b) with -inf for one of them."""
    condition, a, b = op.get("condition"), op.get("self"), op.get("other")
    if op.masks.of(condition) is not None or not isinstance(condition, Tensor):
        return None
    one, other = _is_infinite(op.masks, a), _is_infinite(op.masks, b)
    if one == other or not op.masks.consult(condition):
        return None
    return condition.cpu() if one else ~condition.cpu()


def _is_infinite(masks: Masks, value: Any) -> bool:
    if isinstance(value, Tensor):
        single = value.numel() == 1 and masks.of(value) is None and value.is_floating_point()
        return single and bool(value == -torch.inf) and masks.consult(value)
    return value == -torch.inf


def _infinite(masks: Masks, tensor: Any) -> Tensor | None:
    """Of what is added to something else."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        return None
    known = masks.known(tensor, 0)
    if known is not None or tensor.requires_grad or masks.of(tensor) is not None:
        return known
    infinite = tensor == -torch.inf
    return infinite.cpu() if bool(infinite.any()) and masks.consult(tensor) else None
