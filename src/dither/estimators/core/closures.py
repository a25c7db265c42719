"""What a closure is, as far as it can be seen without running it: where it is written, and what it holds."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from dither.estimators.core.structure import name_of
from dither.nodes import is_concrete


def written(closure: Any) -> tuple[Hashable, ...]:
    """Where it is written, which functions it was made with, and in which mode the modules are that it holds."""
    function, given = _parts(closure)
    code = getattr(function, "__code__", None)
    own = (type(function).__qualname__,) if code is None else (code.co_filename, code.co_firstlineno, hash(code))
    return *own, *(_described(value) for value in given if callable(value))


def modules_of(closure: Any) -> list[nn.Module]:
    """The modules that it holds or names: heads, teachers, codebooks beside those of the estimator."""
    function, given = _parts(closure)
    names, scope = getattr(getattr(function, "__code__", None), "co_names", ()), getattr(function, "__globals__", {})
    values = [function, *given, *(scope[name] for name in names if name in scope)]
    values += [part for value in values if isinstance(value, (list, tuple)) for part in value]
    return [value for value in values if isinstance(value, nn.Module)]


class Buffers:
    """The buffers of modules, running statistics for instance, as they are now."""

    def __init__(self, models: Iterable[nn.Module]) -> None:
        modules = {id(module): module for model in models for module in model.modules()}.values()
        self._registered = [(module, dict(module._buffers)) for module in modules if module._buffers]
        tensors = {id(t): t for _, buffers in self._registered for t in buffers.values() if t is not None}
        self._before = [(tensor, tensor.clone()) for tensor in tensors.values() if not tensor.is_inference()]

    def present(self) -> Iterator[tuple[nn.Module, str, Tensor]]:
        """Those that the modules have by now, with their names."""
        for module, _ in self._registered:
            yield from ((module, name, tensor) for name, tensor in module._buffers.items() if tensor is not None)

    def changed(self) -> bool:
        return any(self._replaced(*pair) for pair in self._registered) or any(_differs(*pair) for pair in self._before)

    def restore(self) -> None:
        """Let them be what they were, changed in place or replaced."""
        for module, buffers in self._registered:
            if self._replaced(module, buffers):
                module._buffers.update(buffers)
        for tensor, value in self._before:
            if _differs(tensor, value):
                # counted by no version: a graph that has saved it finds what it saved
                (tensor.data if is_concrete(tensor) else tensor.detach()).copy_(value)

    def _replaced(self, module: nn.Module, buffers: dict[str, Tensor | None]) -> bool:
        return any(module._buffers.get(name) is not tensor for name, tensor in buffers.items())


def _differs(tensor: Tensor, value: Tensor) -> bool:
    """Batch normalisation does not count its changes in `_version`."""
    return not is_concrete(tensor) or not torch.equal(tensor, value)


@contextmanager
def buffers_kept(models: Iterable[nn.Module]) -> Iterator[None]:
    """Running statistics are afterwards what they were, changed in place or replaced."""
    buffers = Buffers(models)
    try:
        yield
    finally:
        buffers.restore()


def _parts(closure: Any) -> tuple[Any, list[Any]]:
    """The function, and what it was given: by functools.partial, by defaults, by the variables around it."""
    given: list[Any] = []
    while hasattr(closure, "func"):
        given += [*closure.args, *closure.keywords.values()]
        closure = closure.func
    given += [*(getattr(closure, "__defaults__", None) or ()), getattr(closure, "__self__", None)]
    for cell in getattr(closure, "__closure__", None) or ():
        with suppress(ValueError):  # empty yet
            given.append(cell.cell_contents)
    return closure, given


def _described(value: Any) -> Hashable:
    if isinstance(value, nn.Module):
        return type(value).__qualname__, value.training
    return name_of(value) if hasattr(value, "__qualname__") else type(value).__qualname__
