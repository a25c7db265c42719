"""Operators on packed bits: 64 decisions to an int64 word, unit i of a row in bit i mod 64 of word i div 64, zeros behind the
last.

A product with packed bits looks up, for every four bits, the sum of the weights that they choose: a quarter of the additions of
a dense product, no multiplications, and 1/32 of the activation's bytes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dither.kernels import _dispatch, _native, _reference
from dither.kernels._samples import Key, batch_rule, decide, rowwise, simple

FEWEST_ROWS = 32  # below it the tables of sums cost more than they save, and the bits are unpacked for a dense product


def _implementation(packed: Tensor, numbers: Tensor) -> Any:
    fit = numbers.dtype == torch.float32 and packed.is_cpu and _dispatch.native(numbers) and _dispatch.plain(packed, numbers)
    return _native if fit else _reference


def _check(packed: Tensor, units: int, name: str = "packed") -> None:
    if packed.dtype != torch.int64 or packed.dim() < 1 or packed.shape[-1] != -(-units // 64):
        raise ValueError(
            f"{name} has shape {tuple(packed.shape)} and dtype {packed.dtype}: {units} units take int64 words of shape "
            f"(..., {-(-units // 64)}); make them with dither.kernels.pack"
        )


# --- to and from bits ---------------------------------------------------------------------------------------------------
def pack(values: Tensor) -> Tensor:
    """(..., units) numbers -> (..., ceil(units / 64)) int64 words, a bit for every value that is not 0."""
    flat = values.detach().reshape(-1, values.shape[-1])
    kernels = _native if _dispatch.plain(flat) and _dispatch.native(flat) else _reference
    return kernels.pack(flat).view(*values.shape[:-1], -(-values.shape[-1] // 64))


def unpack(packed: Tensor, units: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The {0, 1} values (..., units) of packed bits."""
    _check(packed, units)
    flat = packed.reshape(-1, packed.shape[-1])
    fit = packed.is_cpu and _dispatch.plain(packed) and _dispatch.native(torch.empty(0, dtype=dtype))
    kernels = _native if fit else _reference
    return kernels.unpack(flat, units, dtype).view(*packed.shape[:-1], units)


