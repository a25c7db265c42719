"""What a closure is, as far as it can be seen without running it: where it is written, and what it holds."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from dither.estimators.core.structure import name_of


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


@contextmanager
def buffers_kept(models: Iterable[nn.Module]) -> Iterator[None]:
    """Running statistics are afterwards what they were, changed in place or replaced."""
    modules = {id(module): module for model in models for module in model.modules()}.values()
    registered = [(module, dict(module._buffers)) for module in modules]
    tensors = {id(t): t for _, buffers in registered for t in buffers.values() if t is not None and not t.is_inference()}
    before = [(tensor, tensor.clone()) for tensor in tensors.values()]
    try:
        yield
    finally:
        for module, buffers in registered:
            if any(module._buffers.get(name) is not tensor for name, tensor in buffers.items()):
                module._buffers.update(buffers)
        for tensor, value in before:
            if not torch.equal(tensor, value):  # batch normalisation does not count its changes in `_version`
                tensor.data.copy_(value)  # nor does this: a graph that has saved it finds what it saved


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
