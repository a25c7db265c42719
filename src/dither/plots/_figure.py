"""What all figures share: palette, axes, and byte-stable saving."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dither import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D

# Okabe & Ito's palette without its yellow (too pale on white): told apart with every common colour blindness.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
LINES = ("-", "--", ":")  # for a second and third round of colours
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "d")

Row = Mapping[str, Any]  # a JSON object: column -> number, text or None

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs everywhere
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "dither",  # ids in the SVG come from this instead of a random number
    "svg.fonttype": "path",
    "savefig.dpi": 150,
}


@contextmanager
def style() -> Iterator[None]:
    """Our settings on top of matplotlib's defaults, whatever the user's own; restored afterwards."""
    matplotlib = require_matplotlib()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def require_matplotlib() -> ModuleType:
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'figures need matplotlib, which is not installed: pip install "dither[plots]"', name="matplotlib"
        ) from None
    return matplotlib


def new_axes(width: float = 7.0, height: float = 4.2) -> Axes:
    """One pair of axes on a new figure (inches); `ax.figure` is that figure."""
    with style():
        return new_figure(width, height).add_subplot()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure (inches) on the Agg canvas."""
    with style():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        return figure


def curve(
    ax: Axes, number: int, xs: Any, means: Any, band: tuple[Any, Any] | None, label: str, markersize: float = 3.5, **marks: Any
) -> None:
    """The line of means number `number` of a figure, in a band from the minimum to the maximum if there are several values."""
    color, line = PALETTE[number % len(PALETTE)], LINES[number // len(PALETTE) % len(LINES)]
    marks |= {"marker": MARKERS[number % len(MARKERS)], "markersize": markersize}
    ax.plot(xs, means, line, color=color, linewidth=1.5, label=label, **marks)
    if band:
        ax.fill_between(xs, *band, color=color, alpha=0.18, linewidth=0)


def named_lines(panels: Iterable[Axes]) -> dict[str, Line2D]:
    """label -> a line that has it, of all panels, for a legend that they share; lines without a name are left out."""
    lines = [line for ax in panels for line in ax.get_lines()]
    return {str(line.get_label()): line for line in lines if not str(line.get_label()).startswith("_")}


def note(ax: Axes, text: str) -> None:
    """Small words above the axes, at the right: what lines and bands mean."""
    ax.text(1, 1.01, text, transform=ax.transAxes, ha="right", va="bottom", fontsize=8)


def svg(figure: Figure | SubFigure) -> str:
    """The figure as SVG text. The same figure gives the same text: no date, and ids that depend on the figure alone."""
    with style():
        buffer = io.BytesIO()
        figure.canvas.print_figure(buffer, format="svg", metadata={"Date": None, "Creator": "dither"})
    return buffer.getvalue().decode()


def save(figure: Figure | SubFigure, path: str | Path) -> list[Path]:
    """Writes path.svg and path.png, each whole or not at all, and returns the two paths.

    The same records give the same bytes: no date, and ids that depend on nothing but the figure.
    """
    with style():
        stem = Path(path)
        stem.parent.mkdir(parents=True, exist_ok=True)
        written = []
        for suffix, metadata in (
            (".svg", {"Date": None, "Creator": "dither"}),
            (".png", {"Software": "dither"}),
        ):
            buffer = io.BytesIO()
            figure.canvas.print_figure(buffer, format=suffix[1:], metadata=metadata)
            target = stem.with_name(stem.name + suffix)
            files.write_atomic(target, buffer.getvalue())
            written.append(target)
        return written