def _packed_rows(rows: Tensor, seed: int, site: int, samples: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    if _dispatch.native(rows):
        values, packed, has_nan = _native.bernoulli(rows, seed, site, samples, ids, packed=True)
        assert values is not None and packed is not None
        return torch.where(rows.isnan(), torch.nan, values) if has_nan else values, packed
    values = decide(rows, _dispatch.noise("uniform", seed, site, samples, ids, rows.shape[-1])).to(rows.dtype)
    return values, _reference.pack(torch.nan_to_num(values))


def _bernoulli_packed(
    logits: Tensor, seed: Tensor, site: int, sample: Tensor, ids: Tensor, slices_differ: bool
) -> tuple[Tensor, Tensor]:
    if simple(logits, seed, ids):
        values, packed, has_nan = _native.bernoulli_contiguous(logits, int(seed), site, sample, ids, packed=True)
        assert packed is not None
        return torch.where(logits.isnan(), torch.nan, values) if has_nan else values, packed
    values, packed = rowwise(logits, (seed, site, sample, ids, slices_differ), _packed_rows)
    return values.view(logits.shape), packed.view(*ids.shape, packed.shape[-1])


@torch.library.custom_op("dither::bernoulli_packed", mutates_args=())
def _bernoulli_packed_operator(
    logits: Tensor, seed: Tensor, site: int, sample: Tensor, ids: Tensor, slices_differ: bool
) -> tuple[Tensor, Tensor]:
    return _bernoulli_packed(logits, seed, site, sample, ids, slices_differ)


_plain_bernoulli_packed = _dispatch.plainly(_bernoulli_packed_operator, _bernoulli_packed, batch_rule)


@_bernoulli_packed_operator.register_fake
def _(logits: Tensor, seed: Tensor, site: int, sample: Tensor, ids: Tensor, slices_differ: bool) -> tuple[Tensor, Tensor]:
    words = -(-math.prod(logits.shape[ids.dim() :]) // 64)
    return torch.empty_like(logits, memory_format=torch.contiguous_format), ids.new_empty((*ids.shape, words))


def bernoulli_packed(logits: Tensor, key: Key) -> tuple[Tensor, Tensor]:
    """(values, packed) of the same hard samples: {0, 1} of the logits' shape and dtype, and the bits (batch, words) of all
    units of an example in a row. Without a gradient."""
    return _plain_bernoulli_packed(logits.detach(), *key)


def bernoulli_bits(logits: Tensor, key: Key, bias: Tensor | None = None) -> Tensor:
    """The packed bits alone, P(1) = sigmoid(logits + bias): (batch, words). bias: (units,). Without a gradient."""
    if not (_dispatch.plain(logits) and _dispatch.native(logits)):
        return bernoulli_packed(logits if bias is None else logits + bias, key)[1]

    def draw(rows: Tensor, seed: int, site: int, samples: Tensor, ids: Tensor) -> Tensor:
        packed = _native.bernoulli(rows, seed, site, samples, ids, values=False, packed=True, bias=wide)[1]
        assert packed is not None
        return packed

    wide = None if bias is None else bias.detach().float().contiguous()
    return rowwise(logits.detach(), key, draw).view(len(logits), -1)


# --- products -----------------------------------------------------------------------------------------------------------
def _linear(packed: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = packed.reshape(-1, packed.shape[-1])
    if len(rows) < FEWEST_ROWS:
        return torch.nn.functional.linear(unpack(packed, weight.shape[1], weight.dtype), weight, bias)
    return _implementation(rows, weight).packed_linear(rows, weight, bias).view(*packed.shape[:-1], len(weight))


def _outer(packed: Tensor, gradient: Tensor, inputs: int) -> Tensor:
    rows, flat = packed.reshape(-1, packed.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    if len(rows) < FEWEST_ROWS:
        return flat.T @ unpack(rows, inputs, flat.dtype)
    return _implementation(rows, flat).packed_outer(rows, flat, inputs)


@torch.library.custom_op("dither::packed_linear", mutates_args=())
def _packed_linear_operator(packed: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _linear(packed, weight, bias)


@torch.library.custom_op("dither::packed_outer", mutates_args=())
def _packed_outer_operator(packed: Tensor, gradient: Tensor, inputs: int) -> Tensor:
    return _outer(packed, gradient, inputs)


@_packed_linear_operator.register_fake
def _(packed: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return weight.new_empty((*packed.shape[:-1], len(weight)))


@_packed_outer_operator.register_fake
def _(packed: Tensor, gradient: Tensor, inputs: int) -> Tensor:
    return gradient.new_empty((gradient.shape[-1], inputs))


def _linear_rule(operator: Any, info: Any, in_dims: Any, packed: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
    if in_dims[1] is None and in_dims[2] is None:
        return operator(packed.movedim(in_dims[0], 0), weight, bias), 0
    packed, weight = (_dispatch.batched(info.batch_size, t, d) for t, d in ((packed, in_dims[0]), (weight, in_dims[1])))
    output = _reference.unpack(packed, weight.shape[-1], weight.dtype) @ weight.mT
    return output if bias is None else output + _dispatch.batched(info.batch_size, bias, in_dims[2]).unsqueeze(-2), 0


def _no_rule(*_: Any) -> Any:
    raise NotImplementedError("packed_outer in a vmap: it sums over the batch, whatever its dimensions; call it outside")


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    packed, weight, bias = inputs
    ctx.save_for_backward(packed)
    ctx.inputs, ctx.has_bias = weight.shape[1], bias is not None


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    (packed,) = ctx.saved_tensors
    of_bias = gradient.reshape(-1, gradient.shape[-1]).sum(0) if ctx.has_bias else None
    return None, packed_outer(packed, gradient, ctx.inputs), of_bias


_differentiable_linear = _dispatch.differentiable(_packed_linear_operator, _linear, _keep, _gradients, _linear_rule)
_plain_outer = _dispatch.plainly(_packed_outer_operator, _outer, _no_rule)


def packed_linear(packed: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """h W^T + b for packed bits h: (..., words), (outputs, inputs), (outputs,) -> (..., outputs).

    Differentiable in weight and bias. float32 on the CPU is native; elsewhere the bits are unpacked for a dense product.
    """
    _check(packed, weight.shape[1])
    return _differentiable_linear(packed, weight, bias)


def packed_outer(packed: Tensor, gradient: Tensor, inputs: int) -> Tensor:
    """gradient^T h, (outputs, inputs): the gradient of `packed_linear` with respect to its weight. gradient: (..., outputs)."""
    _check(packed, inputs)
    return _plain_outer(packed, gradient, inputs)


# --- score --------------------------------------------------------------------------------------------------------------
def packed_score(packed: Tensor, logits: Tensor, advantage: Tensor, in_place: bool = False) -> Tensor:
    """(h - sigmoid(a)) advantage: (rows, words), (rows, units), (rows, 1) or (rows, units) -> (rows, units); no gradient.

    in_place: the logits may be overwritten, to save memory."""
    _check(packed, logits.shape[-1])
    logits, advantage = logits.detach(), advantage.detach()
    return _implementation(packed, logits).packed_score(packed, logits, advantage, in_place)


def packed_log_prob(packed: Tensor, logits: Tensor) -> Tensor:
    """log P(h) summed over units: (rows, words), (rows, units) -> (rows,); no gradient."""
    _check(packed, logits.shape[-1])
    return _implementation(packed, logits).packed_log_prob(packed, logits.detach())
