"""The log-probability of values in [0, 1] under Bernoulli distributions, a reconstruction cost of denoising models."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dither.kernels import _arguments, _dispatch, _native


def bernoulli_terms(a: Tensor, x: Tensor) -> Tensor:
    """x log sigmoid(a) + (1 - x) log sigmoid(-a), x in [0, 1], of one shape; 0 or -inf, no NaN, at infinite logits."""
    largest = torch.finfo(a.dtype).max
    a = a.clamp(-largest, largest)  # stands for infinity: times 0 it is 0
    terms = F.logsigmoid(a) - (1 - x) * a  # half the passes that cross_entropy_with_logits makes inside a vmap
    return terms.masked_fill(terms < _impossible(a.dtype), -torch.inf)


def bernoulli_log_prob(a: Tensor, x: Tensor) -> Tensor:
    """The same summed over the last dimension. a, x: (..., units) float32 or wider, of one shape. Differentiable."""
    if not a.dim():
        raise ValueError("a has shape (): (..., units) is needed; use a.view(1)")
    _arguments.require_shape("x", x, a.shape, "as a has; expand it")
    _arguments.require_device("x", x, a.device)
    if not _dispatch.plain(a, x) or x.requires_grad or not a.numel():
        return bernoulli_terms(a, x).sum(-1)
    return _LogProb.apply(a, x)  # type: ignore[return-value]


class _LogProb(torch.autograd.Function):
    """In few passes forward and back: one each by the native library."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(a, x)
        if _fits(a, x):
            return _native.log_prob(*_rows_of(a, x)).view(a.shape[:-1])
        # Infinite logits are legal, and this formula subtracts them. Looking for them would wait for a GPU.
        largest = torch.finfo(a.dtype).max
        total = F.binary_cross_entropy_with_logits(a.clamp(-largest, largest), x, reduction="none").sum(-1).neg_()
        return total.masked_fill_(total < _impossible(a.dtype), -torch.inf)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        a, x = ctx.saved_tensors
        if _fits(a, x) and not (torch.is_grad_enabled() or _dispatch.of_several(gradient)):
            return _native.log_prob_gradient(gradient.reshape(-1), *_rows_of(a, x)).view(a.shape), None
        return (x - torch.sigmoid(a)) * gradient.unsqueeze(-1), None


def _impossible(dtype: torch.dtype) -> float:
    return -torch.finfo(dtype).max * torch.finfo(dtype).eps / 4


def _fits(a: Tensor, x: Tensor) -> bool:
    return a.dtype == x.dtype == torch.float32 and _dispatch.native(a)


def _rows_of(a: Tensor, x: Tensor) -> tuple[Tensor, Tensor, int]:
    """(a as rows, x as rows, how many rows of a have the same one of x): components of a mixture share theirs."""
    rows, units, repeat = a.reshape(-1, a.shape[-1]), a.shape[-1], 1
    if x.dim() > 2 and x.stride(-2) == 0:
        repeat, x = x.shape[-2], x.select(-2, 0)
    return rows.contiguous(), x.reshape(-1, units).contiguous(), repeat
