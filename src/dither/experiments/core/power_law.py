"""The exponent of a power law.

>>> exponent([1, 10, 100], [3, 0.3, 0.03])
-1.0
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The least-squares slope of log y against log x."""
    u, v = [math.log(value) for value in x], [math.log(value) for value in y]
    centre = fmean(u)
    return sum((a - centre) * b for a, b in zip(u, v, strict=True)) / sum((a - centre) ** 2 for a in u)
