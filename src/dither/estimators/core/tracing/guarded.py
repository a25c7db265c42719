"""Tensors that notice when another thread uses them: what happens there is seen by no mode, and can leave torch unseen."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


class Guard:
    """Its tensors, and all that is computed of them, call `used` when another thread does anything with them."""

    def __init__(self, used: Callable[[], None]) -> None:
        self.used = used
        self.thread = threading.get_ident()
        self.tensors: list[weakref.ref[Tensor]] = []

    def watch(self, tensor: Tensor) -> Tensor:
        """The same tensor, which from now on looks out."""
        if type(tensor) is Tensor:
            tensor.__class__ = _Guarded
            self.tensors.append(weakref.ref(tensor))
        return tensor


_GUARDS: list[Guard] = []


@contextmanager
def guarding(guard: Guard) -> Iterator[None]:
    """Within it the guard's tensors look out; afterwards those that somebody has kept are tensors as others."""
    _GUARDS.append(guard)
    try:
        yield
    finally:
        _GUARDS.remove(guard)
        for reference in guard.tensors:
            tensor = reference()
            if type(tensor) is _Guarded:
                tensor.__class__ = Tensor  # type: ignore[assignment]


class _Guarded(Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        own = None
        for guard in _GUARDS:
            if guard.thread == threading.get_ident():
                own = guard
            else:
                guard.used()
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
            if own is not None:
                for tensor in tree_leaves(result):
                    own.watch(tensor)
        return result
