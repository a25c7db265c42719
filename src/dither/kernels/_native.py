"""The native library on tensors: each function takes and returns what its namesake in `_reference` does, on the CPU.

Those that make noise of a key take rows, (lead, batch, units) with samples (lead,) and ids (lead, batch), of any
strides; or the contiguous values (batch, *units) of one sample () with contiguous ids (batch,), and return results of
that shape.
"""

from __future__ import annotations

import ctypes
from typing import cast

import torch
from torch import Tensor

from dither.kernels import _library
from dither.kernels._library import Input, Rows

LIBRARY = cast(ctypes.CDLL, _library.LIBRARY)  # `_dispatch` comes here only where there is one
DTYPES = {torch.float32: 0, torch.bfloat16: 1}
_64_BITS = (1 << 64) - 1


def _rows(seed: int, site: int, samples: Tensor, ids: Tensor, units: int) -> Rows:
    if ids.dim() == 1:
        return Rows(1, ids.shape[0], units, ids.data_ptr(), 0, samples.data_ptr(), seed & _64_BITS, site)
    samples, ids = samples.contiguous(), ids if ids.shape[-1] < 2 or ids.stride(-1) == 1 else ids.contiguous()
    lead, batch = ids.shape
    places = (ids.data_ptr(), ids.stride(0) if lead > 1 else 0, samples.data_ptr())
    rows = Rows(lead, batch, units, *places, seed & _64_BITS, site)
    rows.tensors = samples, ids  # they must outlive the call
    return rows


def _values(x: Tensor, seed: int, site: int, samples: Tensor, ids: Tensor, per_unit: int = 1) -> tuple[Rows, Input]:
    """The rows, with `per_unit` numbers of noise a unit, and the values that consume it."""
    dtype = DTYPES[x.dtype]
    if ids.dim() == 1:
        units = x.numel() // ids.shape[0]
        return _rows(seed, site, samples, ids, units * per_unit), Input(x.data_ptr(), 0, units, dtype)
    x = x if x.shape[-1] < 2 or x.stride(-1) == 1 else x.contiguous()
    values = Input(x.data_ptr(), x.stride(0), x.stride(1), dtype)
    values.tensor = x  # it must outlive the call
    return _rows(seed, site, samples, ids, x.shape[-1] * per_unit), values


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)  # half the time of torch.empty(x.shape)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _check(result: int) -> int:
    if result < 0:
        raise MemoryError("a native kernel of dither could not allocate its tables: free memory, or split the batch")
    return result


# --- noise by key, and what consumes it -----------------------------------------------------------------------------------
def uniform(seed: int, site: int, samples: Tensor, ids: Tensor, units: int) -> Tensor:
    out = torch.empty(*ids.shape, units, dtype=torch.float32, device="cpu")
    LIBRARY.dither_uniform(_rows(seed, site, samples, ids, units), out.data_ptr(), torch.get_num_threads())
    return out


def normal(seed: int, site: int, samples: Tensor, ids: Tensor, units: int) -> Tensor:
    out = torch.empty(*ids.shape, units, dtype=torch.float32, device="cpu")
    LIBRARY.dither_normal(_rows(seed, site, samples, ids, units), out.data_ptr(), torch.get_num_threads())
    return out


def bernoulli(logits: Tensor, seed: int, site: int, samples: Tensor, ids: Tensor, bias: Tensor | None = None) -> Tensor:
    """bias: (units,) float32."""
    rows, values = _values(logits, seed, site, samples, ids)
    out = _like(logits)
    outputs = (out.data_ptr(), None, None)
    nans = LIBRARY.dither_bernoulli(rows, values, _pointer(bias), 0.0, 1.0, *outputs, torch.get_num_threads())
    return _with_nans(out, logits, bias) if nans else out


