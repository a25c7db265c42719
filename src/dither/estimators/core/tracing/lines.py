"""The line of the user's program that is running."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

_LIBRARIES = str(Path(torch.__file__).parent), str(Path(__file__).resolve().parents[3])


def line_of_user() -> str:
    """ "file.py:12", the innermost outside of torch and dither; "" if there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((*_LIBRARIES, "<")):
            return f"{Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
