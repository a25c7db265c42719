"""Sets of points in a space of several units, seen as scatter plots of pairs of units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dither.plots._figure import PALETTE, Row, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(
    rows: Sequence[Row],
    *,
    pairs: Sequence[tuple[str, str]],
    group: str = "set",
    size: float = 2.0,
    title: str = "",
) -> Figure:
    """A row of panels for each value of `group`, a column for each pair of units. A column's panels share their axes.

    rows    [{"set": "training", "x1": 0.1, "x2": -0.3, ...}, ...], a row per point
    pairs   [("x1", "x2"), ...]: what is drawn against what
    size    of a point, in points of typography
    Raises  ValueError where no row has both units of a pair.
    """
    names = list(dict.fromkeys(str(row.get(group, "")) for row in rows))
    for pair in pairs:
        if not any(all(row.get(unit) is not None for unit in pair) for row in rows):
            raise ValueError(f"no row has both {pair[0]!r} and {pair[1]!r}")
    with style():
        figure = new_figure(0.6 + 2.7 * len(pairs), 0.6 + 2.7 * len(names))
        every = figure.subplots(len(names), len(pairs), squeeze=False, sharex="col", sharey="col")
        for i, name in enumerate(names):
            own = [row for row in rows if str(row.get(group, "")) == name]
            for ax, (across, up) in zip(every[i], pairs, strict=True):
                color = PALETTE[i % len(PALETTE)]
                ax.plot(
                    [r.get(across) for r in own], [r.get(up) for r in own], "o", color=color, markersize=size, alpha=0.6, mew=0
                )
                ax.set_ylabel(up)
                if i == len(names) - 1:
                    ax.set_xlabel(across)
            every[i][0].set_title(name, loc="left", fontsize=11)
        figure.suptitle(title, fontsize=11)
    return figure