def bernoulli_packed(logits: Tensor, seed: int, site: int, samples: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """(values, packed bits)."""
    rows, values = _values(logits, seed, site, samples, ids)
    out, words = _like(logits), torch.empty(*ids.shape, -(-rows.units // 64), dtype=torch.int64, device="cpu")
    outputs = (out.data_ptr(), words.data_ptr(), None)
    nans = LIBRARY.dither_bernoulli(rows, values, None, 0.0, 1.0, *outputs, torch.get_num_threads())
    return _with_nans(out, logits, None) if nans else out, words


def bernoulli_bits(logits: Tensor, seed: int, site: int, samples: Tensor, ids: Tensor, bias: Tensor | None = None) -> Tensor:
    """The packed bits alone. bias: (units,) float32."""
    rows, values = _values(logits, seed, site, samples, ids)
    words = torch.empty(*ids.shape, -(-rows.units // 64), dtype=torch.int64, device="cpu")
    outputs = (None, words.data_ptr(), None)
    LIBRARY.dither_bernoulli(rows, values, _pointer(bias), 0.0, 1.0, *outputs, torch.get_num_threads())
    return words


def _with_nans(samples: Tensor, logits: Tensor, bias: Tensor | None) -> Tensor:
    if bias is not None:
        logits = (logits.reshape(-1, len(bias)) + bias).view(logits.shape)
    return torch.where(logits.isnan(), torch.nan, samples)


def categorical(logits: Tensor, seed: int, site: int, samples: Tensor, ids: Tensor, categories: int) -> Tensor:
    rows, values = _values(logits, seed, site, samples, ids)
    out = _like(logits)
    _check(LIBRARY.dither_categorical(rows, values, categories, out.data_ptr(), torch.get_num_threads()))
    return out


def noisy_relu(logits: Tensor, seed: int, site: int, samples: Tensor, ids: Tensor, scale: float) -> Tensor:
    rows, values = _values(logits, seed, site, samples, ids)
    out = _like(logits)
    LIBRARY.dither_noisy_relu(rows, values, scale, out.data_ptr(), torch.get_num_threads())
    return out


def noisy_tanh(
    logits: Tensor, seed: int, site: int, samples: Tensor, ids: Tensor, before: float, after: float
) -> tuple[Tensor, Tensor]:
    rows, values = _values(logits, seed, site, samples, ids, per_unit=2)
    out, inner = _like(logits), _like(logits)
    LIBRARY.dither_noisy_tanh(rows, values, before, after, out.data_ptr(), inner.data_ptr(), torch.get_num_threads())
    return out, inner


def salt_and_pepper(
    x: Tensor, seed: int, site: int, samples: Tensor, ids: Tensor, rate: float, low: float, high: float
) -> Tensor:
    rows, values = _values(x, seed, site, samples, ids)
    out = _like(x)
    LIBRARY.dither_salt_and_pepper(rows, values, rate, low, high, out.data_ptr(), torch.get_num_threads())
    return out


# --- element by element -------------------------------------------------------------------------------------------------
def bernoulli_from_uniform(logits: Tensor, uniform: Tensor) -> Tensor:
    logits, uniform = logits.contiguous(), uniform.contiguous()
    out = _like(logits)
    places = (logits.data_ptr(), uniform.data_ptr(), out.data_ptr())
    LIBRARY.dither_threshold(*places, out.numel(), torch.get_num_threads())
    return out


def categorical_from_uniform(logits: Tensor, uniform: Tensor) -> Tensor:
    logits, uniform = logits.contiguous(), uniform.contiguous()
    out, categories = _like(logits), logits.shape[-1]
    places = (logits.data_ptr(), uniform.data_ptr(), out.data_ptr())
    _check(LIBRARY.dither_gumbel_max(*places, out.numel() // categories, categories, categories, torch.get_num_threads()))
    return out


def straight_through(gradient: Tensor, logits: Tensor, factor: float) -> Tensor:
    gradient, logits = gradient.contiguous(), logits.contiguous()
    out = _like(logits)
    places = (gradient.data_ptr(), logits.data_ptr(), DTYPES[logits.dtype], factor, out.data_ptr())
    LIBRARY.dither_straight_through(*places, out.numel(), torch.get_num_threads())
    return out


# --- packed bits --------------------------------------------------------------------------------------------------------
def pack(values: Tensor) -> Tensor:
    values = values.contiguous()
    rows, units = values.shape
    out = torch.empty(rows, -(-units // 64), dtype=torch.int64, device="cpu")
    LIBRARY.dither_pack(values.data_ptr(), DTYPES[values.dtype], out.data_ptr(), rows, units, torch.get_num_threads())
    return out


def unpack(packed: Tensor, units: int, dtype: torch.dtype) -> Tensor:
    packed = packed.contiguous()
    out = torch.empty(len(packed), units, dtype=dtype, device="cpu")
    place = (packed.data_ptr(), 0.0, 1.0, DTYPES[dtype], out.data_ptr())
    LIBRARY.dither_unpack(*place, len(packed), units, torch.get_num_threads())
    return out


def turn_bits(packed: Tensor, units: int) -> Tensor:
    packed = packed.contiguous()
    out = torch.empty(units, -(-len(packed) // 64), dtype=torch.int64, device="cpu")
    LIBRARY.dither_turn_bits(packed.data_ptr(), out.data_ptr(), len(packed), units, torch.get_num_threads())
    return out


def packed_linear(packed: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    packed, weight = packed.contiguous(), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    out = torch.empty(len(packed), len(weight), dtype=torch.float32, device="cpu")
    places = (packed.data_ptr(), weight.data_ptr(), _pointer(bias), out.data_ptr())
    sizes = (len(packed), weight.shape[1], len(weight))
    _check(LIBRARY.dither_packed_linear(*places, *sizes, torch.get_num_threads()))
    return out


def packed_outer(packed: Tensor, gradient: Tensor, inputs: int) -> Tensor:
    gradient = gradient.contiguous()
    turned = turn_bits(packed, inputs)
    batch, outputs = gradient.shape
    out = torch.empty(outputs, inputs, dtype=torch.float32, device="cpu")
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
    out = torch.empty(len(logits), dtype=torch.float32, device="cpu")
    places = (packed.data_ptr(), logits.data_ptr(), out.data_ptr())
    LIBRARY.dither_packed_log_prob(*places, *logits.shape, torch.get_num_threads())
    return out


def log_prob(logits: Tensor, x: Tensor, repeat: int) -> Tensor:
    """logits (rows, units), x (rows / repeat, units), both float32 and contiguous -> (rows,)."""
    out = torch.empty(len(logits), dtype=torch.float32, device="cpu")
    LIBRARY.dither_log_prob(logits.data_ptr(), x.data_ptr(), repeat, out.data_ptr(), *logits.shape, torch.get_num_threads())
    return out


def log_prob_gradient(gradient: Tensor, logits: Tensor, x: Tensor, repeat: int) -> Tensor:
    """gradient: (rows,)."""
    out, gradient = torch.empty_like(logits), gradient.contiguous()
    places = (gradient.data_ptr(), logits.data_ptr(), x.data_ptr(), repeat, out.data_ptr())
    LIBRARY.dither_log_prob_gradient(*places, *logits.shape, torch.get_num_threads())
    return out
