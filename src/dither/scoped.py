"""Values that hold within a `with` block, for the present thread and asyncio task alone, as torch.no_grad does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Scoped(Generic[T]):
    """A value of the present thread and task. Compiled code, which can ask neither, reads the one that was set last in any."""

    def __init__(self, default: T) -> None:
        self._own: ContextVar[T] = ContextVar("dither", default=default)
        self.latest = default

    def get(self) -> T:
        return self.latest if torch.compiler.is_compiling() else self._own.get()

    @contextmanager
    def set(self, value: T) -> Iterator[None]:
        token, before = self._own.set(value), self.latest
        self.latest = value
        try:
            yield
        finally:
            self._own.reset(token)
            self.latest = before
