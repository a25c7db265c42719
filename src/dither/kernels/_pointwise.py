"""Operators element by element: decisions by noise that is given, and the straight-through gradient."""

from __future__ import annotations

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
    return _plain_threshold(logits.detach(), noise.detach())


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
    return _plain_gumbel_max(logits.detach(), noise.detach())


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
        p = torch.sigmoid(_dispatch.widen(logits))
        return (factor * gradient * (p * (1 - p))).to(gradient.dtype)
    return _plain_straight_through(gradient, logits, factor)


_plain_threshold = _dispatch.plainly(_threshold_operator, _threshold, _dispatch.elementwise)
_plain_gumbel_max = _dispatch.plainly(_gumbel_max_operator, _gumbel_max, _dispatch.elementwise)
_plain_straight_through = _dispatch.plainly(_straight_through_operator, _straight_through, _dispatch.elementwise)


@_threshold_operator.register_fake
def _(logits: Tensor, noise: Tensor) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


@_gumbel_max_operator.register_fake
def _(logits: Tensor, noise: Tensor) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


@_straight_through_operator.register_fake
def _(gradient: Tensor, logits: Tensor, factor: float) -> Tensor:
    return torch.empty_like(gradient, memory_format=torch.contiguous_format)
