"""Noise and bias over several problems, and the exponents of their growth with the number of units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import fmean

from dither.experiments.core.power_law import exponent
from dither.experiments.core.summary import standard_error
from dither.tables import Row

Key = tuple[str, int, int, str, str, str]  # part, units, layers, credit, method, how


@dataclass(frozen=True)
class Point:
    """Total variance and squared bias of one sample of the gradient, with standard errors.

    `signal` is |true gradient|^2; first_*: of the first layer alone.
    """

    seed: int
    evaluations: int
    signal: float
    variance: float
    variance_error: float
    bias2: float
    bias2_error: float
    first_signal: float
    first_variance: float


def curve(key: Key, points: list[Point]) -> Row:
    """The row of one size: sums over problems, divided by the sum of their signals."""
    part, units, layers, credit, method, how = key
    total = {name: sum(asdict(p)[name] for p in points) for name in ("signal", "variance", "bias2", "first_signal")}
    squares = {name: math.hypot(*(asdict(p)[name] for p in points)) for name in ("variance_error", "bias2_error")}
    row = {"part": part, "units": units, "layers": layers, "credit": credit, "method": method, "how": how}
    numbers = {
        "noise": total["variance"] / total["signal"],
        "noise_error": squares["variance_error"] / total["signal"],
        "bias2": total["bias2"] / total["signal"],
        "bias2_error": squares["bias2_error"] / total["signal"],
        "noise_first_layer": sum(p.first_variance for p in points) / total["first_signal"],
    }
    return row | {"evaluations": points[0].evaluations} | {name: _digits(value) for name, value in numbers.items()}


def _digits(value: float) -> float:
    return 0.0 if abs(value) < 1e-12 else float(f"{value:.4g}")  # rounding errors of an estimate that is exact


def growth(by_key: Mapping[Key, list[Point]], fit_from: int) -> list[Row]:
    """A row per part, credit and method.

    growth                  the mean over problems of the exponent of noise as a power of units, with its standard error
    growth_by_evaluation    the same of noise times evaluations
    noise, bias2 ...        at the largest size
    """
    rows = []
    for part, credit, method in dict.fromkeys((key[0], key[3], key[4]) for key in by_key):
        sizes = [key for key in by_key if (key[0], key[3], key[4], key[5]) == (part, credit, method, "measured")]
        fitted = [key for key in sizes if key[1] >= fit_from]
        exponents, paid = _exponents([by_key[key] for key in fitted], [key[1] for key in fitted])
        last = curve(sizes[-1], by_key[sizes[-1]])
        rows.append(
            {"part": part, "credit": credit, "method": method}
            | {"growth": _mean(exponents), "growth_error": _rounded(standard_error(exponents))}
            | {"growth_by_evaluation": _mean(paid), "largest": last["units"]}
            | {name: last[name] for name in ("noise", "noise_error", "bias2", "bias2_error", "noise_first_layer")}
            | {"worst_z": _worst(by_key, sizes)}
        )
    return rows


def _mean(values: list[float]) -> float | None:
    return _rounded(fmean(values) if values else None)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _exponents(sizes: list[list[Point]], units: list[int]) -> tuple[list[float], list[float]]:
    """Per problem, of noise and of noise x evaluations; none with one size, or where noise is 0."""
    if len(sizes) < 2 or any(p.variance <= 0 for points in sizes for p in points):
        return [], []
    exponents, paid = [], []
    for points in zip(*sizes, strict=True):
        noise = [p.variance / p.signal for p in points]
        exponents.append(exponent(units, noise))
        paid.append(exponent(units, [v * p.evaluations for v, p in zip(noise, points, strict=True)]))
    return exponents, paid


def _worst(by_key: Mapping[Key, list[Point]], sizes: list[Key]) -> float | None:
    """The maximal |measured - exact| of the variance, in standard errors, over sizes and problems that have both."""
    distances = [
        abs(measured.variance - summed.variance) / measured.variance_error
        for key in sizes
        for measured, summed in zip(by_key[key], by_key.get((*key[:-1], "exact"), []), strict=False)
        if measured.variance_error > 1e-9 * measured.signal  # a sum of rounding errors where the estimate is exact
    ]
    return round(max(distances), 2) if distances else None
