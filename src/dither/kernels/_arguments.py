"""What kernels demand of their arguments. A misfit raises before anything is read, whatever would implement the call."""

from __future__ import annotations

import torch
from torch import Tensor

KeyTensors = tuple[Tensor, int, Tensor, Tensor]  # seed, site, sample, ids
_CPU = torch.device("cpu")


def require_key(key: KeyTensors, x: Tensor | None = None) -> None:
    """seed and sample: int64 of shape lead; ids: int64 (*lead, batch); x, which consumes the noise: (*lead, batch, *units)."""
    seed, site, sample, ids = key
    for name, tensor in (("seed", seed), ("sample", sample), ("ids", ids)):
        if tensor.dtype is not torch.int64:
            raise TypeError(f"{name} has dtype {tensor.dtype}: noise is keyed by int64; convert with {name}.to(torch.int64)")
    if site < 0 or site >> 63:
        raise ValueError(f"site is {site}: it must be at least 0 and below 2^63; number the places that draw noise")
    if ids.dim() < 1 or not seed.shape == sample.shape == ids.shape[:-1]:
        raise ValueError(
            f"seed has shape {tuple(seed.shape)}, sample {tuple(sample.shape)} and ids {tuple(ids.shape)}: lead, lead and "
            "(*lead, batch) are needed; expand the seed and the ids over the samples"
        )
    require_device("sample", sample, ids.device, or_cpu=True)
    require_device("seed", seed, ids.device, or_cpu=True)
    if x is not None:
        require_rows(x, ids)


def require_rows(x: Tensor, ids: Tensor) -> None:
    if x.shape[: ids.dim()] != ids.shape:
        raise ValueError(
            f"the values have shape {tuple(x.shape)} and ids {tuple(ids.shape)}: one id for each row is needed, values "
            f"(*{tuple(ids.shape)}, *units); give as many ids as there are rows"
        )
    require_device("ids", ids, x.device)


def require_device(name: str, tensor: Tensor, device: torch.device, or_cpu: bool = False) -> None:
    """The tensor lies on the device; or on the CPU, where `or_cpu`."""
    if tensor.device != device and not (or_cpu and tensor.device == _CPU):
        raise ValueError(
            f"{name} is on {tensor.device}, the other arguments on {device}: move it with {name}.to({str(device)!r})"
        )


def require_shape(name: str, tensor: Tensor, shape: tuple[int, ...], why: str) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: {shape} is needed, {why}")


def require_dtype(name: str, tensor: Tensor, dtype: torch.dtype, why: str) -> None:
    if tensor.dtype is not dtype:
        raise TypeError(f"{name} has dtype {tensor.dtype}: {dtype} is needed, {why}; convert with {name}.to({dtype})")


def require_buffer(name: str, tensor: Tensor, dtype: torch.dtype, count: int) -> None:
    """A buffer that native code may read or write: `count` contiguous, aligned numbers of a dtype in the CPU's memory."""
    require_dtype(name, tensor, dtype, "as native code reads it")
    require_device(name, tensor, _CPU)
    if tensor.numel() != count:
        raise ValueError(
            f"{name} has {tensor.numel()} numbers in shape {tuple(tensor.shape)}: native code reads {count} of them"
        )
    if tensor.is_neg() or not tensor.is_contiguous():
        raise ValueError(f"{name} has strides {tensor.stride()}: native code reads plain contiguous numbers; use .contiguous()")
    require_alignment(name, tensor)


def require_alignment(name: str, tensor: Tensor) -> None:
    size = tensor.element_size()
    if tensor.data_ptr() % size:
        raise ValueError(
            f"{name} lies at address {tensor.data_ptr()}: native code needs a multiple of {size} bytes; use {name}.clone()"
        )


def require_possible(logits: Tensor, categories: int) -> None:
    """No unit of `categories` logits forbids them all. (One with a NaN is left to be seen as NaN.)"""
    impossible = (logits.reshape(-1, categories) == -torch.inf).all(-1)
    if bool(impossible.any()):
        raise ValueError(
            f"logits are -inf for all {categories} categories of {int(impossible.sum())} of {len(impossible)} units, first of "
            f"number {int(impossible.int().argmax())}: a unit needs one category that is possible; look at what masks them"
        )
