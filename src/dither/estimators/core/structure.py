"""What a run of a closure does, as a value: equal structures have equal connections between samples and terms of the cost.

The calls of torch's functions are noted in their order: which function, on which earlier results, with which numbers, of which
shapes. Values of floating-point numbers are left out, as a factor that is annealed changes no connection.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Watch(TorchFunctionMode):
    """Notes the calls within it. Below it nothing is watched: a call is one entry, whatever it is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self._number: dict[int, int] = {}
        self._alive: list[Tensor] = []  # so that no id is used twice

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, Tensor) and getattr(func, "__name__", "") == "__get__":
            return result  # a shape, a dtype, a device: what depends on it is a call of its own
        self.note(_name(func), args, kwargs or {}, result)
        return result

    def note(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        """One call, by whatever way it was computed."""
        self.calls.append((name, self._of(args), self._of(kwargs), self._results(result)))

    def structure(self) -> Any:
        return tuple(self.calls)

    def _results(self, result: Any) -> Any:
        if isinstance(result, Tensor):
            return self._tensor(result)
        if isinstance(result, (tuple, list)):
            return tuple(self._results(part) for part in result)
        return type(result).__name__ if isinstance(result, float) else _plain(result)

    def _of(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, (tuple, list)):
            return tuple(self._of(part) for part in value)
        if isinstance(value, dict):
            return tuple((key, self._of(part)) for key, part in value.items())
        if isinstance(value, slice):
            return "slice", self._of(value.start), self._of(value.stop), self._of(value.step)
        return _plain(value)

    def _tensor(self, tensor: Tensor) -> Any:
        if id(tensor) not in self._number:
            self._number[id(tensor)] = len(self._number)
            self._alive.append(tensor)
        return self._number[id(tensor)], tuple(tensor.shape), tensor.dtype


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return "float"
    return value if isinstance(value, (int, str, bool, type(None))) else str(type(value)) if callable(value) else repr(value)


def _name(func: Any) -> Any:
    return getattr(func, "__qualname__", None) or getattr(func, "__name__", None) or repr(func)


class Randomness:
    """The random numbers of torch, numpy and Python at the start of each run, to be drawn once more."""

    def __init__(self) -> None:
        self._states: list[Any] = []

    def remember(self) -> None:
        self._states.append(_states())

    @contextmanager
    def repeated(self, index: int) -> Iterator[None]:
        """Within it they are those of run `index`; afterwards as they were before."""
        before = _states()
        if index < len(self._states):
            _restore(self._states[index])
        try:
            yield
        finally:
            _restore(before)


def _states() -> Any:
    return torch.get_rng_state(), random.getstate(), np.random.get_state()


def _restore(states: Any) -> None:
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])
