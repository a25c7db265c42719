"""The native library on tensors: each function takes and gives what its namesake in `_reference` does, on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from dither.kernels._library import LIBRARY, Input, Rows

DTYPES = {torch.float32: 0, torch.bfloat16: 1}


def _rows(seed: int, site: int, samples: Tensor, ids: Tensor, units: int) -> tuple[Rows, tuple[Tensor, ...]]:
    """The rows, and the tensors that must outlive the call."""
    samples, ids = samples.contiguous(), ids if ids.shape[-1] < 2 or ids.stride(-1) == 1 else ids.contiguous()
    lead, batch = ids.shape
    places = (ids.data_ptr(), ids.stride(0) if lead > 1 else 0, samples.data_ptr())
    return Rows(lead, batch, units, *places, seed & 0xFFFFFFFFFFFFFFFF, site), (samples, ids)


def _input(values: Tensor) -> tuple[Input, Tensor]:
    if values.shape[-1] > 1 and values.stride(-1) != 1:
        values = values.contiguous()
    return Input(values.data_ptr(), values.stride(0), values.stride(1), DTYPES[values.dtype]), values


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _check(result: int) -> int:
    if result < 0:
        raise MemoryError("a native kernel of dither found no memory for its tables")
    return result


def uniform(seed: int, site: int, samples: Tensor, ids: Tensor, units: int) -> Tensor:
    rows, _alive = _rows(seed, site, samples, ids, units)
    out = torch.empty((*ids.shape, units))
    LIBRARY.dither_uniform(rows, out.data_ptr(), torch.get_num_threads())
    return out


def normal(seed: int, site: int, samples: Tensor, ids: Tensor, units: int) -> Tensor:
    rows, _alive = _rows(seed, site, samples, ids, units)
    out = torch.empty((*ids.shape, units))
    LIBRARY.dither_normal(rows, out.data_ptr(), torch.get_num_threads())
    return out


def bernoulli(
    logits: Tensor,
    seed: int,
    site: int,
    samples: Tensor,
    ids: Tensor,
    values: bool = True,
    packed: bool = False,
    bias: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None, bool]:
    """({0, 1} of the logits' dtype, packed bits, whether a logit is NaN); each of the two where it is wanted. bias: float32."""
    units = logits.shape[-1]
    rows, _alive = _rows(seed, site, samples, ids, units)
    given, _logits = _input(logits)
    out = torch.empty(logits.shape, dtype=logits.dtype) if values else None
    words = torch.empty((*logits.shape[:-1], -(-units // 64)), dtype=torch.int64) if packed else None
    made = (_pointer(out), _pointer(words), None)
    found = LIBRARY.dither_bernoulli(rows, given, _pointer(bias), 0.0, 1.0, *made, torch.get_num_threads())
    return out, words, found > 0


def bernoulli_contiguous(
    logits: Tensor, seed: int, site: int, sample: Tensor, ids: Tensor, packed: bool = False
) -> tuple[Tensor, Tensor | None, bool]:
    """`bernoulli` of contiguous logits (batch, *units) under one sample, with as little around the call as can be: small layers
    take less time than a few operations on tensors."""
    batch, out = len(ids), torch.empty(logits.shape, dtype=logits.dtype)
    units = logits.numel() // batch
    words = torch.empty(batch, -(-units // 64), dtype=torch.int64) if packed else None
    rows = Rows(1, batch, units, ids.data_ptr(), 0, sample.data_ptr(), seed & 0xFFFFFFFFFFFFFFFF, site)
    given = Input(logits.data_ptr(), 0, units, DTYPES[logits.dtype])
    made = (out.data_ptr(), _pointer(words), None)
    found = LIBRARY.dither_bernoulli(rows, given, None, 0.0, 1.0, *made, torch.get_num_threads())
    return out, words, found > 0


def categorical(logits: Tensor, seed: int, site: int, samples: Tensor, ids: Tensor, categories: int) -> Tensor:
    """logits (lead, batch, units * categories)."""
    rows, _alive = _rows(seed, site, samples, ids, logits.shape[-1])
    given, _logits = _input(logits)
    out = torch.empty(logits.shape, dtype=logits.dtype)
    _check(LIBRARY.dither_categorical(rows, given, categories, out.data_ptr(), torch.get_num_threads()))
    return out


def noisy_relu(logits: Tensor, seed: int, site: int, samples: Tensor, ids: Tensor, scale: float) -> Tensor:
    rows, _alive = _rows(seed, site, samples, ids, logits.shape[-1])
    given, _logits = _input(logits)
    out = torch.empty(logits.shape, dtype=logits.dtype)
    LIBRARY.dither_noisy_relu(rows, given, scale, out.data_ptr(), torch.get_num_threads())
    return out


def noisy_tanh(
    logits: Tensor, seed: int, site: int, samples: Tensor, ids: Tensor, before: float, after: float
) -> tuple[Tensor, Tensor]:
    rows, _alive = _rows(seed, site, samples, ids, 2 * logits.shape[-1])
    given, _logits = _input(logits)
    out, inner = (torch.empty(logits.shape, dtype=logits.dtype) for _ in range(2))
    LIBRARY.dither_noisy_tanh(rows, given, before, after, out.data_ptr(), inner.data_ptr(), torch.get_num_threads())
    return out, inner


def salt_and_pepper(
    x: Tensor, seed: int, site: int, samples: Tensor, ids: Tensor, rate: float, low: float, high: float
) -> Tensor:
    rows, _alive = _rows(seed, site, samples, ids, x.shape[-1])
    given, _x = _input(x)
    out = torch.empty(x.shape, dtype=x.dtype)
    LIBRARY.dither_salt_and_pepper(rows, given, rate, low, high, out.data_ptr(), torch.get_num_threads())
    return out


def threshold(logits: Tensor, noise: Tensor) -> Tensor:
    logits, noise = logits.contiguous(), noise.contiguous()
    out = torch.empty(logits.shape)
    LIBRARY.dither_threshold(logits.data_ptr(), noise.data_ptr(), out.data_ptr(), out.numel(), torch.get_num_threads())
    return out


def gumbel_max(logits: Tensor, noise: Tensor) -> Tensor:
    logits, noise = logits.contiguous(), noise.contiguous()
    out, categories = torch.empty(logits.shape), logits.shape[-1]
    places = (logits.data_ptr(), noise.data_ptr(), out.data_ptr())
    _check(LIBRARY.dither_gumbel_max(*places, out.numel() // categories, categories, categories, torch.get_num_threads()))
    return out


def straight_through(gradient: Tensor, logits: Tensor, factor: float) -> Tensor:
    gradient, logits = gradient.contiguous(), logits.contiguous()
    out = torch.empty(logits.shape, dtype=logits.dtype)
    places = (gradient.data_ptr(), logits.data_ptr(), DTYPES[logits.dtype], factor, out.data_ptr())
    LIBRARY.dither_straight_through(*places, out.numel(), torch.get_num_threads())
    return out


def pack(values: Tensor) -> Tensor:
    values = values.contiguous()
    rows, units = values.shape
    out = torch.empty(rows, -(-units // 64), dtype=torch.int64)
    LIBRARY.dither_pack(values.data_ptr(), DTYPES[values.dtype], out.data_ptr(), rows, units, torch.get_num_threads())
    return out


def unpack(packed: Tensor, units: int, dtype: torch.dtype) -> Tensor:
    packed = packed.contiguous()
    out = torch.empty(len(packed), units, dtype=dtype)
    place = (packed.data_ptr(), 0.0, 1.0, DTYPES[dtype], out.data_ptr())
    LIBRARY.dither_unpack(*place, len(packed), units, torch.get_num_threads())
    return out


def turn_bits(packed: Tensor, units: int) -> Tensor:
    packed = packed.contiguous()
    out = torch.empty(units, -(-len(packed) // 64), dtype=torch.int64)
    LIBRARY.dither_turn_bits(packed.data_ptr(), out.data_ptr(), len(packed), units, torch.get_num_threads())
    return out


def packed_linear(packed: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    packed, weight = packed.contiguous(), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    out = torch.empty(len(packed), len(weight))
    places = (packed.data_ptr(), weight.data_ptr(), _pointer(bias), out.data_ptr())
    sizes = (len(packed), weight.shape[1], len(weight))
    _check(LIBRARY.dither_packed_linear(*places, *sizes, torch.get_num_threads()))
    return out


def packed_outer(packed: Tensor, gradient: Tensor, inputs: int) -> Tensor:
    gradient = gradient.contiguous()
    turned = turn_bits(packed, inputs)
    batch, outputs = gradient.shape
    out = torch.empty(outputs, inputs)
    places = (turned.data_ptr(), gradient.data_ptr(), out.data_ptr())
    _check(LIBRARY.dither_packed_outer(*places, inputs, batch, outputs, 0, torch.get_num_threads()))
    return out


def packed_score(packed: Tensor, logits: Tensor, advantage: Tensor, in_place: bool = False) -> Tensor:
    packed, logits = packed.contiguous(), logits.contiguous()
    advantage = advantage.float().expand(len(logits), advantage.shape[-1])
    if advantage.shape[-1] == logits.shape[-1]:
        advantage = advantage.contiguous()
    out = logits if in_place else torch.empty_like(logits)
    strides = (advantage.stride(0), 1 if advantage.shape[-1] == logits.shape[-1] else 0)
    places = (packed.data_ptr(), logits.data_ptr(), advantage.data_ptr(), *strides, out.data_ptr())
    LIBRARY.dither_packed_score(*places, *logits.shape, torch.get_num_threads())
    return out


def packed_log_prob(packed: Tensor, logits: Tensor) -> Tensor:
    packed, logits = packed.contiguous(), logits.contiguous()
    out = torch.empty(len(logits))
    places = (packed.data_ptr(), logits.data_ptr(), out.data_ptr())
    LIBRARY.dither_packed_log_prob(*places, *logits.shape, torch.get_num_threads())
    return out


def log_prob(logits: Tensor, x: Tensor, repeat: int) -> Tensor:
    """logits (rows, units), x (rows / repeat, units), both float32 and contiguous -> (rows,)."""
    out = torch.empty(len(logits))
    LIBRARY.dither_log_prob(logits.data_ptr(), x.data_ptr(), repeat, out.data_ptr(), *logits.shape, torch.get_num_threads())
    return out


def log_prob_gradient(gradient: Tensor, logits: Tensor, x: Tensor, repeat: int) -> Tensor:
    """gradient: (rows,)."""
    out, gradient = torch.empty_like(logits), gradient.contiguous()
    places = (gradient.data_ptr(), logits.data_ptr(), x.data_ptr(), repeat, out.data_ptr())
    LIBRARY.dither_log_prob_gradient(*places, *logits.shape, torch.get_num_threads())
    return out
