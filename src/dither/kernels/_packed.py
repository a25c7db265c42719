"""Operators on packed bits: 64 units to an int64 word, unit i of a row in bit i mod 64 of word i div 64, zeros behind
the last.

A product with packed bits looks up, for every four bits, the sum of the weights whose bits are 1: a quarter of the
additions of a dense product, no multiplications, and 1/32 of the activation's bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from dither.kernels import _arguments, _dispatch, _native, _reference
from dither.kernels._dispatch import Dims, batched
from dither.kernels._noise import KEYED, Key, consumer, consumer_rule, like
from dither.kernels._samples import bernoulli_from_uniform, require_bias

MIN_ROWS = 32  # below it the tables of sums cost more than they save, and the bits are unpacked for a dense product


def _implementation(packed: Tensor, numbers: Tensor) -> ModuleType:
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
    if not values.dim():
        raise ValueError("values has shape (): (..., units) is needed; use values.view(1)")
    flat = values.detach().reshape(-1, values.shape[-1])
    kernels = _native if _dispatch.plain(flat) and _dispatch.native(flat) else _reference
    return kernels.pack(flat).view(*values.shape[:-1], -(-values.shape[-1] // 64))


def unpack(packed: Tensor, units: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The {0, 1} values (..., units) of packed bits."""
    _check(packed, units)
    flat = packed.reshape(-1, packed.shape[-1])
    fit = packed.is_cpu and _dispatch.plain(packed) and _dispatch.native(torch.empty(0, dtype=dtype, device="cpu"))
    kernels = _native if fit else _reference
    return kernels.unpack(flat, units, dtype).view(*packed.shape[:-1], units)


