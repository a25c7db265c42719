"""A row over seeds: means, and standard deviations.

>>> mean_and_sd("kid", [0.25, 0.75])
{'kid': 0.5, 'kid_sd': 0.3535533905932738}
>>> mean_and_sd("kid", [0.25, None])
{'kid': None, 'kid_sd': None}
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

from dither.tables import Row


def mean_and_sd(name: str, values: Sequence[float | None]) -> Row:
    """{name: mean, name_sd: standard deviation, with n - 1}.

    Both are None where a value is missing; the standard deviation of one value is None.
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return {name: None, f"{name}_sd": None}
    return {name: fmean(known), f"{name}_sd": stdev(known) if len(known) > 1 else None}


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None for one value."""
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
