"""How the variance of estimators grows: noise to signal against the number of units, log-log, a panel a credit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dither.plots._figure import LINES, MARKERS, PALETTE, Row, new_axes, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

NAMES = {"units": "stochastic units", "layers": "layers", "noise": "variance / |gradient|²", "bias2": "bias² / |gradient|²"}


def draw(
    rows: Sequence[Row], *, x: str = "units", y: str = "noise", panel: str = "credit", title: str = ""
) -> Figure | SubFigure:
    """A panel for each value of `panel`, side by side on common axes; in each a curve for each method.

    rows        [{"method", "units", "noise", "credit", "how"}, ...]; "noise_error" is drawn as +-2 standard errors, and
                rows whose "how" is "exact" as hollow rings on the measured curves. Values that are not positive are
                left out.
    Raises      ValueError when no row has both `x` and a positive `y`.
    """
    methods = list(dict.fromkeys(str(row.get("method", "")) for row in rows))  # of all: one colour in every figure
    rows = [row for row in rows if row.get(x) and (row.get(y) or 0) > 0]
    if not rows:
        raise ValueError(f"no row has both {x!r} and a positive {y!r}: nothing can be drawn on logarithmic axes")
    panels = list(dict.fromkeys(str(row.get(panel, "")) for row in rows))
    with style():
        figure = new_axes(2.6 + 4.2 * len(panels), 5.2).figure
        figure.clear()
        every = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        for ax, name in zip(every, panels, strict=True):
            for i, method in enumerate(methods):
                own = [row for row in rows if (str(row.get(panel, "")), str(row.get("method", ""))) == (name, method)]
                _curve(ax, own, x, y, i, method)
            ax.set(xscale="log", yscale="log", xlabel=NAMES.get(x, x))
            ax.set_title(f"{name} {panel}" if name else "", loc="left", fontsize=11)
        every[0].set_ylabel(NAMES.get(y, y))
        figure.suptitle(title, fontsize=11)
        lines = {line.get_label(): line for ax in every for line in ax.get_lines() if not line.get_label().startswith("_")}
        figure.legend(list(lines.values()), list(lines), fontsize=8, loc="outside right center")
    return figure


def _curve(ax: Axes, rows: list[Row], x: str, y: str, number: int, label: str) -> None:
    color, line = PALETTE[number % len(PALETTE)], LINES[number // len(PALETTE) % len(LINES)]
    measured = sorted((row for row in rows if row.get("how") != "exact"), key=lambda row: row[x])
    exact = [row for row in rows if row.get("how") == "exact"]
    if measured:
        xs, ys = [row[x] for row in measured], [row[y] for row in measured]
        errors = [2 * row.get(f"{y}_error", 0.0) for row in measured]
        low = [max(v - e, v / 10) for v, e in zip(ys, errors, strict=True)]
        ax.fill_between(xs, low, [v + e for v, e in zip(ys, errors, strict=True)], color=color, alpha=0.15, linewidth=0)
        ax.plot(xs, ys, line, color=color, marker=MARKERS[number % len(MARKERS)], markersize=3.5, linewidth=1.3, label=label)
    if exact:
        ax.plot([r[x] for r in exact], [r[y] for r in exact], "o", color=color, fillstyle="none", markersize=8, label="_exact")
