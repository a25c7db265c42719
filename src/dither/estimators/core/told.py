"""Warnings, at the line of the user's code that called."""

from __future__ import annotations

import sys
import warnings

_OURS = "dither.", "torch.nn.modules.module", "torch._dynamo."


def tell(message: str) -> None:
    warnings.warn(message, stacklevel=_level())


def _level() -> int:
    """The level of the stack at which somebody else's code called."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_OURS):
        frame, level = frame.f_back, level + 1
    return level
