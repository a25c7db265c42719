"""How the variance of estimators grows: noise to signal against the number of units, log-log, a few methods a panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dither.plots._figure import MARKERS, PALETTE, Row, named_lines, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOISE = "variance / |gradient|²"
OTHERS, GUIDE = "#CFCFCF", "#666666"
# Of methods that coincide the later one is thinner and broken, so that both are seen.
WIDTHS, LINES = (2.6, 1.7, 1.2, 1.2, 1.0), ("-", (0, (4, 2)), (0, (1, 1.5)), "-.", "-")


def draw(
    rows: Sequence[Row],
    groups: Mapping[str, Sequence[str]],
    *,
    x: str = "units",
    x_label: str = "stochastic units",
    title: str = "",
) -> Figure:
    """A row of panels for each credit and a column for each group of methods; the methods of other groups are grey lines.

    rows        [{"method", "units", "noise", "credit", "how"}, ...]; "noise_error" is drawn as +-2 standard errors, and
                rows whose "how" is "exact" as hollow rings on the measured curves. Values that are not positive are
                left out.
    groups      title of a column -> its methods; those that stand in none are "others"
    Raises      ValueError when no row has both `x` and positive noise.
    """
    rows = [row for row in rows if row.get(x) and (row.get("noise") or 0) > 0]
    if not rows:
        raise ValueError(f"no row has both {x!r} and positive 'noise': nothing can be drawn on logarithmic axes")
    columns, credits = _columns(rows, groups), list(dict.fromkeys(str(row.get("credit", "")) for row in rows))
    with style():
        figure = new_figure(0.6 + 3.1 * len(columns), 1.3 + 3.1 * len(credits))
        grid = figure.subplots(len(credits), len(columns), sharex=True, sharey=True, squeeze=False)
        for line, credit in zip(grid, credits, strict=True):
            of_credit = [row for row in rows if str(row.get("credit", "")) == credit]
            for ax, (name, own) in zip(line, columns.items(), strict=True):
                _panel(ax, of_credit, own, x)
                ax.set_title(f"{name}: {credit} credit" if credit else name, loc="left", fontsize=10)
            line[0].set_ylabel(NOISE)
        for ax in grid[-1]:
            ax.set_xlabel(x_label)
        _scales(grid[0][0], sorted({row[x] for row in rows}), [row["noise"] for row in rows])
        for panels in grid.T:
            _names(panels)
        figure.suptitle(title, fontsize=11)
        _legend(figure, any(row.get("how") == "exact" for row in rows))
    return figure


def _columns(rows: Sequence[Row], groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """title -> the methods that are there, in the order of the groups."""
    there = list(dict.fromkeys(str(row.get("method", "")) for row in rows))
    columns = {name: [method for method in own if method in there] for name, own in groups.items()}
    known = {method for own in groups.values() for method in own}
    columns["others"] = [method for method in there if method not in known]
    return {name: own for name, own in columns.items() if own}


def _panel(ax: Axes, rows: list[Row], methods: list[str], x: str) -> None:
    for method in dict.fromkeys(str(row["method"]) for row in rows):
        if method not in methods:
            xs, ys, _ = _measured(rows, method, x)
            ax.plot(xs, ys, color=OTHERS, linewidth=0.8, zorder=1, label="_other")
    for i, method in enumerate(methods):
        xs, ys, errors = _measured(rows, method, x)
        color = PALETTE[i % len(PALETTE)]
        if xs:
            low = [max(v - e, v / 10) for v, e in zip(ys, errors, strict=True)]
            ax.fill_between(xs, low, [v + e for v, e in zip(ys, errors, strict=True)], color=color, alpha=0.2, linewidth=0)
            look = {"linestyle": LINES[i % len(LINES)], "linewidth": WIDTHS[i % len(WIDTHS)]}
            ax.plot(xs, ys, color=color, marker=MARKERS[i % len(MARKERS)], markersize=3.5, label=method, zorder=3, **look)
        exact = [row for row in rows if row.get("how") == "exact" and str(row["method"]) == method]
        rings = {"color": color, "fillstyle": "none", "markersize": 8, "markeredgewidth": 0.9}
        ax.plot([row[x] for row in exact], [row["noise"] for row in exact], "o", label="_exact", **rings)


def _measured(rows: Sequence[Row], method: str, x: str) -> tuple[list[float], list[float], list[float]]:
    """(x, noise, two standard errors), in the order of x."""
    own = sorted((r for r in rows if r.get("how") != "exact" and str(r["method"]) == method), key=lambda r: r[x])
    return [r[x] for r in own], [r["noise"] for r in own], [2 * (r.get("noise_error") or 0.0) for r in own]


def _names(panels: Sequence[Axes]) -> None:
    """A legend in the first panel of a column: the others have the same methods, or fewer."""
    lines = named_lines(panels)
    panels[0].legend(list(lines.values()), list(lines), fontsize=7.5, loc="upper left", handlelength=2.6)


def _scales(ax: Axes, xs: list[float], ys: list[float]) -> None:
    """Logarithmic, marked at sizes that were measured, every second one of many, with room for names above the lines."""
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    ax.set(xscale="log", yscale="log")
    low, high = min(ys), max(ys)
    ax.set_ylim(low / 2, high * (high / low) ** 0.35)
    ax.xaxis.set_major_locator(FixedLocator(xs[:: 1 if len(xs) < 8 else 2]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(ScalarFormatter())


def _legend(figure: Figure, rings: bool) -> None:
    """What the marks mean that no method's name explains."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    ring = Line2D([], [], linestyle="", marker="o", fillstyle="none", markersize=8, color=GUIDE)
    marks = {"ring: the sum over all outcomes, nothing sampled": ring} if rings else {}
    marks |= {
        "band: ± 2 standard errors": Patch(color=GUIDE, alpha=0.2, linewidth=0),
        "the methods of the other panels of the row": Line2D([], [], color=OTHERS, linewidth=1.2),
    }
    figure.legend(list(marks.values()), list(marks), fontsize=8, loc="outside lower center", ncols=len(marks))
