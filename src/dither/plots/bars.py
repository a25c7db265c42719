"""Bars of a quantity for several implementations, in groups: what benchmarks show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dither.plots._figure import PALETTE, Row, new_axes, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(
    rows: Sequence[Row],
    ax: Axes | None = None,
    *,
    x: str,
    y: str = "milliseconds",
    group: str = "implementation",
    x_label: str = "",
    y_label: str = "milliseconds",
    line: str = "floor",
    title: str = "",
) -> Axes:
    """A group of bars for each value of `x`, a bar for each value of `group`, on a logarithmic axis, with the values.

    rows    [{"depth": 3, "implementation": "ForwardOnly", "milliseconds": 4.1}, ...]
    line    the value of `group` that is no bar but a line across its group, such as a limit of the machine
    Raises  ValueError where no row has both `x` and `y`.
    """
    rows = [row for row in rows if row.get(x) is not None and row.get(y) is not None]
    places = list(dict.fromkeys(row[x] for row in rows))
    names = list(dict.fromkeys(row[group] for row in rows if row[group] != line))
    if not places or not names:
        raise ValueError(f"no row has {x!r}, {y!r} and a {group!r} besides {line!r}")
    values = {(row[x], row[group]): float(row[y]) for row in rows}
    width = 0.84 / len(names)
    with style():
        ax = ax or new_axes(9.0, 4.6)
        for i, name in enumerate(names):
            at = [place - 0.42 + (i + 0.5) * width for place in range(len(places))]
            heights = [values.get((place, name), float("nan")) for place in places]
            hatch = "//" if i >= len(PALETTE) else ""
            bars = ax.bar(
                at, heights, width * 0.92, color=PALETTE[i % len(PALETTE)], label=name, hatch=hatch, edgecolor="white"
            )
            ax.bar_label(bars, [f"{h:.3g}" for h in heights], fontsize=6, padding=1)
        for place, value in enumerate(places):
            if (value, line) in values:
                ax.hlines(
                    values[value, line], place - 0.44, place + 0.44, colors="black", linestyles="--", label=_once(line, place)
                )
        ax.set_yscale("log")
        ax.set_xticks(range(len(places)), [str(place) for place in places])
        ax.set_xlabel(x_label or x.replace("_", " "))
        ax.set_ylabel(y_label)
        ax.set_title(title, loc="left", fontsize=11)
        ax.grid(axis="x", visible=False)
        ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def _once(label: str, place: int) -> str:
    return label if place == 0 else "_nolegend_"
