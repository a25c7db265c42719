"""Which way a call takes to an implementation, and which implementation that is.

`kernels.bernoulli` and its like call what `operator` returns, and that takes the first way that fits:

    the call is                  its way                          saves (microseconds)
    -----------                  -------                          --------------------
    eager, without a gradient    run                              torch's operator: 18 of 41, a node
    eager, with a gradient       Eager -> run                     the operator's own gradient: 40 of 75, a node;
                                                                  Transformed, the form for transforms: 51 of 87
    compiled, traced, subclass,  the operator                     nothing: only the operator can be traced, or asked for
    without values (meta)                                         the shape of its result
    in a vmap (K samples)        _in_vmap -> rule -> the first    torch's way to the rule: 122 of 711, a step of a
                                 way that fits, one level lower   score function; 152 of 686, of straight-through
    in another transform         Transformed -> the operator      nothing: torch.func.grad refuses operators' gradients

`run` of what consumes noise (`_noise.consumer`) goes on:

    one sample, contiguous, CPU  _native                          the look at rows: 17 of 39, a node
    several, strided, CPU        by_rows -> _native               one call for all samples of one seed, not one for
                                                                  each: 120 of 691, a step of a score function
    GPU                          by_rows -> _triton               the same; a wait for the GPU (`moved`; not timed)
    another dtype, no library    by_rows -> formula of noise      nothing: no kernel takes it

So an eager call passes `kernels.bernoulli`, `call`, `run` (two functions: `gradient` is not for the kernel) and
`_native.bernoulli` before the library. Measured on (1, 64) units, steps with K = 10, by torch 2.13 on one thread of an
AVX-512 processor: each way in turn with the one that it saves, the shortest of 100 blocks of a millisecond. On
(100, 200) units they save 15 to 52 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _functorch  # type: ignore[attr-defined]
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from dither.kernels import _library, _native, _triton

Result = Tensor | tuple[Tensor, ...]
Dims = Sequence[int | None]  # the batched dimension of each argument in a vmap; None where it is not batched
Rule = Callable[..., tuple[Result, int | tuple[int, ...]]]
SetupContext = Callable[[Any, tuple[Any, ...], Any], None]
Obeying = Callable[[str, Dims, tuple[Any, ...]], tuple[Dims, tuple[Any, ...]]]
Backward = Callable[..., Tensor | tuple[Tensor | None, ...]]

_VMAP = _functorch.TransformType.Vmap
_PLAIN = frozenset((Tensor, nn.Parameter, int, float, bool, str, type(None)))


# --- what a call is part of ---------------------------------------------------------------------------------------------
def plain(*args: object) -> bool:
    """Whether the tensors among these are ordinary ones, with values, that nothing traces, batches or watches."""
    if torch.compiler.is_compiling() or _functorch.maybe_current_level() is not None:
        return False
    return _ordinary(args)


def _ordinary(args: tuple[object, ...]) -> bool:
    """`plain`, where nothing is compiled or transformed."""
    if is_in_torch_dispatch_mode():
        return False
    for a in args:
        if type(a) not in _PLAIN and isinstance(a, Tensor):
            return False
    # Only the first decides on the meta device: another one there among tensors with values is a mistake, to be refused.
    return not (args and isinstance(args[0], Tensor) and args[0].is_meta)


def of_several(gradient: Tensor) -> bool:
    """Whether it holds the gradients of several outputs at once, as `is_grads_batched` hands them to a backward function:
    a tensor without storage, for torch's own operators alone."""
    return _functorch.is_legacy_batchedtensor(gradient)


def readable(tensor: Tensor) -> bool:
    """Whether Python may look at the values: an ordinary tensor, and no CUDA graph is being recorded."""
    return plain(tensor) and not recording(tensor)


def recording(tensor: Tensor) -> bool:
    """Whether a CUDA graph is being recorded on the tensor's device."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


# --- implementations ----------------------------------------------------------------------------------------------------
def kernels_on(device: torch.device) -> ModuleType | None:
    """The module of fast kernels for a device: the native library's, Triton's or None, where plain torch does it."""
    if device.type == "cpu":
        return _native if _library.LIBRARY is not None else None
    return _triton if device.type == "cuda" and _triton.AVAILABLE else None


def kernels_for(values: Tensor) -> ModuleType | None:
    """The same for values, whose dtype the kernels must take."""
    return kernels_on(values.device) if values.dtype in _native.DTYPES else None


def native(values: Tensor) -> bool:
    """Whether the native library takes these values."""
    return values.is_cpu and _library.LIBRARY is not None and values.dtype in _native.DTYPES


def widen(x: Tensor) -> Tensor:
    """At least float32: probabilities in half precision fire at the wrong rate."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


