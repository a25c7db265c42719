"""Operators that draw noise by key and consume it at once: what stochastic nodes sample with.

x: (*lead, batch, *units); seed, sample: shape lead; ids: (*lead, batch). float32 and bfloat16 are fused; other dtypes draw
float32 noise first, and decide in float32 or wider. Where a vmap batches x and not the sample, its slices have draws of their
own if `slices_differ`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dither.kernels import _dispatch, _native
from dither.kernels._pointwise import gumbel_max, straight_through, threshold

Key = tuple[Tensor, int, Tensor, Tensor, bool]  # seed, site, sample, ids, slices_differ


def decide(logits: Tensor, noise: Tensor) -> Tensor:
    """1[u < sigmoid(a)], of the widened logits' dtype, by the rule that all paths share; NaN where a logit is."""
    if torch.float64 in (logits.dtype, noise.dtype):
        p = torch.sigmoid(logits.detach().double())
        return torch.add((noise < p).to(p.dtype), p, alpha=0)  # + 0 p carries NaN
    return threshold(*torch.broadcast_tensors(_dispatch.widen(logits), noise.float()))


def choose(logits: Tensor, noise: Tensor) -> Tensor:
    """One-hot argmax of logits + Gumbel noise over the last dimension, of the widened logits' dtype."""
    if torch.float64 not in (logits.dtype, noise.dtype):
        return gumbel_max(*torch.broadcast_tensors(_dispatch.widen(logits), noise.float()))
    scores = logits.detach() - torch.log(-torch.log1p(-noise.double()))
    hard = scores.argmax(-1, keepdim=True) == torch.arange(logits.shape[-1], device=logits.device)
    return hard.to(logits.dtype)


# --- rows ---------------------------------------------------------------------------------------------------------------
def rowwise(x: Tensor, key: Key, draw: Callable[..., Any]) -> Any:
    """draw(rows (lead, batch, units), seed, site, samples, ids) for each seed of the key."""
    seed, site, sample, ids, _ = key
    flat = _dispatch.flat(x, sample, ids)
    return _dispatch.by_seed(
        seed, sample, ids, lambda number, k, row_ids, i: draw(flat if i is None else flat[i], number, site, k, row_ids)
    )


def fused(
    name: str, kind: str, args: tuple[Any, ...], formula: Callable[[Tensor, Tensor], Any], noises: int = 1
) -> Callable[..., Any]:
    """The kernel of that name where there is one for these rows, else formula(rows, noise)."""

    def draw(rows: Tensor, seed: Any, site: int, samples: Tensor, ids: Tensor) -> Any:
        kernels = _native if _dispatch.native(rows) else _dispatch.gpu(rows)
        if kernels is not None:
            return getattr(kernels, name)(rows, seed, site, _dispatch.moved(samples, rows.device), ids, *args)
        return formula(rows, _dispatch.noise(kind, seed, site, samples, ids, rows.shape[-1] * noises))

    return draw


def batch_rule(operator: Callable[..., Any], info: Any, in_dims: Any, x: Tensor, *args: Any) -> Any:
    """The vmap rule of an operator of (x, *key, ...)."""
    seed, site, sample, ids, slices_differ, *rest = args
    lead = _dispatch.own_draws(info, sample, in_dims[3], slices_differ and in_dims[0] is not None)
    given = ((x, in_dims[0]), (seed, in_dims[1]), (ids, in_dims[4]))
    x, seed, ids = (_dispatch.batched(info.batch_size, tensor, dim) for tensor, dim in given)
    made = operator(x, seed, site, lead, ids, slices_differ, *rest)
    return made, 0 if isinstance(made, Tensor) else (0,) * len(made)


def simple(logits: Tensor, seed: Tensor, ids: Tensor) -> bool:
    """Whether one call of the native library does it, without a look at leading dimensions or strides."""
    return seed.dim() == 0 and _dispatch.native(logits) and logits.is_contiguous() and ids.is_contiguous() and len(ids) > 0


def like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


