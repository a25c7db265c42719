"""What `variance_units` makes of its points: noise and bias over several problems, and how they grow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

Key = tuple[str, int, int, str, str, str]  # part, units, layers, credit, method, how


@dataclass(frozen=True)
class Point:
    """Total variance and squared bias of one draw of the gradient, with standard errors; `signal` is |true gradient|^2.
    first_*: of the first layer alone."""

    seed: int
    evaluations: int
    signal: float
    variance: float
    variance_error: float
    bias2: float
    bias2_error: float
    first_signal: float
    first_variance: float


def curve(key: Key, points: list[Point]) -> dict[str, Any]:
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


def growth(found: Mapping[Key, list[Point]], fit_from: int) -> list[dict[str, Any]]:
    """A row per part, credit and method: the mean over problems of the slopes of log noise (and of log noise times
    evaluations) against log units, with the standard error over problems; noise and bias at the largest size."""
    rows = []
    for part, credit, method in dict.fromkeys((key[0], key[3], key[4]) for key in found):
        sizes = [key for key in found if (key[0], key[3], key[4], key[5]) == (part, credit, method, "measured")]
        fitted = [key for key in sizes if key[1] >= fit_from]
        slopes, paid = _slopes([found[key] for key in fitted], [key[1] for key in fitted])
        last = curve(sizes[-1], found[sizes[-1]])
        rows.append(
            {"part": part, "credit": credit, "method": method}
            | {"growth": _rounded(slopes, fmean), "growth_error": _rounded(slopes, stdev, len(slopes) ** 0.5)}
            | {"growth_by_evaluation": _rounded(paid, fmean), "largest": last["units"]}
            | {name: last[name] for name in ("noise", "noise_error", "bias2", "bias2_error", "noise_first_layer")}
            | {"worst_z": _worst(found, sizes)}
        )
    return rows


def _rounded(values: list[float], of: Callable[[list[float]], float], divisor: float = 1.0) -> float | None:
    return round(of(values) / divisor, 3) if len(values) >= (2 if of is stdev else 1) else None


def _slopes(sizes: list[list[Point]], units: list[int]) -> tuple[list[float], list[float]]:
    """Per problem the slope of log(noise), and of log(noise x evaluations); empty with one size, or where noise is 0."""
    if len(sizes) < 2 or any(p.variance <= 0 for points in sizes for p in points):
        return [], []
    slopes, paid = [], []
    for points in zip(*sizes, strict=True):
        noise = [p.variance / p.signal for p in points]
        slopes.append(slope(units, noise))
        paid.append(slope(units, [v * p.evaluations for v, p in zip(noise, points, strict=True)]))
    return slopes, paid


def slope(x: list[int], y: list[float]) -> float:
    u, v = [math.log(value) for value in x], [math.log(value) for value in y]
    centre = fmean(u)
    return sum((a - centre) * b for a, b in zip(u, v, strict=True)) / sum((a - centre) ** 2 for a in u)


def _worst(found: Mapping[Key, list[Point]], sizes: list[Key]) -> float | None:
    """The greatest |measured - exact| of the variance, in standard errors, over sizes and problems that have both."""
    distances = [
        abs(m.variance - e.variance) / m.variance_error
        for key in sizes
        for m, e in zip(found[key], found.get((*key[:-1], "exact"), []), strict=False)
        if m.variance_error > 1e-9 * m.signal  # a sum of rounding errors where the estimate is exact
    ]
    return round(max(distances), 2) if distances else None
