"""Operators that add noise by key, or put it in the place of values: semi-hard units and corruption. As `_samples`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dither.kernels import _dispatch, _reference
from dither.kernels._samples import Key, batch_rule, fused, like, rowwise


def _noisy_relu(
    logits: Tensor, seed: Tensor, site: int, sample: Tensor, ids: Tensor, slices_differ: bool, scale: float
) -> Tensor:
    draw = fused("noisy_relu", "normal", (scale,), lambda a, z: _reference.noisy_relu(a, z.to(a.dtype), scale))
    return rowwise(logits, (seed, site, sample, ids, slices_differ), draw).view(logits.shape)


def _noisy_tanh(
    logits: Tensor, seed: Tensor, site: int, sample: Tensor, ids: Tensor, slices_differ: bool, before: float, after: float
) -> tuple[Tensor, Tensor]:
    def formula(a: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return _reference.noisy_tanh(a, z.unflatten(-1, (-1, 2)).to(a.dtype), before, after)

    draw = fused("noisy_tanh", "normal", (before, after), formula, noises=2)
    output, inner = rowwise(logits, (seed, site, sample, ids, slices_differ), draw)
    return output.view(logits.shape), inner.view(logits.shape)


@torch.library.custom_op("dither::noisy_relu", mutates_args=())
def _noisy_relu_operator(
    logits: Tensor, seed: Tensor, site: int, sample: Tensor, ids: Tensor, slices_differ: bool, scale: float
) -> Tensor:
    return _noisy_relu(logits, seed, site, sample, ids, slices_differ, scale)


@torch.library.custom_op("dither::noisy_tanh", mutates_args=())
def _noisy_tanh_operator(
    logits: Tensor, seed: Tensor, site: int, sample: Tensor, ids: Tensor, slices_differ: bool, before: float, after: float
) -> tuple[Tensor, Tensor]:
    return _noisy_tanh(logits, seed, site, sample, ids, slices_differ, before, after)


_differentiable_relu = _dispatch.differentiable(
    _noisy_relu_operator,
    _noisy_relu,
    lambda ctx, inputs, output: ctx.save_for_backward(output),
    lambda ctx, gradient: (gradient * (ctx.saved_tensors[0] > 0), *[None] * 6),
    batch_rule,
)


def _keep_tanh(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.set_materialize_grads(False)  # the tanh alone is hardly ever used


def _tanh_backward(ctx: Any, of_output: Tensor | None, of_inner: Tensor | None) -> tuple[Any, ...]:
    gradients = [g for g in (of_output, of_inner) if g is not None]
    return torch.ops.aten.tanh_backward(sum(gradients[1:], gradients[0]), ctx.saved_tensors[0]), *[None] * 7


_differentiable_tanh = _dispatch.differentiable(_noisy_tanh_operator, _noisy_tanh, _keep_tanh, _tanh_backward, batch_rule)


@_noisy_relu_operator.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return like(logits)


@_noisy_tanh_operator.register_fake
def _(logits: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return like(logits), like(logits)


def noisy_relu(logits: Tensor, key: Key, scale: float) -> Tensor:
    """max(0, a + scale z) with standard normal z; differentiable."""
    return _differentiable_relu(logits, *key, float(scale))


def noisy_tanh(logits: Tensor, key: Key, before: float, after: float) -> Tensor:
    """tanh(a + before z1) + after z2 with standard normal z1, z2; differentiable."""
    return _differentiable_tanh(logits, *key, float(before), float(after))[0]


# --- corruption ---------------------------------------------------------------------------------------------------------
def _salt_and_pepper(
    x: Tensor, seed: Tensor, site: int, sample: Tensor, ids: Tensor, slices_differ: bool, rate: float, low: float, high: float
) -> Tensor:
    def formula(rows: Tensor, noise: Tensor) -> Tensor:
        return _reference.salt_and_pepper(rows, noise, rate, low, high)

    draw = fused("salt_and_pepper", "uniform", (rate, low, high), formula)
    return rowwise(x, (seed, site, sample, ids, slices_differ), draw).view(x.shape)


@torch.library.custom_op("dither::salt_and_pepper", mutates_args=())
def _salt_and_pepper_operator(
    x: Tensor, seed: Tensor, site: int, sample: Tensor, ids: Tensor, slices_differ: bool, rate: float, low: float, high: float
) -> Tensor:
    return _salt_and_pepper(x, seed, site, sample, ids, slices_differ, rate, low, high)


_plain_salt_and_pepper = _dispatch.plainly(_salt_and_pepper_operator, _salt_and_pepper, batch_rule)


@_salt_and_pepper_operator.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return like(x)


def salt_and_pepper(x: Tensor, key: Key, rate: float, low: float = 0.0, high: float = 1.0) -> Tensor:
    """`low` with probability rate / 2, `high` with rate / 2, else x; without a gradient."""
    return _plain_salt_and_pepper(x.detach(), *key, float(rate), float(low), float(high))
