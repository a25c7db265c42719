"""Which implementation a call gets, by device and dtype; and what all operators share.

Plain tensors outside compilers and transforms go straight to an implementation: a custom operator would cost more time than
small work takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _functorch  # type: ignore[attr-defined]
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from dither.kernels import _library, _native, _reference

_PLAIN = (Tensor, nn.Parameter)
Seed = int | Tensor  # a tensor: on the GPU, read there by the kernel, as CUDA graphs need it


def plain(*tensors: Tensor) -> bool:
    """Whether these are ordinary tensors that nothing traces, batches or watches."""
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode() or _functorch.maybe_current_level() is not None:
        return False
    for t in tensors:  # noqa: SIM110 (`all` of a generator takes twice as long)
        if type(t) not in _PLAIN:
            return False
    return True


def readable(tensor: Tensor) -> bool:
    """Whether Python may look at the values: an ordinary tensor, and no CUDA graph is being recorded."""
    return plain(tensor) and not recording(tensor)


def recording(tensor: Tensor) -> bool:
    """Whether a CUDA graph is being recorded on the tensor's device."""
    return tensor.device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def widen(x: Tensor) -> Tensor:
    """At least float32: probabilities in half precision fire at the wrong rate."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def native(tensor: Tensor) -> bool:
    """Whether the native library takes this tensor."""
    return _library.LIBRARY is not None and tensor.device.type == "cpu" and tensor.dtype in _native.DTYPES


@cache
def _triton() -> Any:
    """The Triton kernels, or None; loaded when the first tensor on a GPU asks for them."""
    module = import_module("dither.kernels._triton")
    return module if module.AVAILABLE else None


def gpu(tensor: Tensor) -> Any:
    """The Triton kernels if they take this tensor, else None."""
    return _triton() if tensor.device.type == "cuda" and tensor.dtype in _native.DTYPES else None


def noise(kind: str, seed: Seed, site: int, samples: Tensor, ids: Tensor, units: int) -> Tensor:
    """ "uniform" or "normal" noise, (lead, batch, units) float32 on the device of ids (lead, batch)."""
    if _library.LIBRARY is not None and ids.device.type == "cpu":
        return getattr(_native, kind)(seed, site, samples, ids, units)
    if ids.device.type == "cuda" and (triton := _triton()) is not None:
        return getattr(triton, kind)(seed, site, moved(samples, ids.device), ids, units)
    return getattr(_reference, kind)(seed, site, moved(samples, ids.device), ids, units)


def moved(samples: Tensor, device: torch.device) -> Tensor:
    """The samples (lead,) on the device. They are few and the same ones again and again, and a copy would wait for a GPU."""
    return samples if samples.device == device else _constant(tuple(samples.tolist()), device)


@lru_cache(maxsize=1024)
def _constant(values: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device=device)


def by_seed(seed: Tensor, sample: Tensor, ids: Tensor, draw: Callable[[Seed, Tensor, Tensor, Any], Any]) -> Any:
    """draw(seed, samples, ids, rows) over the leading dimensions flattened to one; once for each where their seeds differ.

    seed, sample: shape lead; ids: (*lead, batch). `rows` picks from a tensor (lead, ...) the rows of a draw, None all of them.
    A draw gives a tensor or a tuple of tensors, each (lead, ...).
    """
    if seed.dim() == 0:
        return draw(_number(seed), sample.view(1), ids.unsqueeze(0), None)
    samples, flat = sample.reshape(-1), ids.reshape(sample.numel(), ids.shape[-1])
    if seed.numel() and not any(seed.stride()):
        return draw(_number(seed[(0,) * seed.dim()]), samples, flat, None)
    seeds = seed.reshape(-1).tolist()
    if len(set(seeds)) <= 1:
        return draw(seeds[0] if seeds else 0, samples, flat, None)
    found = [draw(s, samples[i : i + 1], flat[i : i + 1], slice(i, i + 1)) for i, s in enumerate(seeds)]
    return torch.cat(found) if isinstance(found[0], Tensor) else tuple(torch.cat(same) for same in zip(*found, strict=True))


def _number(seed: Tensor) -> Seed:
    if seed.device.type == "cpu":
        return int(seed)
    if _triton() is None:
        raise RuntimeError("a CUDA graph is being recorded, whose noise the Triton kernels draw: install triton")
    return seed


def flat(x: Tensor, sample: Tensor, ids: Tensor) -> Tensor:
    """(*lead, batch, *units) as (lead, batch, units)."""
    return x.reshape(sample.numel(), ids.shape[-1], math.prod(x.shape[sample.dim() + 1 :]))


def batched(size: int, tensor: Tensor, dim: int | None) -> Tensor:
    """The tensor with the batched dimension of a vmap first."""
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def elementwise(operator: Callable[..., Any], info: Any, in_dims: Any, *args: Any) -> Any:
    """The vmap rule of an operator whose first two arguments are tensors of one shape."""
    first = [batched(info.batch_size, t, d) for t, d in zip(args[:2], in_dims[:2], strict=True)]
    return operator(*first, *args[2:]), 0


def own_draws(info: Any, sample: Tensor, in_dim: int | None, slices_differ: bool) -> Tensor:
    """The samples of the slices of a vmap: the given ones, or where the vmap knows nothing of samples and `slices_differ`, a
    draw of its own for each slice, as with randomness="different"."""
    lead = batched(info.batch_size, sample, in_dim)
    if in_dim is not None or not slices_differ:
        return lead
    return lead * info.batch_size + torch.arange(info.batch_size, device=lead.device).view(-1, *[1] * sample.dim())


def differentiable(
    operator: Any,
    run: Callable[..., Any],
    keep: Callable[[Any, tuple[Any, ...], Any], None],
    backward: Callable[..., Any],
    rule: Callable[..., Any],
) -> Callable[..., Any]:
    """The function by which an operator with a gradient is called, by the shortest way that the caller's tensors allow.

    run: what the operator does; keep, backward: as for `register_autograd`; rule(call, info, in_dims, *args): the vmap rule,
    whose result is made by `call`.
    """
    operator.register_autograd(backward, setup_context=keep)
    operator.register_vmap(partial(rule, operator))

    class Eager(torch.autograd.Function):  # the form with setup_context takes four times as long
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:  # type: ignore[override]
            output = run(*args)
            keep(ctx, args, output)
            return output

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            return backward(ctx, *gradients)

    class Transformed(torch.autograd.Function):  # operators' own gradients are not for torch.func.grad (torch 2.13)
        @staticmethod
        def forward(*args: Any) -> Any:
            return operator(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            keep(ctx, inputs, output)

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            return backward(ctx, *gradients)

        @staticmethod
        def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
            return rule(Transformed.apply, info, in_dims, *args)

    def call(*args: Any) -> Any:
        tensors = [a for a in args if isinstance(a, Tensor)]
        if plain(*tensors):
            needed = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
            return Eager.apply(*args) if needed else run(*args)
        transformed = _functorch.maybe_current_level() is not None and not torch.compiler.is_compiling()
        return Transformed.apply(*args) if transformed else operator(*args)

    return call


def plainly(operator: Any, run: Callable[..., Any], rule: Callable[..., Any]) -> Callable[..., Any]:
    """The same for an operator without a gradient."""
    operator.register_vmap(partial(rule, operator))

    def call(*args: Any) -> Any:
        if plain(*[a for a in args if isinstance(a, Tensor)]):
            return run(*args)
        return _by_hand(run, rule, args) if _in_one_vmap() else operator(*args)

    return call


def _in_one_vmap() -> bool:
    """Whether a single vmap is all that is going on: K samples are one, and torch's own way to a vmap rule takes 0.1 ms."""
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode() or _functorch.maybe_current_level() != 1:
        return False
    return _functorch.peek_interpreter_stack().key() == _functorch.TransformType.Vmap


def _by_hand(run: Callable[..., Any], rule: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """The vmap rule on what the batched tensors hold."""
    in_dims = [_functorch.maybe_get_bdim(a) if isinstance(a, Tensor) and _functorch.is_batchedtensor(a) else None for a in args]
    held = [a if d is None else _functorch.get_unwrapped(a) for a, d in zip(args, in_dims, strict=True)]
    sizes = [a.shape[d] for a, d in zip(held, in_dims, strict=True) if d is not None]
    if not sizes:
        return run(*args)
    made, _ = rule(run, _Batch(sizes[0]), in_dims, *held)
    wrapped = [_functorch._add_batch_dim(t, 0, 1) for t in ((made,) if isinstance(made, Tensor) else made)]
    return wrapped[0] if isinstance(made, Tensor) else tuple(wrapped)


@dataclass
class _Batch:
    batch_size: int