# --- operators ----------------------------------------------------------------------------------------------------------
def operator(
    name: str,
    schema: str,
    run: Callable[..., Result],
    *,
    fake: Callable[..., Result],
    rule: Rule,
    gradient: tuple[SetupContext, Backward] | None = None,
    tags: Sequence[torch.Tag] = (),
    obeying: Obeying | None = None,
) -> Callable[..., Any]:
    """The function that calls an operator of torch, by the shortest way that the caller's tensors allow (the table).

    run: what it does, on ordinary tensors. rule(call, size, in_dims, *args) -> (results, out_dims): what it does in a
    vmap over `size` slices, by means of `call`. gradient: as for `register_autograd`. obeying(randomness, in_dims, args) ->
    (in_dims, args): those of what draws noise, as compiled code obeys a vmap's flag; elsewhere `noise.Keyed` has done so.
    """
    op = torch.library.custom_op(f"dither::{name}", run, mutates_args=(), schema=schema, tags=tags)
    op.register_fake(fake)

    obeying = obey_by_key if "bool slices_differ" in schema else obeying

    def traced_rule(info: Any, in_dims: Dims, *args: Any) -> tuple[Result, int | tuple[int, ...]]:
        if obeying is not None:
            in_dims, args = obeying(info.randomness, in_dims, args)
        return rule(op, info.batch_size, in_dims, *args)

    op.register_vmap(traced_rule)
    eager, transformed = None, op
    if gradient is not None:
        op.register_autograd(gradient[1], setup_context=gradient[0])
        eager, transformed = _functions(op, run, *gradient, rule)

    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling():
            return op(*args)
        if (level := _functorch.maybe_current_level()) is None:
            if not _ordinary(args):
                return op(*args)
            if eager is not None and torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
                return eager(*args)
            return run(*args)
        if is_in_torch_dispatch_mode() or _functorch.peek_interpreter_stack().key() != _VMAP:
            return transformed(*args)
        return _in_vmap(call, rule, level, args)

    return call


def _functions(
    op: Callable[..., Any], run: Callable[..., Result], save: SetupContext, derive: Backward, rule: Rule
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The operator as an autograd function, twice: for ordinary tensors, and for what torch.func transforms."""

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:  # type: ignore[override]
            output = _no_view(run(*args))
            save(ctx, args, output)
            return output

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            return derive(ctx, *gradients)

    class Transformed(torch.autograd.Function):
        @staticmethod
        def forward(*args: Any) -> Any:
            return op(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            save(ctx, inputs, output)

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            return derive(ctx, *gradients)

        @staticmethod
        def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
            return rule(Transformed.apply, info.batch_size, in_dims, *args)

    return Eager.apply, Transformed.apply


def _no_view(output: Result) -> Result:
    """The same memory, as a tensor that is no view: torch lets nobody change a function's view in place."""
    if isinstance(output, Tensor):
        return torch.ops.aten._unsafe_view(output, output.shape) if output._is_view() else output
    return tuple(map(_no_view, output))  # type: ignore[return-value]


# --- vmap ---------------------------------------------------------------------------------------------------------------
def _in_vmap(call: Callable[..., Result], rule: Rule, level: int, args: tuple[Any, ...]) -> Result:
    """The vmap rule on what the batched tensors hold, one level down: what torch does, without its detours."""
    unwrapped = [_functorch._unwrap_batched(a, level) if isinstance(a, Tensor) else (a, None) for a in args]
    inner, in_dims = zip(*unwrapped, strict=True)
    sizes = [a.shape[d] for a, d in unwrapped if d is not None]
    layer = _functorch.pop_dynamic_layer_stack()
    try:
        if not sizes:
            return call(*inner)
        results, _ = rule(call, sizes[0], in_dims, *inner)
    finally:
        _functorch.push_dynamic_layer_stack(layer)
    if isinstance(results, Tensor):
        return _functorch._add_batch_dim(results, 0, level)
    return tuple(_functorch._add_batch_dim(r, 0, level) for r in results)


def batched(size: int, tensor: Tensor, dim: int | None) -> Tensor:
    """The tensor with the batched dimension of a vmap first."""
    if dim is None:
        return tensor.expand(size, *tensor.shape)
    return tensor if dim == 0 else tensor.movedim(dim, 0)


RANDOMNESS_ERROR = (
    "noise is drawn inside torch.func.vmap(..., randomness='error'), its default: say randomness='different', and each slice "
    "draws noise of its own, or 'same', and all slices share one draw"
)


def obey_by_key(randomness: str, in_dims: Dims, args: tuple[Any, ...]) -> tuple[Dims, tuple[Any, ...]]:
    """The arguments (x, *key, ...) as the flag of a vmap has them: key[-1], `slices_differ`, is for "different" alone."""
    if args[5] and randomness == "error":
        raise RuntimeError(RANDOMNESS_ERROR)
    return in_dims, (*args[:5], args[5] and randomness == "different", *args[6:])


def elementwise(call: Callable[..., Result], size: int, in_dims: Dims, *args: Any) -> tuple[Result, int]:
    """The vmap rule of an operator whose first two arguments are tensors of one shape."""
    first = [batched(size, t, d) for t, d in zip(args[:2], in_dims[:2], strict=True)]
    return call(*first, *args[2:]), 0
