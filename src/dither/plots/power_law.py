"""How an error falls with the number of examples: log-log, a panel for each space, a line for each method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dither.plots._figure import LINES, MARKERS, PALETTE, Row, named_lines, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 2
BAND = "band: minimum to maximum"


def draw(
    rows: Sequence[Row],
    *,
    x: str = "n",
    y: str = "kl",
    group: str = "method",
    panel: str = "space",
    reference: str = "",
    power: float | None = -1.0,
    x_label: str = "n",
    y_label: str = "",
    title: str = "",
) -> Figure:
    """A panel for each value of `panel`, on common axes: a line for each `group`, a band from `y_min` to `y_max`.

    rows        [{"n": 100, "kl": 0.1, "kl_min": 0.05, "kl_max": 0.2, "method": "count", "space": "ten"}, ...]
    reference   the value of `group` that is drawn as a black dashed line: what the others are to be compared with
    power       of the grey guide below all lines; None for no guide
    Raises      ValueError when no row has both `x` and a positive `y`.
    """
    methods = list(dict.fromkeys(str(row.get(group, "")) for row in rows))  # of all: one colour in every panel
    rows = [row for row in rows if (row.get(x) or 0) > 0 and (row.get(y) or 0) > 0]
    if not rows:
        raise ValueError(f"no row has both {x!r} and a positive {y!r}: nothing can be drawn on logarithmic axes")
    panels = list(dict.fromkeys(str(row.get(panel, "")) for row in rows))
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    others = [method for method in methods if method != reference]
    with style():
        figure = new_figure(1.6 + 4.2 * columns, 0.9 + 3.3 * lines)
        every = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flatten()
        for ax, name in zip(every, panels, strict=False):
            own = [row for row in rows if str(row.get(panel, "")) == name]
            for method in methods:
                _line(ax, [row for row in own if str(row.get(group, "")) == method], x, y, method, _look(others, method))
            if power is not None:
                _guide(ax, own, x, y, power)
            ax.set(xscale="log", yscale="log")
            ax.set_title(name, loc="left", fontsize=11)
        for ax in every[len(panels) :]:
            ax.set_visible(False)
        for ax in every[len(panels) - columns : len(panels)]:
            ax.set_xlabel(x_label)
            ax.tick_params(labelbottom=True)
        for ax in every[::columns]:
            ax.set_ylabel(y_label or y.replace("_", " "))
        figure.suptitle(title, fontsize=11)
        seen: dict[str, Any] = dict(named_lines(every))
        if any(row.get(f"{y}_max") for row in rows):
            from matplotlib.patches import Patch

            seen[BAND] = Patch(color="#666666", alpha=0.15, linewidth=0)
        order = [name for name in (*methods, _name(power), BAND) if name in seen]
        figure.legend([seen[name] for name in order], order, fontsize=8, loc="outside right center")
    return figure


def _look(others: list[str], method: str) -> dict[str, Any]:
    if method not in others:
        return {"color": "black", "linestyle": "--", "linewidth": 1.3, "zorder": 4}
    i = others.index(method)
    colors = [color for color in PALETTE if color != "#000000"]  # black is the reference's
    how = {"color": colors[i % len(colors)], "linestyle": LINES[i // len(colors) % len(LINES)], "linewidth": 1.3}
    return how | {"marker": MARKERS[i % len(MARKERS)], "markersize": 3.5}


def _line(ax: Axes, rows: list[Row], x: str, y: str, label: str, how: dict[str, Any]) -> None:
    rows = sorted(rows, key=lambda row: row[x])
    if not rows:
        return
    xs = [row[x] for row in rows]
    low = [row.get(f"{y}_min") or row[y] for row in rows]
    high = [row.get(f"{y}_max") or row[y] for row in rows]
    ax.fill_between(xs, low, high, color=how["color"], alpha=0.07, linewidth=0)
    ax.plot(xs, [row[y] for row in rows], label=label, **how)


def _guide(ax: Axes, rows: list[Row], x: str, y: str, power: float) -> None:
    """From the first to the last x, a third of the minimum of all rows."""
    xs = sorted({row[x] for row in rows})
    height = min(row[y] / row[x] ** power for row in rows) / 3
    ax.plot(xs, [height * v**power for v in xs], ":", color="#666666", linewidth=1.5, label=_name(power))


def _name(power: float | None) -> str:
    return "" if power is None else f"slope {power:g}"
