"""Values that hold within a `with` block, for the present thread and asyncio task alone, as torch.no_grad does."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Scoped(Generic[T]):
    """A value of the present thread and task. Compiled code, which can ask neither, reads the one that was set last in any."""

    def __init__(self, default: T) -> None:
        self._own: ContextVar[T] = ContextVar("dither", default=default)
        self.present = self._own.get  # `get` for callers that are not compiled: some ask ten times a call
        self.latest = default

    def get(self) -> T:
        return self.latest if torch.compiler.is_compiling() else self._own.get()

    def set(self, value: T) -> _Setting[T]:
        """A context manager, within which it is the value."""
        return _Setting(self, value)


class _Setting(Generic[T]):
    """By hand: one of a generator takes three times as long, and every call of an estimator sets two values."""

    __slots__ = ("_before", "_scoped", "_token", "_value")

    def __init__(self, scoped: Scoped[T], value: T) -> None:
        self._scoped, self._value = scoped, value

    def __enter__(self) -> None:
        scoped = self._scoped
        self._token, self._before = scoped._own.set(self._value), scoped.latest
        scoped.latest = self._value

    def __exit__(self, *_: object) -> None:
        self._scoped._own.reset(self._token)
        self._scoped.latest = self._before
