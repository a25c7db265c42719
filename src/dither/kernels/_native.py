"""The native library on tensors: each function takes and returns what its namesake in `_reference` does, on the CPU.

Those that make noise of a key take rows, (lead, batch, units) with samples (lead,) and ids (lead, batch) or (batch,), of
any strides; or the contiguous values (batch, *units) of one sample () with contiguous ids (batch,), and return results
of that shape.

No address is handed over before its buffer was checked: dtype, device, size, contiguity, alignment (`_place`).
"""

from __future__ import annotations

import ctypes
from typing import NoReturn, cast

import torch
from torch import Tensor

from dither.kernels import _arguments, _library
from dither.kernels._library import Input, Rows

LIBRARY = cast(ctypes.CDLL, _library.LIBRARY)  # `_dispatch` comes here only where there is one
DTYPES = {torch.float32: 0, torch.bfloat16: 1}
_64_BITS = (1 << 64) - 1


_INT, _FLOAT = torch.int64, torch.float32


def _place(name: str, tensor: Tensor, dtype: torch.dtype, count: int) -> int:
    """The address of `count` numbers of a dtype."""
    fit = tensor.dtype is dtype and tensor.is_cpu and tensor.numel() == count and tensor.is_contiguous()
    if not fit or tensor.is_neg() or tensor.data_ptr() % tensor.element_size():
        _arguments.require_buffer(name, tensor, dtype, count)
    return tensor.data_ptr()


def _rows(seed: int, site: int, samples: Tensor, ids: Tensor, units: int) -> Rows:
    return (_rows_of_many if samples.dim() or ids.dim() != 1 else _rows_of_one)(seed, site, samples, ids, units)


def _rows_of_one(seed: int, site: int, samples: Tensor, ids: Tensor, units: int) -> Rows:
    """ids, contiguous: callers come here with no others."""
    place, sample = ids.data_ptr(), samples.data_ptr()
    # `_place` of both, written out: a node has no time for it
    fit = ids.dtype is _INT and samples.dtype is _INT and ids.is_cpu and samples.is_cpu and seed.__class__ is int
    if not fit or samples.dim() or (place | sample) & 7 or site >> 63:
        _misfit(seed, site, samples, ids)
    return Rows(1, ids.shape[0], units, place, 0, sample, seed & _64_BITS, site)


def _rows_of_many(seed: int, site: int, samples: Tensor, ids: Tensor, units: int) -> Rows:
    of_all, lead = ids.dim() == 1, samples.numel()  # whether every sample has the same ids
    fit = ids.dtype is _INT and ids.is_cpu and samples.dim() == 1 and (of_all or (ids.dim() == 2 and ids.shape[0] == lead))
    if not fit or ids.data_ptr() & 7 or site >> 63:
        _misfit(seed, site, samples, ids)
    batch = ids.shape[-1]
    samples, ids = samples.contiguous(), ids if batch < 2 or ids.stride(-1) == 1 else ids.contiguous()
    places = (ids.data_ptr(), 0 if of_all or lead < 2 else ids.stride(0), _place("sample", samples, _INT, lead))
    rows = Rows(lead, batch, units, *places, seed & _64_BITS, site)
    rows.tensors = samples, ids  # they must outlive the call
    return rows


def _misfit(seed: int | float, site: int, samples: Tensor, ids: Tensor) -> NoReturn:
    """Raises what is wrong with the key of noise."""
    dtype = _INT if isinstance(seed, int) else torch.float64
    of_each = ids.expand(*samples.shape, *ids.shape) if ids.dim() == 1 else ids
    _arguments.require_key((torch.empty_like(samples, dtype=dtype, device="cpu"), site, samples, of_each))
    for name, tensor in (("ids", ids), ("sample", samples)):
        _arguments.require_buffer(name, tensor, _INT, tensor.numel())
    raise ValueError(
        f"sample has shape {tuple(samples.shape)} and ids {tuple(ids.shape)}: native code takes values (lead, batch, units) "
        "with samples (lead,) and ids (lead, batch) or (batch,); flatten the leading dimensions, and the units"
    )


