"""Operators that add noise by key, or put it in the place of values: semi-hard units and corruption."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dither.kernels import _dispatch, _reference
from dither.kernels._noise import KEYED, Key, consumer, consumer_rule, like


# --- semi-hard units ----------------------------------------------------------------------------------------------------
def _relu_formula(a: Tensor, z: Tensor, scale: float) -> Tensor:
    return _reference.noisy_relu(a, z.to(a.dtype), scale)


def _tanh_formula(a: Tensor, z: Tensor, before: float, after: float) -> tuple[Tensor, Tensor]:
    return _reference.noisy_tanh(a, z.unflatten(-1, (-1, 2)).to(a.dtype), before, after)


def _save_tanh(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.set_materialize_grads(False)  # the tanh alone is hardly ever used


def _tanh_backward(ctx: Any, of_output: Tensor | None, of_inner: Tensor | None) -> tuple[Tensor | None, ...]:
    gradients = [g for g in (of_output, of_inner) if g is not None]
    return torch.ops.aten.tanh_backward(sum(gradients[1:], gradients[0]), ctx.saved_tensors[0]), *[None] * 7


_noisy_relu = _dispatch.operator(
    "noisy_relu",
    f"({KEYED}, float scale) -> Tensor",
    consumer("noisy_relu", _relu_formula, "normal"),
    fake=like,
    rule=consumer_rule,
    gradient=(
        lambda ctx, inputs, output: ctx.save_for_backward(output),
        lambda ctx, gradient: (gradient * (ctx.saved_tensors[0] > 0), *[None] * 6),
    ),
)

_noisy_tanh = _dispatch.operator(
    "noisy_tanh",
    f"({KEYED}, float before, float after) -> (Tensor, Tensor)",
    consumer("noisy_tanh", _tanh_formula, "normal", per_unit=2),
    fake=lambda x, *_: (like(x), like(x)),
    rule=consumer_rule,
    gradient=(_save_tanh, _tanh_backward),
)


def noisy_relu(logits: Tensor, key: Key, scale: float) -> Tensor:
    """max(0, a + scale z) with standard normal z; differentiable."""
    return _noisy_relu(logits, *key, float(scale))


def noisy_tanh(logits: Tensor, key: Key, before: float, after: float) -> Tensor:
    """tanh(a + before z1) + after z2 with standard normal z1, z2; differentiable."""
    return _noisy_tanh(logits, *key, float(before), float(after))[0]


# --- corruption ---------------------------------------------------------------------------------------------------------
_salt_and_pepper = _dispatch.operator(
    "salt_and_pepper",
    f"({KEYED}, float rate, float low, float high) -> Tensor",
    consumer("salt_and_pepper", _reference.salt_and_pepper),
    fake=like,
    rule=consumer_rule,
)


def salt_and_pepper(x: Tensor, key: Key, rate: float, low: float = 0.0, high: float = 1.0) -> Tensor:
    """`low` with probability rate / 2, `high` with rate / 2, else x; without a gradient."""
    return _salt_and_pepper(x.detach(), *key, float(rate), float(low), float(high))
