"""Whether Python looks at what depends on a sample: `bool(h)`, `h.item()`, `h.numpy()`, a shape that depends on values.

Until it first does, a run of a closure makes the same calls whatever its samples are; so whether it ever does is a property of
the closure and of nothing that is sampled. It may decide which estimate is made, and bias none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch  # type: ignore[attr-defined]
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from dither.estimators.core.versions import held
from dither.nodes import check_logits

_LEAVES = {  # what gives Python or numpy a value without an operator that a dispatch mode sees
    *("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__complex__", "__index__", "__array__", "data_ptr"),
    *("__repr__", "__str__", "__format__", "__contains__", "__dlpack__", "untyped_storage", "storage"),
}
_BY_VALUES = torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output
_UNTAGGED = {"aten::_pack_padded_sequence"}  # operators of this kind that torch does not mark


class Reads:
    """Watches one run, `with reads:`. found: whether Python has looked. What a sample reaches is followed by storages: all of
    one that a sample was written to depends on it."""

    def __init__(self) -> None:
        self.found = False
        self._reached: dict[Any, Any] = {}  # kept, so that no key is used twice
        self._modes: tuple[Any, ...] = (_Functions(self), _Operators(self))

    def __enter__(self) -> Reads:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)

    def node(self, node: Any, logits: Tensor, sample: Callable[[Any, Tensor], Tensor]) -> Tensor:
        """sample(node, logits), unwatched."""
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            check_logits(node, logits)  # once more: where modes are on, Python does not look at values
            output = sample(node, logits)
            self._reach(output)
        return output

    def reaches(self, tensor: Tensor) -> bool:
        return _identity(tensor)[0] in self._reached

    def _reach(self, tensor: Tensor) -> None:
        key, owner = _identity(tensor)
        self._reached[key] = owner

    def function(self, func: Any, args: Any) -> None:
        if not self.found and getattr(func, "__name__", "") in _LEAVES and args and isinstance(args[0], Tensor):
            with torch._C.DisableTorchFunction():
                self.found = self.reaches(args[0])

    def operator(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        if self.found or not self._reached:
            return
        if not any(isinstance(value, Tensor) and self.reaches(value) for value in tree_leaves((args, kwargs))):
            return
        outputs = [value for value in tree_leaves(result) if isinstance(value, Tensor)]
        if (not outputs and result is not None) or self._shapes_by_values(func, args):
            self.found = True
            return
        if func._schema.is_mutable:
            outputs += _written(func, args, kwargs)
        for output in outputs:
            self._reach(output)

    def _shapes_by_values(self, func: Any, args: Any) -> bool:
        if not any(tag in func.tags for tag in _BY_VALUES):
            return func._schema.name in _UNTAGGED
        if func._schema.name.startswith("aten::index") and len(args) > 1:  # by whole numbers the shape is theirs
            masks = [t for t in tree_leaves(args[1]) if isinstance(t, Tensor) and t.dtype in (torch.bool, torch.uint8)]
            return any(self.reaches(mask) for mask in masks)
        return True


def values_are_there() -> bool:
    """Whether a closure could look at all: not in a vmap, and not at FakeTensors."""
    transforms = _functorch.get_interpreter_stack() or []
    vmapped = any(transform.key() == _functorch.TransformType.Vmap for transform in transforms)
    return not vmapped and torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is None


def _identity(tensor: Tensor) -> tuple[Any, Any]:
    """(what views of a tensor have in common with it, what keeps that from being used again)."""
    tensor = held(tensor)
    try:
        storage = tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # sparse ones and other tensors that have none
        return ("tensor", id(tensor)), tensor
    return storage._cdata, storage


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The arguments that an operator changes."""
    given = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)} | kwargs
    changed = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return [leaf for name in changed for leaf in tree_leaves(given.get(name)) if isinstance(leaf, Tensor)]


class _Functions(TorchFunctionMode):
    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.reads.function(func, args)
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.reads.operator(func, args, kwargs or {}, result)
        return result