def _values(x: Tensor, seed: int, site: int, samples: Tensor, ids: Tensor, per_unit: int = 1) -> tuple[Rows, Input]:
    """The rows, with `per_unit` numbers of noise a unit, and the values that consume it."""
    dtype, place = DTYPES[x.dtype], x.data_ptr()
    if place & (1 if dtype else 3) or x.is_neg():
        _arguments.require_buffer("x", x, x.dtype, x.numel())
    shape = x.shape
    if not samples.dim() and ids.dim() == 1:
        batch = ids.shape[0]
        if not shape or shape[0] != batch:
            _arguments.require_rows(x, ids)
        units = x.numel() // batch
        return _rows_of_one(seed, site, samples, ids, units * per_unit), Input(place, 0, units, dtype)
    if len(shape) != 3 or shape[0] != samples.numel() or shape[-ids.dim() - 1 : 2] != ids.shape:
        _arguments.require_rows(x, ids.expand(*samples.shape, *ids.shape) if ids.dim() == 1 else ids)
        _misfit(seed, site, samples, ids)
    units = shape[2]
    x = x if units < 2 or x.stride(2) == 1 else x.contiguous()
    values = Input(x.data_ptr(), x.stride(0), x.stride(1), dtype)
    values.tensor = x  # it must outlive the call
    return _rows_of_many(seed, site, samples, ids, units * per_unit), values


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)  # half the time of torch.empty(x.shape)


def _bias(bias: Tensor | None, units: int) -> int | None:
    return None if bias is None else _place("bias", bias, _FLOAT, units)


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
    nans = LIBRARY.dither_bernoulli(rows, values, _bias(bias, rows.units), 0.0, 1.0, *outputs, torch.get_num_threads())
    return _with_nans(out, logits, bias) if nans else out


