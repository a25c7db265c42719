"""Runs with whatever is compiled in them run eagerly: a vmap cannot enter compiled code, and an oracle is not seen by it.

How torch treats compiled code, its stance, belongs to the process. Runs of several threads overlap in any order, so the first
changes it and the last puts it back.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

_LOCK = Lock()
_RUNNING: list[Any] = []  # the stance to be put back, once for each run


def eagerly(run: Callable[..., Any], *args: Any) -> Any:
    """run(*args), with whatever is compiled in it run eagerly, also where the whole step is compiled."""
    if "torch._dynamo" not in sys.modules:
        return run(*args)
    callback = torch._C._dynamo.eval_frame.get_eval_frame_callback  # type: ignore[attr-defined]
    if torch.compiler.is_compiling() or callback() not in (None, False):
        return torch.compiler.disable(run)(*args)  # type: ignore[arg-type]
    with _eager_stance():
        return run(*args)


@contextmanager
def _eager_stance() -> Iterator[None]:
    with _LOCK:
        _RUNNING.append(_RUNNING[0] if _RUNNING else torch.compiler.set_stance("force_eager"))  # sets it at once
    try:
        yield
    finally:
        with _LOCK:
            stance = _RUNNING.pop()
            if not _RUNNING:
                stance.__exit__(None, None, None)
