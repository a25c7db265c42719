"""Operators element by element: decisions by noise that is given, and the straight-through gradient."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from dither.kernels import _dispatch, _native, _reference


def _threshold(logits: Tensor, noise: Tensor) -> Tensor:
    kernels = _native if _dispatch.native(logits) else _dispatch.gpu(logits) or _reference
    return kernels.threshold(logits, noise)


@torch.library.custom_op("dither::threshold", mutates_args=(), tags=(torch.Tag.pointwise,))
def _threshold_operator(logits: Tensor, noise: Tensor) -> Tensor:
    return _threshold(logits, noise)


def threshold(logits: Tensor, noise: Tensor) -> Tensor:
    """1[u < sigmoid(a)] as float32, decided as u (1 + e^-a) < 1; NaN where a logit is. float32, equal shapes, no gradient."""
    logits, noise = logits.detach(), noise.detach()
    return _threshold(logits, noise) if _dispatch.plain(logits, noise) else _threshold_operator(logits, noise)


def _gumbel_max(logits: Tensor, noise: Tensor) -> Tensor:
    kernels = _native if _dispatch.native(logits) else _dispatch.gpu(logits) or _reference
    return kernels.gumbel_max(logits, noise)


@torch.library.custom_op("dither::gumbel_max", mutates_args=())
def _gumbel_max_operator(logits: Tensor, noise: Tensor) -> Tensor:
    return _gumbel_max(logits, noise)


def gumbel_max(logits: Tensor, noise: Tensor) -> Tensor:
    """One-hot float32 samples argmax_k (a_k - log(-log(1 - u_k))) over the last dimension. float32, equal shapes, no gradient.

    Categories at +inf share all the mass; NaN where a logit is NaN or all are -inf.
    """
    logits, noise = logits.detach(), noise.detach()
    return _gumbel_max(logits, noise) if _dispatch.plain(logits, noise) else _gumbel_max_operator(logits, noise)


def _straight_through(gradient: Tensor, logits: Tensor, factor: float) -> Tensor:
    same = gradient.dtype == logits.dtype
    kernels = _native if same and _dispatch.native(logits) else (same and _dispatch.gpu(logits)) or _reference
    return kernels.straight_through(gradient, logits, factor)


@torch.library.custom_op("dither::straight_through", mutates_args=(), tags=(torch.Tag.pointwise,))
def _straight_through_operator(gradient: Tensor, logits: Tensor, factor: float) -> Tensor:
    return _straight_through(gradient, logits, factor)


def straight_through(gradient: Tensor, logits: Tensor, factor: float = 1.0) -> Tensor:
    """factor * gradient * p (1 - p) with p = sigmoid(logits), the gradient's dtype; differentiable where grad mode is on."""
    if torch.is_grad_enabled() and (gradient.requires_grad or logits.requires_grad):
        p = torch.sigmoid(logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits)
        return (factor * gradient * (p * (1 - p))).to(gradient.dtype)
    if _dispatch.plain(gradient, logits):
        return _straight_through(gradient, logits, factor)
    return _straight_through_operator(gradient, logits, factor)


for _operator in (_threshold_operator, _gumbel_max_operator, _straight_through_operator):
    _operator.register_vmap(partial(_dispatch.elementwise, _operator))


@_threshold_operator.register_fake
def _(logits: Tensor, noise: Tensor) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


@_gumbel_max_operator.register_fake
def _(logits: Tensor, noise: Tensor) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


@_straight_through_operator.register_fake
def _(gradient: Tensor, logits: Tensor, factor: float) -> Tensor:
    return torch.empty_like(gradient, memory_format=torch.contiguous_format)
