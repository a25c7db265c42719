"""Noise by key: how the rows of a call get it, and the operators `uniform` and `normal`.

sample: shape lead; seed: lead; ids: (*lead, batch); x, which consumes the noise: (*lead, batch, *units). With an x, seed
and ids may lack dimensions at the end of lead, where they are the same for all samples. A row is one example under one sample.
float32 and bfloat16 are fused with their noise; other dtypes get float32 noise first, and are compared with it in float32
or wider. Where a vmap batches x and not the sample, its slices are samples of their own if `slices_differ`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from dither.kernels import _arguments, _dispatch, _library, _native, _reference
from dither.kernels._dispatch import Dims, Result, batched
from dither.kernels._philox import Seed

Key = tuple[Tensor, int, Tensor, Tensor, bool]  # seed, site, sample, ids, slices_differ

KEYED = "Tensor x, Tensor seed, int site, Tensor sample, Tensor ids, bool slices_differ"  # how schemas begin


def noise(kind: str, units: int, seed: Seed, site: int, samples: Tensor, ids: Tensor) -> Tensor:
    """ "uniform" or "normal" noise, (lead, batch, units) float32 on the device of ids (lead, batch)."""
    kernels = _dispatch.kernels_on(ids.device) or _reference
    return getattr(kernels, kind)(seed, site, moved(samples, ids.device), ids, units)


def moved(samples: Tensor, device: torch.device) -> Tensor:
    """The samples (lead,) on the device. The same few come again and again, and a copy would wait for a GPU."""
    return samples if samples.device == device else _constant(tuple(samples.tolist()), device)


@lru_cache(maxsize=1024)
def _constant(values: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device=device)


# --- rows ---------------------------------------------------------------------------------------------------------------
def by_rows(kernel: Callable[..., Any], seed: Tensor, sample: Tensor, ids: Tensor, *rows: Tensor) -> Any:
    """kernel(*rows, seed, samples, ids), the leading dimensions flattened to one; once for each where seeds differ.

    rows: (lead, batch, units). A kernel returns a tensor or a tuple of tensors, each (lead, batch, ...).
    """
    samples, flat = sample, ids
    if sample.dim() != 1:
        samples, flat = sample.reshape(-1), ids.reshape(sample.numel(), ids.shape[-1])
    if seed.numel() and not any(seed.stride()):
        return kernel(*rows, _number(seed[(0,) * seed.dim()]), samples, flat)
    parts = [
        kernel(*(r[i : i + 1] for r in rows), number, samples[i : i + 1], flat[i : i + 1])
        for i, number in enumerate(seed.reshape(-1).tolist() or [0])  # no sample at all is one call without rows
    ]
    return torch.cat(parts) if isinstance(parts[0], Tensor) else tuple(torch.cat(same) for same in zip(*parts, strict=True))


def spread(seed: Tensor, sample: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Seed and ids for each sample, where they lack dimensions. What does not fit is left to be refused."""
    return _over(sample.shape, seed, ()), _over(sample.shape, ids, ids.shape[-1:])


def _over(lead: torch.Size, tensor: Tensor, behind: tuple[int, ...]) -> Tensor:
    """(*first of lead, *behind) -> (*lead, *behind)."""
    own = tensor.dim() - len(behind)
    if not 0 <= own < len(lead) or tensor.shape[:own] != lead[:own]:
        return tensor
    return tensor.view(*lead[:own], *[1] * (len(lead) - own), *behind).expand(*lead, *behind)


def _number(seed: Tensor) -> Seed:
    if seed.device.type == "cpu":
        return int(seed)
    if _dispatch.kernels_on(seed.device) is None:
        raise RuntimeError("a CUDA graph is being recorded, and its seeds can be read by Triton kernels alone: install triton")
    return seed


def consumer(name: str, formula: Callable[..., Result], kind: str = "uniform", per_unit: int = 1) -> Callable[..., Any]:
    """run(x, seed, site, sample, ids, slices_differ, *args): the kernel `name`, which draws noise as it consumes it.

    Where no kernel takes x: formula(rows, noise, *args), with `per_unit` numbers of noise a unit.
    """
    native = getattr(_native, name)

    def on_rows(site: int, args: tuple[Any, ...], rows: Tensor, seed: Seed, samples: Tensor, ids: Tensor) -> Result:
        kernel = getattr(_dispatch.kernels_for(rows), name, None)
        if kernel is not None:
            return kernel(rows, seed, site, moved(samples, rows.device), ids, *args)
        return formula(rows, noise(kind, rows.shape[-1] * per_unit, seed, site, samples, ids), *args)

    def run(x: Tensor, seed: Tensor, site: int, sample: Tensor, ids: Tensor, slices_differ: bool, *args: Any) -> Result:
        fit = x.dim() == 3 if (lead := sample.dim()) == 1 else lead == 0 and x.is_contiguous()
        if fit and seed.dim() == 0 and _dispatch.native(x) and ids.is_contiguous() and x.numel():
            return native(x, seed.item(), site, sample, ids, *args)
        seed, ids = spread(seed, sample, ids)
        _arguments.require_key((seed, site, sample, ids), x)
        rows = x.reshape(sample.numel(), ids.shape[-1], math.prod(x.shape[ids.dim() :]))
        results = by_rows(partial(on_rows, site, args), seed, sample, ids, rows)
        if isinstance(results, Tensor):
            return _unflattened(results, x, ids)
        return tuple(_unflattened(result, x, ids) for result in results)

    return run


