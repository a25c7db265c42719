"""Noise is part of the model and does not stop in `.eval()`; this turns it off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from dither.scoped import Scoped

_KIND: Scoped[str | None] = Scoped(None)


@contextmanager
def deterministic(kind: Literal["mean", "mode"] = "mean") -> Iterator[None]:
    """Within it every node is deterministic, in this thread: `with dither.deterministic("mean"): net(x)`.

    "mean": the expected output (sigmoid, softmax), through which gradients flow as in an ordinary network.
    "mode": the most probable output, hard; ties give the first category, and 0 for a binary unit.
    """
    if kind not in ("mean", "mode"):
        raise ValueError(f'deterministic({kind!r}): the kind must be "mean" or "mode"')
    with _KIND.set(kind):
        yield


def current() -> str | None:
    """The kind in force, or None while nodes are random."""
    return _KIND.get()
