"""Bars of a quantity: in groups on one axis, or a panel for each place, as benchmarks show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dither.plots._figure import PALETTE, Row, new_axes, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(
    rows: Sequence[Row],
    ax: Axes | None = None,
    *,
    x: str,
    y: str,
    group: str,
    x_label: str = "",
    y_label: str = "",
    title: str = "",
) -> Axes:
    """A group of bars for each value of `x`, a bar for each value of `group`.

    rows    [{"value": 3, "distribution": "data", "probability": 0.1}, ...]
    Raises  ValueError where no row has both `x` and `y`.
    """
    places, names, values = _values(rows, x, y, group)
    width = 0.84 / len(names)
    with style():
        ax = ax or new_axes(9.0, 4.6)
        for i, name in enumerate(names):
            at = [place - 0.42 + (i + 0.5) * width for place in range(len(places))]
            heights = [values.get((place, name), float("nan")) for place in places]
            ax.bar(at, heights, width * 0.92, color=PALETTE[i % len(PALETTE)], label=name, edgecolor="white")
        ax.set_xticks(range(len(places)), [str(place) for place in places])
        ax.set_ylim(0, None)
        ax.set_xlabel(x_label or x.replace("_", " "))
        ax.set_ylabel(y_label or y.replace("_", " "))
        ax.set_title(title, loc="left", fontsize=11)
        ax.grid(axis="x", visible=False)
        ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def panels(
    rows: Sequence[Row],
    *,
    x: str,
    y: str = "milliseconds",
    group: str = "implementation",
    panel: str = "{}",
    x_label: str = "milliseconds",
    line: str = "floor",
    title: str = "",
) -> Figure:
    """A panel for each value of `x`, each on an axis of its own from zero: a bar for each value of `group`, with its value.

    rows    [{"depth": 3, "implementation": "ForwardOnly", "milliseconds": 4.1}, ...]
    panel   title of a panel, of the value of `x`
    line    the value of `group` that is no bar but a line across, such as a limit of the machine
    Raises  ValueError where no row has both `x` and `y`.
    """
    places, names, values = _values(rows, x, y, group, line)
    with style():
        figure = new_figure(1.6 + 2.8 * len(places), 1.3 + 0.27 * len(names))
        for ax, place in zip(figure.subplots(1, len(places), sharey=True, squeeze=False)[0], places, strict=True):
            lengths = [values.get((place, name), float("nan")) for name in names]
            ax.bar_label(ax.barh(names, lengths, color=PALETTE[0]), [f"{v:.3g}" for v in lengths], fontsize=8, padding=2)
            if (place, line) in values:
                ax.axvline(values[place, line], color="black", linestyle="--", linewidth=1.2, label=line)
            ax.set_xlim(0, 1.15 * max(v for v in lengths if v == v))
            ax.set_title(panel.format(place), loc="left", fontsize=10)
            ax.set_xlabel(x_label)
            ax.grid(axis="y", visible=False)
            ax.tick_params(axis="y", length=0)
        ax.invert_yaxis()  # of all: they share it
        figure.suptitle(title, fontsize=11)
        if any(key[1] == line for key in values):
            figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center")
    return figure


def _values(
    rows: Sequence[Row], x: str, y: str, group: str, line: str | None = None
) -> tuple[list[object], list[str], Mapping[tuple[object, str], float]]:
    """The values of `x`, those of `group` but `line`, and y by both."""
    rows = [row for row in rows if row.get(x) is not None and row.get(y) is not None]
    places = list(dict.fromkeys(row[x] for row in rows))
    names = list(dict.fromkeys(str(row[group]) for row in rows if row[group] != line))
    if not places or not names:
        besides = f" besides {line!r}" if line else ""
        raise ValueError(f"no row has {x!r}, {y!r} and a {group!r}{besides}")
    return places, names, {(row[x], str(row[group])): float(row[y]) for row in rows}
