"""What a run of a closure does, as a value: equal structures have equal connections between samples and terms of the cost.

The calls of torch's functions are noted in their order: which function, on which earlier results, with which numbers, of which
shapes. Values of floating-point numbers are left out but for those that masks are made of (0, 1, infinity), as a factor that is
annealed changes no connection; so are values in tensors, because what is indexed by a tensor is credited as a whole
(`tracing.layers`), and the masks that were looked at are compared by themselves (`locality`).
"""

from __future__ import annotations

import hashlib
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._C import _functorch  # type: ignore[attr-defined]
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from dither.estimators.core.tracing.origins import PLAIN
from dither.estimators.core.versions import held

_OF_DATA = {"tensor", "as_tensor", "asarray", "scalar_tensor", "from_numpy"}  # tensors made of values, which are left out
_AS_IT_IS = (bool, int, str, type(None), type(Ellipsis), torch.dtype, torch.device, torch.layout, torch.memory_format)


class Watch(TorchFunctionMode):
    """Notes the calls within it. Below it nothing is watched: a call is one entry, whatever it is made of.

    leaves: the tensors that were read and that no call had made: those from before the run, and those that were made out of
    sight (by another thread, a TorchScript function, numpy). places: whether it is noted where they lie in memory, which
    matters to what is written into them; a vmap does not let its runs write into them.
    """

    def __init__(self, places: bool = True) -> None:
        super().__init__()
        self._level = _functorch.maybe_current_level() or 0
        self.places = places and not self._level
        self.leaves: list[Tensor] = []
        self._calls: list[Any] | None = []
        self._number: dict[int, int] = {}
        self._count = 0
        self._references: dict[int, weakref.ref[Tensor]] = {}  # an id that is used again is another tensor's
        self._storages: dict[int, int] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if torch.compiler.is_compiling():
            return func(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        is_property = getattr(func, "__name__", "") == "__get__"
        if isinstance(func, torch._ops.HigherOrderOperator):  # torch.cond: of branches nothing is seen, here or by tracing
            self._calls = None
        elif not is_property or isinstance(result, Tensor):  # a shape, a dtype: what depends on it is a call of its own
            self.note(name_of(func), args, kwargs or {}, result)
        return result

    def note(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        """One call, by whatever way it was computed."""
        if self._calls is None or (result is None and not any(isinstance(t, Tensor) for t in tree_leaves((args, kwargs)))):
            return  # the latter as of what sets a mode
        try:
            with torch._C.DisableTorchFunction():
                of_data = name.rpartition(".")[2] in _OF_DATA and not (args and isinstance(args[0], Tensor))
                given = () if of_data else (self._of(args), self._of(kwargs))
                if name.endswith("item__"):
                    given += tuple(_place(part) for part in (args[1] if isinstance(args[1], tuple) else (args[1],)))
                self._calls.append((name, given, self._made(result)))
        except Exception:  # a tensor without sizes or strides, an object that cannot be shown
            self._calls = None

    def structure(self) -> Any:
        """None if something was done that cannot be noted."""
        return None if self._calls is None else tuple(self._calls)

    def close(self) -> None:
        """Keep the leaves alone."""
        self._references.clear()

    def _made(self, result: Any) -> Any:
        if isinstance(result, Tensor):
            tensor = self._own(result)
            return self._number_of(tensor), _shape(tensor), tensor.dtype
        if isinstance(result, (tuple, list)):
            return tuple(self._made(part) for part in result)
        return None  # a number or the like: what depends on it is a call of its own

    def _of(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            tensor = self._own(value)
            return self._number_of(tensor) if id(tensor) in self._number else self._leaf(tensor)
        if isinstance(value, (float, np.floating)):
            return float(value) if value in PLAIN else "float"
        if isinstance(value, _AS_IT_IS):
            return value
        if isinstance(value, (tuple, list)):
            return tuple(self._of(part) for part in value)
        if isinstance(value, dict):
            return tuple((key, self._of(part)) for key, part in value.items() if isinstance(key, str))
        if isinstance(value, slice):
            return "slice", self._of(value.start), self._of(value.stop), self._of(value.step)
        if isinstance(value, (np.ndarray, np.generic)):
            exact = value.dtype.kind in "iub" and value.size <= 64
            return "array", value.shape, str(value.dtype), value.tobytes() if exact else None
        text = name_of(value) if callable(value) else repr(value)
        return type(value).__name__ if " at 0x" in text else text

    def _own(self, tensor: Tensor) -> Tensor:
        """What a transform within the run wraps."""
        while _functorch.maybe_current_level() is not None and _functorch.maybe_get_level(tensor) > self._level:
            tensor = _functorch.get_unwrapped(tensor)
        return tensor

    def _number_of(self, tensor: Tensor) -> int:
        key = id(tensor)
        if key not in self._number:
            self._number[key], self._count = self._count, self._count + 1
            self._references[key] = weakref.ref(tensor, lambda gone: self._number.pop(key, None))
        return self._number[key]

    def _leaf(self, tensor: Tensor) -> Any:
        """Which, of which shape, and where it lies: writing into one of two that share their memory changes both."""
        self.leaves.append(tensor)
        memory: Any = None
        if self.places and tensor.layout == torch.strided and not _functorch.is_functorch_wrapped_tensor(tensor):
            address = tensor.untyped_storage().data_ptr()
            number = self._storages.setdefault(address, len(self._storages))
            memory = number, tensor.storage_offset(), tensor.stride()
        return "leaf", self._number_of(tensor), _shape(tensor), tensor.dtype, memory


def _shape(tensor: Tensor) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in tensor.shape)  # None: a ragged dimension's own symbol


def _place(index: Any) -> Any:
    """What an index says by its value besides its kind: numbers that are tensors."""
    if isinstance(index, slice):
        return _place(index.start), _place(index.stop), _place(index.step)
    if isinstance(index, Tensor) and index.dim() == 0 and not index.is_floating_point():
        return None if _functorch.is_functorch_wrapped_tensor(index) else int(index)
    return None


def name_of(func: Any) -> str:
    """A function's name, that tells it from others: of a property its own, of an operator with its namespace."""
    name = getattr(func, "__name__", None)
    if name in ("__get__", "__set__", "__delete__"):
        return f"{getattr(getattr(func, '__self__', None), '__name__', '')}.{name}"
    code = getattr(func, "__code__", None)
    if code is not None:
        return f"{func.__module__}:{code.co_firstlineno}.{func.__qualname__}"
    if isinstance(func, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return f"{func}"
    return getattr(func, "__qualname__", None) or name or repr(func)


def address(tensor: Tensor) -> int | None:
    """Of a tensor's memory; None if it has none of the usual kind."""
    tensor = held(tensor)
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided and not tensor.is_nested else None


def contents(tensor: Tensor) -> bytes:
    """A digest of its values."""
    values = held(tensor).detach().cpu().contiguous().reshape(-1)
    return hashlib.blake2b(values.view(torch.uint8).numpy().tobytes(), digest_size=16).digest()