def bernoulli_packed(logits: Tensor, seed: int, site: int, samples: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """(values, packed bits)."""
    rows, values = _values(logits, seed, site, samples, ids)
    out = _like(logits)
    words = torch.empty(*samples.shape, ids.shape[-1], -(-rows.units // 64), dtype=torch.int64, device="cpu")
    outputs = (out.data_ptr(), words.data_ptr(), None)
    nans = LIBRARY.dither_bernoulli(rows, values, None, 0.0, 1.0, *outputs, torch.get_num_threads())
    return _with_nans(out, logits, None) if nans else out, words


def bernoulli_bits(logits: Tensor, seed: int, site: int, samples: Tensor, ids: Tensor, bias: Tensor | None = None) -> Tensor:
    """The packed bits alone. bias: (units,) float32."""
    rows, values = _values(logits, seed, site, samples, ids)
    words = torch.empty(*samples.shape, ids.shape[-1], -(-rows.units // 64), dtype=torch.int64, device="cpu")
    outputs = (None, words.data_ptr(), None)
    LIBRARY.dither_bernoulli(rows, values, _bias(bias, rows.units), 0.0, 1.0, *outputs, torch.get_num_threads())
    return words


def _with_nans(samples: Tensor, logits: Tensor, bias: Tensor | None) -> Tensor:
    if bias is not None:
        logits = (logits.reshape(-1, len(bias)) + bias).view(logits.shape)
    return torch.where(logits.isnan(), torch.nan, samples)


def categorical(logits: Tensor, seed: int, site: int, samples: Tensor, ids: Tensor, categories: int) -> Tensor:
    rows, values = _values(logits, seed, site, samples, ids)
    out = _like(logits)
    without = _check(LIBRARY.dither_categorical(rows, values, categories, out.data_ptr(), torch.get_num_threads()))
    if without:  # units without a winner
        _arguments.require_possible(logits, categories)
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
    out, count = _like(logits), logits.numel()
    places = (_place("logits", logits, _FLOAT, count), _place("uniform", uniform, _FLOAT, count), out.data_ptr())
    LIBRARY.dither_threshold(*places, count, torch.get_num_threads())
    return out


def categorical_from_uniform(logits: Tensor, uniform: Tensor) -> Tensor:
    logits, uniform = logits.contiguous(), uniform.contiguous()
    out, categories, count = _like(logits), logits.shape[-1], logits.numel()
    places = (_place("logits", logits, _FLOAT, count), _place("uniform", uniform, _FLOAT, count), out.data_ptr())
    _check(LIBRARY.dither_gumbel_max(*places, count // categories, categories, categories, torch.get_num_threads()))
    return out


def straight_through(gradient: Tensor, logits: Tensor, factor: float) -> Tensor:
    gradient, logits = gradient.contiguous(), logits.contiguous()
    out, count, dtype = _like(logits), logits.numel(), logits.dtype
    inputs = (_place("gradient", gradient, dtype, count), _place("logits", logits, dtype, count))
    LIBRARY.dither_straight_through(*inputs, DTYPES[dtype], factor, out.data_ptr(), count, torch.get_num_threads())
    return out


# --- packed bits --------------------------------------------------------------------------------------------------------
def _words(name: str, packed: Tensor, rows: int, units: int) -> int:
    return _place(name, packed, _INT, rows * -(-units // 64))


def pack(values: Tensor) -> Tensor:
    values = values.contiguous()
    rows, units = values.shape
    out = torch.empty(rows, -(-units // 64), dtype=torch.int64, device="cpu")
    place = _place("values", values, values.dtype, rows * units)
    LIBRARY.dither_pack(place, DTYPES[values.dtype], out.data_ptr(), rows, units, torch.get_num_threads())
    return out


def unpack(packed: Tensor, units: int, dtype: torch.dtype) -> Tensor:
    packed = packed.contiguous()
    out = torch.empty(len(packed), units, dtype=dtype, device="cpu")
    place = (_words("packed", packed, len(packed), units), 0.0, 1.0, DTYPES[dtype], out.data_ptr())
    LIBRARY.dither_unpack(*place, len(packed), units, torch.get_num_threads())
    return out


def turn_bits(packed: Tensor, units: int) -> Tensor:
    packed = packed.contiguous()
    out = torch.empty(units, -(-len(packed) // 64), dtype=torch.int64, device="cpu")
    places = (_words("packed", packed, len(packed), units), out.data_ptr())
    LIBRARY.dither_turn_bits(*places, len(packed), units, torch.get_num_threads())
    return out


def packed_linear(packed: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    packed, weight = packed.contiguous(), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    out = torch.empty(len(packed), len(weight), dtype=torch.float32, device="cpu")
    outputs, inputs = weight.shape
    places = (_words("packed", packed, len(packed), inputs), _place("weight", weight, _FLOAT, outputs * inputs))
    sizes = (_bias(bias, outputs), out.data_ptr(), len(packed), inputs, outputs)
    _check(LIBRARY.dither_packed_linear(*places, *sizes, torch.get_num_threads()))
    return out


def packed_outer(packed: Tensor, gradient: Tensor, inputs: int) -> Tensor:
    gradient = gradient.contiguous()
    turned = turn_bits(packed, inputs)
    batch, outputs = gradient.shape
    out = torch.empty(outputs, inputs, dtype=torch.float32, device="cpu")
    # packed along the batch
    places = (_words("packed", turned, inputs, batch), _place("gradient", gradient, _FLOAT, batch * outputs), out.data_ptr())
    _check(LIBRARY.dither_packed_outer(*places, inputs, batch, outputs, 0, torch.get_num_threads()))
    return out


def packed_score(packed: Tensor, logits: Tensor, advantage: Tensor, in_place: bool = False) -> Tensor:
    packed, logits = packed.contiguous(), logits.contiguous()
    advantage = advantage.float().expand(len(logits), advantage.shape[-1])
    if advantage.shape[-1] == logits.shape[-1]:
        advantage = advantage.contiguous()
    out = logits if in_place else torch.empty_like(logits)
    strides = (advantage.stride(0), 1 if advantage.shape[-1] == logits.shape[-1] else 0)
    rows, units = logits.shape
    # a stride of 0 repeats the one number of a row
    _arguments.require_device("advantage", advantage, logits.device)
    inputs = (_words("packed", packed, rows, units), _place("logits", logits, _FLOAT, rows * units))
    places = (*inputs, advantage.data_ptr(), *strides, out.data_ptr())
    LIBRARY.dither_packed_score(*places, *logits.shape, torch.get_num_threads())
    return out


def packed_log_prob(packed: Tensor, logits: Tensor) -> Tensor:
    packed, logits = packed.contiguous(), logits.contiguous()
    out = torch.empty(len(logits), dtype=torch.float32, device="cpu")
    rows, units = logits.shape
    places = (_words("packed", packed, rows, units), _place("logits", logits, _FLOAT, rows * units), out.data_ptr())
    LIBRARY.dither_packed_log_prob(*places, *logits.shape, torch.get_num_threads())
    return out


def log_prob(logits: Tensor, x: Tensor, repeat: int) -> Tensor:
    """logits (rows, units), x (rows / repeat, units), both float32 and contiguous -> (rows,)."""
    out = torch.empty(len(logits), dtype=torch.float32, device="cpu")
    places = (*_pair(logits, x, repeat), repeat, out.data_ptr())
    LIBRARY.dither_log_prob(*places, *logits.shape, torch.get_num_threads())
    return out


def log_prob_gradient(gradient: Tensor, logits: Tensor, x: Tensor, repeat: int) -> Tensor:
    """gradient: (rows,)."""
    out, gradient = torch.empty_like(logits), gradient.contiguous()
    places = (_place("gradient", gradient, _FLOAT, len(logits)), *_pair(logits, x, repeat), repeat, out.data_ptr())
    LIBRARY.dither_log_prob_gradient(*places, *logits.shape, torch.get_num_threads())
    return out


def _pair(logits: Tensor, x: Tensor, repeat: int) -> tuple[int, int]:
    rows, units = logits.shape
    return _place("logits", logits, _FLOAT, rows * units), _place("x", x, _FLOAT, rows // repeat * units)
