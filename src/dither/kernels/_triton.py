"""The native kernels for GPUs, in Triton: each function takes and returns what its namesake in `_reference` does, bit
for bit.

samples: (lead,) int64; ids: (lead, batch) int64; logits and values: (lead, batch, units) float32 or bfloat16. They may
have any strides (their units are made contiguous where they are not), and ids may be expanded. Everything is on one
device; results are new and contiguous. Triton is imported at the first launch: where it is not installed (`AVAILABLE`
is False), only a call fails. The noise of a row depends on (seed, site, sample, id) alone (csrc/src/rows.h). A seed is
a number, or a tensor () int64 on the device: then the kernel makes the key of it.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from dither.kernels._philox import Seed, key_of

AVAILABLE = find_spec("triton") is not None

_GROUPS = 8  # of 16 blocks: one block for each thread of four warps
_SIZE = 1024  # elements of a flat program
_LIMIT = 2**31  # programs count groups in int32


@lru_cache(maxsize=1024)
def _key(seed: int, site: int) -> tuple[int, int]:
    """The words of the key as int32."""
    word0, word1 = key_of(seed, site)
    return (word0 ^ 1 << 31) - (1 << 31), (word1 ^ 1 << 31) - (1 << 31)


def _launch(kernel: str, programs: int, device: torch.device, *args: Any, **constants: Any) -> None:
    from dither.kernels import _triton_kernels

    if programs == 0:
        return
    with torch.cuda.device(device if device.type == "cuda" else -1):
        getattr(_triton_kernels, kernel)[(programs,)](*args, **constants, enable_fp_fusion=False)


def _over_rows(
    kernel: str, noise: tuple[Seed, int, Tensor, Tensor], units: int, group: int, *args: Any, **constants: Any
) -> None:
    """Launch over all groups of `group` units of the rows of ids."""
    seed, site, samples, ids = noise
    key, constants["SEEDED"] = ((seed, site), True) if isinstance(seed, Tensor) else (_key(seed, site), False)
    rows, batch = ids.numel(), ids.shape[1]
    groups = rows * -(-units // group)
    if groups > _LIMIT - _GROUPS:
        raise ValueError(
            f"{rows} rows of {units} units are {groups} groups, and one launch counts {_LIMIT - _GROUPS}: split the batch"
        )
    places = (ids, ids.stride(0), ids.stride(1), samples, samples.stride(0))
    programs = -(-groups // _GROUPS)
    _launch(kernel, programs, ids.device, *key, rows, batch, units, *places, *args, **constants, GROUPS=_GROUPS)


def _words(values: Tensor) -> Tensor:
    """bfloat16 as int16, which is how the kernels take it."""
    return values.view(torch.int16) if values.dtype == torch.bfloat16 else values


def _strided(values: Tensor) -> tuple[Tensor, int, int]:
    """The values, their units contiguous, and their two outer strides."""
    if values.dtype not in (torch.float32, torch.bfloat16):
        raise TypeError(f"the Triton kernels take float32 and bfloat16, not {values.dtype}")
    if values.shape[-1] > 1 and values.stride(-1) != 1:
        values = values.contiguous()
    return _words(values), values.stride(0), values.stride(1)


def _like(values: Tensor) -> tuple[Tensor, bool]:
    """(an empty result, whether it is bfloat16)."""
    out = torch.empty(values.shape, dtype=values.dtype, device=values.device)
    return out, values.dtype == torch.bfloat16


def uniform(seed: Seed, site: int, samples: Tensor, ids: Tensor, units: int) -> Tensor:
    """Uniforms in the open interval (0, 1), (lead, batch, units) float32."""
    out = torch.empty((*ids.shape, units), device=ids.device, dtype=torch.float32)
    _over_rows("uniform", (seed, site, samples, ids), units, 128, out)
    return out


def normal(seed: Seed, site: int, samples: Tensor, ids: Tensor, units: int) -> Tensor:
    """Standard normals by Box-Muller, (lead, batch, units) float32."""
    out = torch.empty((*ids.shape, units), device=ids.device, dtype=torch.float32)
    _over_rows("normal", (seed, site, samples, ids), units, 64, out)
    return out


def bernoulli(
    logits: Tensor, seed: Seed, site: int, samples: Tensor, ids: Tensor, low: float = 0, high: float = 1, packed: bool = False
) -> Tensor:
    """`high` with the probability sigmoid(a), else `low`, as the logits' dtype, and NaN where a logit is. Packed: int64
    words (lead, batch, ceil(units / 64)) with bit i mod 64 of word i // 64 for unit i, zeros for NaN and behind the
    last unit."""
    noise, units, half = (seed, site, samples, ids), logits.shape[-1], logits.dtype == torch.bfloat16
    if packed:
        out = torch.empty((*logits.shape[:-1], -(-units // 64)), dtype=torch.int64, device=logits.device)
    else:
        out, _ = _like(logits)
    args = (*_strided(logits), float(low), float(high), _words(out))
    _over_rows("bernoulli", noise, units, 128, *args, PACKED=packed, HALF=half)
    return out


def _gumbel_max(logits: Tensor, uniform: Tensor, categories: int) -> Tensor:
    """logits: (lead, batch, units * categories); uniform: as many, contiguous."""
    out, half = _like(logits)
    count, units = logits.numel() // categories, logits.shape[-1] // categories
    tile = min(1 << (categories - 1).bit_length(), _SIZE)  # categories at a time
    at_once = _SIZE // tile
    if count > _LIMIT - at_once:
        raise ValueError(f"{count} units are more than one launch can count, {_LIMIT - at_once}: split the batch")
    args = (count, logits.shape[1], units, categories, *_strided(logits), uniform, _words(out))
    _launch("gumbel_max", -(-count // at_once), out.device, *args, HALF=half, UNITS=at_once, CATEGORIES=tile)
    return out


def categorical(logits: Tensor, seed: Seed, site: int, samples: Tensor, ids: Tensor, categories: int) -> Tensor:
    """One-hot samples of the logits' dtype by the Gumbel-max trick; logits: (lead, batch, units * categories).
    Categories at +inf share all the mass; a unit gets NaN where a logit is NaN or all are -inf."""
    return _gumbel_max(logits, uniform(seed, site, samples, ids, logits.shape[-1]), categories)


def categorical_from_uniform(logits: Tensor, uniform: Tensor) -> Tensor:
    """The same over the last dimension, of uniforms. float32, equal shapes."""
    categories = logits.shape[-1]
    return _gumbel_max(logits.reshape(1, -1, categories), uniform.contiguous(), categories).view(logits.shape)


def noisy_relu(logits: Tensor, seed: Seed, site: int, samples: Tensor, ids: Tensor, scale: float) -> Tensor:
    """max(0, a + scale z)."""
    out, half = _like(logits)
    args = (*_strided(logits), float(scale), _words(out))
    _over_rows("noisy_relu", (seed, site, samples, ids), logits.shape[-1], 64, *args, HALF=half)
    return out


def noisy_tanh(
    logits: Tensor, seed: Seed, site: int, samples: Tensor, ids: Tensor, before: float, after: float
) -> tuple[Tensor, Tensor]:
    """(tanh(a + before z) + after z', the tanh), with the normals 2 i and 2 i + 1 of a row for its unit i."""
    out, half = _like(logits)
    inner = torch.empty_like(out)
    args = (*_strided(logits), float(before), float(after), _words(out), _words(inner))
    _over_rows("noisy_tanh", (seed, site, samples, ids), logits.shape[-1], 32, *args, HALF=half)
    return out, inner


def salt_and_pepper(
    x: Tensor, seed: Seed, site: int, samples: Tensor, ids: Tensor, rate: float, low: float, high: float
) -> Tensor:
    """`low` where u < rate / 2, `high` where rate / 2 <= u < rate, else x."""
    out, half = _like(x)
    args = (*_strided(x), float(rate), float(low), float(high), _words(out))
    _over_rows("salt_and_pepper", (seed, site, samples, ids), x.shape[-1], 128, *args, HALF=half)
    return out


def bernoulli_from_uniform(logits: Tensor, uniform: Tensor) -> Tensor:
    """1[u < sigmoid(a)] as float32, by u (1 + e^-a) < 1; NaN where a logit is. float32, equal shapes."""
    logits, uniform = logits.contiguous(), uniform.contiguous()
    out, count = torch.empty_like(logits), logits.numel()
    _launch("bernoulli_from_uniform", -(-count // _SIZE), out.device, logits, uniform, out, count, SIZE=_SIZE)
    return out


def straight_through(gradient: Tensor, logits: Tensor, factor: float) -> Tensor:
    """factor * gradient * p (1 - p) with p = sigmoid(logits). Equal shapes and dtypes, float32 or bfloat16."""
    gradient, logits = gradient.contiguous(), logits.contiguous()
    out, count, half = torch.empty_like(gradient), gradient.numel(), gradient.dtype == torch.bfloat16
    args = (_words(gradient), _words(logits), float(factor), _words(out), count)
    _launch("straight_through", -(-count // _SIZE), out.device, *args, HALF=half, SIZE=_SIZE)
    return out