def _packed_formula(rows: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    values = bernoulli_from_uniform(rows, noise).to(rows.dtype)
    return values, _reference.pack(torch.nan_to_num(values))


def _packed_fake(x: Tensor, seed: Tensor, site: int, sample: Tensor, ids: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    rows = sample.dim() + 1
    return like(x), ids.new_empty((*x.shape[:rows], -(-math.prod(x.shape[rows:]) // 64)))


_bernoulli_packed = _dispatch.operator(
    "bernoulli_packed",
    f"({KEYED}) -> (Tensor, Tensor)",
    consumer("bernoulli_packed", _packed_formula),
    fake=_packed_fake,
    rule=consumer_rule,
)
_bernoulli_bits = consumer("bernoulli_bits", lambda rows, noise, bias: _packed_formula(rows, noise)[1])


def bernoulli_packed(logits: Tensor, key: Key) -> tuple[Tensor, Tensor]:
    """(values, packed) of the same hard samples: {0, 1} of the logits' shape and dtype, and the bits (batch, words) of
    all units of an example in a row. Without a gradient."""
    return _bernoulli_packed(logits.detach(), *key)


def bernoulli_bits(logits: Tensor, key: Key, bias: Tensor | None = None) -> Tensor:
    """The packed bits alone, P(1) = sigmoid(logits + bias): (batch, words). bias: (units,). Without a gradient."""
    if bias is not None:
        require_bias(logits, bias, key)
    if logits.dim() != 2 or not (_dispatch.plain(logits) and _dispatch.native(logits)):
        return bernoulli_packed(logits if bias is None else logits + bias, key)[1]
    return _bernoulli_bits(logits.detach(), *key, None if bias is None else bias.detach().float().contiguous())


def _require_same_rows(packed: Tensor, numbers: Tensor, name: str) -> None:
    if packed.shape[:-1] != numbers.shape[:-1] or not numbers.dim():
        raise ValueError(
            f"packed has shape {tuple(packed.shape)} and {name} {tuple(numbers.shape)}: all but the last dimension must be the "
            "same; expand or slice one of them"
        )
    _arguments.require_device("packed", packed, numbers.device)


# --- products -----------------------------------------------------------------------------------------------------------
def _linear(packed: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = packed.reshape(-1, packed.shape[-1])
    if len(rows) < MIN_ROWS:
        return torch.nn.functional.linear(unpack(packed, weight.shape[1], weight.dtype), weight, bias)
    return _implementation(rows, weight).packed_linear(rows, weight, bias).view(*packed.shape[:-1], len(weight))


def _outer(packed: Tensor, gradient: Tensor, inputs: int) -> Tensor:
    rows, flat = packed.reshape(-1, packed.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    if len(rows) < MIN_ROWS:
        return flat.T @ unpack(rows, inputs, flat.dtype)
    return _implementation(rows, flat).packed_outer(rows, flat, inputs)


def _linear_rule(
    call: Callable[..., Tensor], size: int, in_dims: Dims, packed: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, int]:
    if in_dims[1] is None and in_dims[2] is None:
        return call(packed.movedim(in_dims[0] or 0, 0), weight, bias), 0
    packed, weight = batched(size, packed, in_dims[0]), batched(size, weight, in_dims[1])
    output = _reference.unpack(packed, weight.shape[-1], weight.dtype) @ weight.mT
    return output if bias is None else output + batched(size, bias, in_dims[2]).unsqueeze(-2), 0


def _no_rule(*_: Any) -> Any:
    raise NotImplementedError("packed_outer in a vmap: it sums over the batch, whatever its dimensions; call it outside")


def _save_packed(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    packed, weight, bias = inputs
    ctx.save_for_backward(packed)
    ctx.inputs, ctx.has_bias = weight.shape[1], bias is not None


def _linear_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    (packed,) = ctx.saved_tensors
    of_bias = gradient.reshape(-1, gradient.shape[-1]).sum(0) if ctx.has_bias else None
    return None, packed_outer(packed, gradient, ctx.inputs), of_bias


_packed_linear = _dispatch.operator(
    "packed_linear",
    "(Tensor packed, Tensor weight, Tensor? bias) -> Tensor",
    _linear,
    fake=lambda packed, weight, bias: weight.new_empty((*packed.shape[:-1], len(weight))),
    rule=_linear_rule,
    gradient=(_save_packed, _linear_backward),
)
_packed_outer = _dispatch.operator(
    "packed_outer",
    "(Tensor packed, Tensor gradient, int inputs) -> Tensor",
    _outer,
    fake=lambda packed, gradient, inputs: gradient.new_empty((gradient.shape[-1], inputs)),
    rule=_no_rule,
)


def packed_linear(packed: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """h W^T + b for packed bits h: (..., words), (outputs, inputs), (outputs,) -> (..., outputs).

    Differentiable in weight and bias. Native for float32 on the CPU; elsewhere a dense product of unpacked bits.
    """
    if weight.dim() != 2:
        raise ValueError(f"weight has shape {tuple(weight.shape)}: (outputs, inputs) is needed, as nn.Linear has it")
    _check(packed, weight.shape[1])
    _arguments.require_device("packed", packed, weight.device)
    if bias is not None:
        _arguments.require_shape("bias", bias, weight.shape[:1], "one for each output; expand it")
        _arguments.require_dtype("bias", bias, weight.dtype, "as the weight has")
        _arguments.require_device("bias", bias, weight.device)
    return _packed_linear(packed, weight, bias)


def packed_outer(packed: Tensor, gradient: Tensor, inputs: int) -> Tensor:
    """gradient^T h, (outputs, inputs): that of `packed_linear` with respect to its weight. gradient: (..., outputs)."""
    _check(packed, inputs)
    _require_same_rows(packed, gradient, "gradient")
    return _packed_outer(packed, gradient, inputs)


# --- score --------------------------------------------------------------------------------------------------------------
def packed_score(packed: Tensor, logits: Tensor, advantage: Tensor, in_place: bool = False) -> Tensor:
    """(h - sigmoid(a)) advantage: (rows, words), (rows, units), (rows, 1) or (rows, units) -> (rows, units).

    Without a gradient. in_place: the logits may be overwritten, to save memory.
    """
    _check(packed, logits.shape[-1])
    _require_same_rows(packed, logits, "logits")
    rows, units = logits.shape
    if advantage.dim() != 2 or len(advantage) not in (1, rows) or advantage.shape[1] not in (1, units):
        raise ValueError(f"advantage has shape {tuple(advantage.shape)}: {(rows, 1)} or {(rows, units)} is needed; expand it")
    _arguments.require_device("advantage", advantage, logits.device)
    logits, advantage = logits.detach(), advantage.detach()
    return _implementation(packed, logits).packed_score(packed, logits, advantage, in_place)


def packed_log_prob(packed: Tensor, logits: Tensor) -> Tensor:
    """log P(h) summed over units: (rows, words), (rows, units) -> (rows,); no gradient."""
    _check(packed, logits.shape[-1])
    _require_same_rows(packed, logits, "logits")
    return _implementation(packed, logits).packed_log_prob(packed, logits.detach())
