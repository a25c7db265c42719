"""The random numbers that a closure draws besides those of the nodes, to be drawn once more."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes


class Randomness:
    """The random numbers of torch (on the CPU and all CUDA devices in use), numpy and Python at the start of each run."""

    def __init__(self) -> None:
        self._states: list[Any] = []

    @classmethod
    def now(cls) -> Randomness:
        random = cls()
        random.remember()
        return random

    def remember(self) -> None:
        self._states.append(_states())

    def moved(self, index: int) -> bool:
        """Whether numbers have been drawn since the start of run `index`."""
        now, then = _states(), self._states[index]
        torches = zip((now[0], *now[3]), (then[0], *then[3]), strict=False)
        with _disable_current_modes():  # FakeTensorMode takes no state of a generator
            drawn = now[1] != then[1] or any(not torch.equal(one, other) for one, other in torches)
        return drawn or now[2][2] != then[2][2] or not np.array_equal(now[2][1], then[2][1])

    def restore(self, index: int) -> None:
        """Let them be those of run `index` from now on."""
        _restore(self._states[index])

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
    return torch.get_rng_state(), random.getstate(), np.random.get_state(), _of_devices()


def _of_devices() -> list[Any]:
    if not torch.cuda.is_initialized() or torch.cuda.is_current_stream_capturing():
        return []
    return torch.cuda.get_rng_state_all()


def _restore(states: Any) -> None:
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])
    if states[3]:
        torch.cuda.set_rng_state_all(states[3])