def _unflattened(result: Tensor, x: Tensor, ids: Tensor) -> Tensor:
    """Values with the shape of x; the packed bits of a row in its last dimension."""
    return result.view(x.shape if result.dtype == x.dtype else (*ids.shape, result.shape[-1]))


# --- vmap ---------------------------------------------------------------------------------------------------------------
def own_samples(size: int, sample: Tensor, in_dim: int | None, slices_differ: bool) -> Tensor:
    """The samples of the slices of a vmap: the batched ones, or where the vmap knows nothing of samples and
    `slices_differ`, another for each slice, as with randomness="different"."""
    lead = batched(size, sample, in_dim)
    if in_dim is not None or not slices_differ:
        return lead
    return lead * size + torch.arange(size, device=lead.device, dtype=torch.int64).view(-1, *[1] * sample.dim())


def consumer_rule(call: Callable[..., Result], size: int, in_dims: Dims, x: Tensor, *args: Any) -> Any:
    """The vmap rule of an operator of (x, *key, ...)."""
    seed, site, sample, ids, slices_differ, *rest = args
    samples = own_samples(size, sample, in_dims[3], slices_differ and in_dims[0] is not None)
    x = batched(size, x, in_dims[0])
    if in_dims[1] is not None or seed.dim():
        seed = batched(size, seed, in_dims[1])
    if in_dims[4] is not None or ids.dim() > 1:
        ids = batched(size, ids, in_dims[4])
    results = call(x, seed, site, samples, ids, slices_differ, *rest)
    return results, 0 if isinstance(results, Tensor) else (0,) * len(results)


def like(x: Tensor, *_: Any) -> Tensor:
    """The fake result of an operator of (x, ...) whose result is as x."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)


# --- noise by itself ----------------------------------------------------------------------------------------------------
def _operator(kind: str) -> Callable[..., Tensor]:
    def on_rows(site: int, units: int, seed: Seed, samples: Tensor, ids: Tensor) -> Tensor:
        return noise(kind, units, seed, site, samples, ids)

    def run(seed: Tensor, site: int, sample: Tensor, ids: Tensor, units: int, like: Tensor) -> Tensor:
        if seed.dim() == sample.dim() == 0 and ids.is_cpu and _library.LIBRARY is not None and ids.is_contiguous():
            return getattr(_native, kind)(seed.item(), site, sample, ids, units)
        _arguments.require_key((seed, site, sample, ids))
        return by_rows(partial(on_rows, site, units), seed, sample, ids).view(*ids.shape, units)

    def fake(seed: Tensor, site: int, sample: Tensor, ids: Tensor, units: int, like: Tensor) -> Tensor:
        return ids.new_empty((*ids.shape, units), dtype=torch.float32)

    def rule(
        call: Callable[..., Tensor], size: int, in_dims: Dims,
        seed: Tensor, site: int, sample: Tensor, ids: Tensor, units: int, like: Tensor,
    ) -> tuple[Tensor, int]:  # fmt: skip
        samples = own_samples(size, sample, in_dims[2], in_dims[5] is not None)
        like = like if in_dims[5] is None else like.select(in_dims[5], 0)
        seed, ids = batched(size, seed, in_dims[0]), batched(size, ids, in_dims[3])
        return call(seed, site, samples, ids, units, like), 0

    def obeying(randomness: str, in_dims: Dims, args: tuple[Any, ...]) -> tuple[Dims, tuple[Any, ...]]:
        if in_dims[5] is None or randomness == "different":
            return in_dims, args
        if randomness == "error":
            raise RuntimeError(_dispatch.RANDOMNESS_ERROR)
        return (*in_dims[:5], None), (*args[:5], args[5].select(in_dims[5], 0))

    schema = "(Tensor seed, int site, Tensor sample, Tensor ids, int units, Tensor like) -> Tensor"
    return _dispatch.operator(kind, schema, run, fake=fake, rule=rule, obeying=obeying)


_uniform, _normal = _operator("uniform"), _operator("normal")


def uniform(seed: Tensor, site: int, sample: Tensor, ids: Tensor, units: int, like: Tensor) -> Tensor:
    """(*lead, batch, units) float32 uniforms in (0, 1); seed and sample have shape lead, ids (*lead, batch).

    In a vmap over `like` that knows nothing of samples, each slice is a sample of its own.
    """
    return _uniform(seed, site, sample, ids, units, like)


def normal(seed: Tensor, site: int, sample: Tensor, ids: Tensor, units: int, like: Tensor) -> Tensor:
    """As `uniform`: standard normals."""
    return _normal(seed, site, sample, ids, units, like)
