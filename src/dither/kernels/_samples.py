"""Operators that consume noise, by key or as uniforms: hard samples and their gradient, semi-hard units, corruption."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dither.kernels import _arguments, _dispatch, _reference
from dither.kernels._noise import KEYED, Key, consumer, consumer_rule, like


# --- from uniforms ------------------------------------------------------------------------------------------------------
def bernoulli_from_uniform(logits: Tensor, uniform: Tensor) -> Tensor:
    """1[u < sigmoid(a)], of the widened logits' dtype; NaN where a logit is. The same bits on all paths; no gradient."""
    logits = logits.detach()
    _arguments.require_device("uniform", uniform, logits.device)
    if torch.float64 in (logits.dtype, uniform.dtype):
        p = torch.sigmoid(logits.double())
        return torch.add((uniform < p).to(p.dtype), p, alpha=0)  # + 0 p carries NaN
    return _bernoulli_from_uniform(*_alike(logits, uniform))


def categorical_from_uniform(logits: Tensor, uniform: Tensor) -> Tensor:
    """One-hot argmax_k (a_k - log(-log(1 - u_k))) over the last dimension, of the widened logits' dtype. No gradient.

    Categories at +inf share all the mass, and a unit is NaN where a logit is or all are -inf.
    """
    logits = logits.detach()
    _require_categories(logits)
    _arguments.require_device("uniform", uniform, logits.device)
    if torch.float64 not in (logits.dtype, uniform.dtype):
        return _categorical_from_uniform(*_alike(logits, uniform))
    certain = logits == torch.inf
    proper = torch.where(certain.any(-1, keepdim=True), torch.where(certain, torch.zeros_like(logits), -torch.inf), logits)
    scores = proper - torch.log(-torch.log1p(-uniform.double()))
    hard = scores.argmax(-1, keepdim=True) == torch.arange(logits.shape[-1], device=logits.device, dtype=torch.int64)
    impossible = logits.isnan().any(-1, keepdim=True) | (logits == -torch.inf).all(-1, keepdim=True)
    return torch.where(impossible, torch.nan, hard.to(logits.dtype))


def _require_categories(logits: Tensor, rows: int = 0) -> None:
    if logits.dim() <= rows or not logits.shape[-1]:
        raise ValueError(
            f"logits has shape {tuple(logits.shape)}: the last dimension must hold one category or more, behind the batch "
            "where noise is by key; unsqueeze a dimension for a single unit"
        )