# --- binary units -------------------------------------------------------------------------------------------------------
def _bernoulli_rows(rows: Tensor, seed: Any, site: int, samples: Tensor, ids: Tensor, bias: Tensor | None = None) -> Tensor:
    if _dispatch.native(rows):
        values, _, has_nan = _native.bernoulli(rows, seed, site, samples, ids, bias=bias)
        assert values is not None
        return torch.where((rows if bias is None else rows + bias).isnan(), torch.nan, values) if has_nan else values
    kernels = _dispatch.gpu(rows)
    if kernels is not None:
        return kernels.bernoulli(rows, seed, site, _dispatch.moved(samples, rows.device), ids)
    return decide(rows, _dispatch.noise("uniform", seed, site, samples, ids, rows.shape[-1])).to(rows.dtype)


def _bernoulli(
    logits: Tensor, seed: Tensor, site: int, sample: Tensor, ids: Tensor, slices_differ: bool, gradient: str
) -> Tensor:
    if simple(logits, seed, ids):
        values, _, has_nan = _native.bernoulli_contiguous(logits, int(seed), site, sample, ids)
        return torch.where(logits.isnan(), torch.nan, values) if has_nan else values
    return rowwise(logits, (seed, site, sample, ids, slices_differ), _bernoulli_rows).view(logits.shape)


@torch.library.custom_op("dither::bernoulli", mutates_args=())
def _bernoulli_operator(
    logits: Tensor, seed: Tensor, site: int, sample: Tensor, ids: Tensor, slices_differ: bool, gradient: str
) -> Tensor:
    return _bernoulli(logits, seed, site, sample, ids, slices_differ, gradient)


def _keep_logits(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.gradient = inputs[-1]


def _bernoulli_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    (logits,) = ctx.saved_tensors
    if ctx.gradient == "sigmoid":
        return straight_through(gradient, logits), *[None] * 6
    # A unit with p = 0 or 1 exactly has no gradient to lose.
    passing = logits.abs() < torch.inf if ctx.gradient == "identity" else logits.abs() <= 1
    return gradient * passing, *[None] * 6


_differentiable_bernoulli = _dispatch.differentiable(
    _bernoulli_operator, _bernoulli, _keep_logits, _bernoulli_backward, batch_rule
)


_plain_bernoulli = _dispatch.plainly(_bernoulli_operator, _bernoulli, batch_rule)


@_bernoulli_operator.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return like(logits)


def bernoulli(logits: Tensor, key: Key, gradient: str = "none", bias: Tensor | None = None) -> Tensor:
    """Hard {0, 1} samples, P(1) = sigmoid(logits + bias), of the logits' shape and dtype.

    bias: (units,), the same for all rows; added on the way where there is no gradient to take.

    gradient: the derivative with respect to the logits that goes backward: "none", "identity" (1), "sigmoid" (p (1 - p)) or
    "clipped" (1 where |a| <= 1, else 0).
    """
    if bias is not None and (gradient != "none" or not _dispatch.native(logits) or not _dispatch.plain(logits, bias)):
        logits, bias = logits + bias, None
    if bias is None:
        if gradient == "none":
            return _plain_bernoulli(logits.detach(), *key, gradient)
        return _differentiable_bernoulli(logits, *key, gradient)
    return rowwise(logits.detach(), key, partial(_bernoulli_rows, bias=bias.detach().float().contiguous())).view(logits.shape)


# --- categories ---------------------------------------------------------------------------------------------------------
def _categorical(logits: Tensor, seed: Tensor, site: int, sample: Tensor, ids: Tensor, slices_differ: bool) -> Tensor:
    categories = logits.shape[-1]

    def formula(rows: Tensor, noise: Tensor) -> Tensor:
        return choose(rows.unflatten(-1, (-1, categories)), noise.unflatten(-1, (-1, categories))).flatten(-2).to(rows.dtype)

    draw = fused("categorical", "uniform", (categories,), formula)
    return rowwise(logits, (seed, site, sample, ids, slices_differ), draw).view(logits.shape)


@torch.library.custom_op("dither::categorical", mutates_args=())
def _categorical_operator(logits: Tensor, seed: Tensor, site: int, sample: Tensor, ids: Tensor, slices_differ: bool) -> Tensor:
    return _categorical(logits, seed, site, sample, ids, slices_differ)


_plain_categorical = _dispatch.plainly(_categorical_operator, _categorical, batch_rule)


@_categorical_operator.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return like(logits)


def categorical(logits: Tensor, key: Key) -> Tensor:
    """One-hot samples, P = softmax over the last dimension, without a gradient."""
    return _plain_categorical(logits.detach(), *key)