def _alike(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Both float32 and of one shape."""
    logits, uniform = _dispatch.widen(logits), uniform.detach().float()
    if logits.shape == uniform.shape:
        return logits, uniform
    logits, uniform = torch.broadcast_tensors(logits, uniform)
    return logits, uniform


def _on_uniforms(name: str, tags: tuple[torch.Tag, ...] = ()) -> Callable[..., Tensor]:
    def run(logits: Tensor, uniform: Tensor) -> Tensor:
        return getattr(_dispatch.kernels_for(logits) or _reference, name)(logits, uniform)

    schema = "(Tensor logits, Tensor uniform) -> Tensor"
    return _dispatch.operator(name, schema, run, fake=like, rule=_dispatch.elementwise, tags=tags)


_bernoulli_from_uniform = _on_uniforms("bernoulli_from_uniform", (torch.Tag.pointwise,))
_categorical_from_uniform = _on_uniforms("categorical_from_uniform")


# --- the straight-through gradient --------------------------------------------------------------------------------------
def straight_through(gradient: Tensor, logits: Tensor, factor: float = 1.0) -> Tensor:
    """factor * gradient * p (1 - p), p = sigmoid(logits), of the gradient's dtype; differentiable in grad mode."""
    _arguments.require_shape("gradient", gradient, logits.shape, "as the logits have; expand it")
    _arguments.require_device("gradient", gradient, logits.device)
    differentiable = torch.is_grad_enabled() and (gradient.requires_grad or logits.requires_grad)
    if differentiable or _dispatch.of_several(gradient):
        p = torch.sigmoid(_dispatch.widen(logits))
        return (factor * gradient * (p * (1 - p))).to(gradient.dtype)
    return _straight_through(gradient, logits, factor)


def _run_straight_through(gradient: Tensor, logits: Tensor, factor: float) -> Tensor:
    kernels = _dispatch.kernels_for(logits) if gradient.dtype == logits.dtype else None
    return (kernels or _reference).straight_through(gradient, logits, factor)


_straight_through = _dispatch.operator(
    "straight_through",
    "(Tensor gradient, Tensor logits, float factor) -> Tensor",
    _run_straight_through,
    fake=like,
    rule=_dispatch.elementwise,
    tags=(torch.Tag.pointwise,),
)


# --- binary units -------------------------------------------------------------------------------------------------------
def _bernoulli_formula(rows: Tensor, noise: Tensor) -> Tensor:
    return bernoulli_from_uniform(rows, noise).to(rows.dtype)


_sample_bernoulli = consumer("bernoulli", _bernoulli_formula)


def _save_logits(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.gradient = inputs[-1]


def _bernoulli_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    (logits,) = ctx.saved_tensors
    if ctx.gradient == "sigmoid":
        return straight_through(gradient, logits), *[None] * 6
    # A unit with p = 0 or 1 exactly has no gradient to lose.
    passing = logits.abs() < torch.inf if ctx.gradient == "identity" else logits.abs() <= 1
    return gradient * passing, *[None] * 6


_bernoulli = _dispatch.operator(
    "bernoulli",
    f"({KEYED}, str gradient) -> Tensor",
    lambda *args: _sample_bernoulli(*args[:6]),
    fake=like,
    rule=consumer_rule,
    gradient=(_save_logits, _bernoulli_backward),
)


_GRADIENTS = ("none", "identity", "sigmoid", "clipped")


def require_bias(logits: Tensor, bias: Tensor, key: Key) -> None:
    if logits.dim() <= key[3].dim():
        raise ValueError(f"logits has shape {tuple(logits.shape)}: a bias needs units behind the batch; unsqueeze the units")
    _arguments.require_shape("bias", bias, logits.shape[-1:], "one for each unit; expand it")
    _arguments.require_device("bias", bias, logits.device)


def bernoulli(logits: Tensor, key: Key, gradient: str = "none", bias: Tensor | None = None) -> Tensor:
    """Hard {0, 1} samples, P(1) = sigmoid(logits + bias), of the logits' shape and dtype.

    bias: (units,), the same for all rows; added on the way where there is no gradient to take.

    gradient: the derivative with respect to the logits that goes backward: "none", "identity", 1; "sigmoid", p (1 - p);
    or "clipped", 1 where |a| <= 1, else 0.
    """
    if gradient not in _GRADIENTS:
        raise ValueError(f"gradient is {gradient!r}: it must be one of {', '.join(map(repr, _GRADIENTS))}")
    if bias is not None:
        require_bias(logits, bias, key)
        if gradient == "none" and logits.dim() == 2 and _dispatch.native(logits) and _dispatch.plain(logits, bias):
            return _sample_bernoulli(logits.detach(), *key, bias.detach().float().contiguous())
        logits = logits + bias
    return _bernoulli(logits.detach() if gradient == "none" else logits, *key, gradient)


# --- categories ---------------------------------------------------------------------------------------------------------
def _categorical_formula(rows: Tensor, noise: Tensor, categories: int) -> Tensor:
    logits, noise = rows.unflatten(-1, (-1, categories)), noise.unflatten(-1, (-1, categories))
    hard = categorical_from_uniform(logits, noise).flatten(-2)
    if hard.is_cpu and bool(hard.isnan().any()):
        _arguments.require_possible(rows, categories)
    return hard.to(rows.dtype)


_sample_categorical = consumer("categorical", _categorical_formula)

_categorical = _dispatch.operator(
    "categorical",
    f"({KEYED}) -> Tensor",
    lambda *args: _sample_categorical(*args, args[0].shape[-1]),
    fake=like,
    rule=consumer_rule,
)


def categorical(logits: Tensor, key: Key) -> Tensor:
    """One-hot samples, P = softmax over the last dimension, without a gradient.

    A unit is NaN where a logit is. All categories of a unit at -inf are an error on the CPU, and NaN on a GPU, where
    looking at values would wait.
    """
    _require_categories(logits, key[3].dim())
    return _categorical(logits.detach(), *key)


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
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is {rate}: it is a probability, from 0 to 1; give the share of units to corrupt")
    return _salt_and_pepper(x.detach(), *key, float(rate), float(low), float(high))
