"""Layouts that are computed once: matplotlib's own moves a little at every drawing, and a file's bytes would too."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150  # of the PNG: a pixel of the mosaic is a whole number of its dots
WIDE, LARGE = 1000, 112  # dots: the width of a mosaic, about, and the maximum side of a tile
EDGE = 6  # dots around everything


def lay_out(ax: Axes, size: tuple[float, float] | None = None) -> None:
    """Lays the axes' figure out for good: saved twice it gives the same bytes. For a figure that is ours and finished.

    size    width and height in inches from now on
    """
    figure = _figure(ax)
    if size:
        figure.set_size_inches(size)
    for _ in range(3):  # room for texts depends on ticks, those on the room; the first pass is most of it
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def fit(ax: Axes, shape: tuple[int, ...], tile: tuple[int, int]) -> None:
    """Sizes the axes' figure around a mosaic of that shape: every pixel is the same whole number of dots, and sharp."""
    dots = max(1, min(round(WIDE / shape[1]), LARGE // max(tile)))
    height, width = (dots * size / DPI for size in shape[:2])
    figure = _figure(ax)
    figure.set_layout_engine("none")
    figure.set_size_inches(width, height)
    ax.set_position((0, 0, 1, 1))
    box, tight = ax.get_window_extent(), ax.get_tightbbox()
    assert tight is not None  # the axes are visible
    over = (box.x0 - tight.x0, tight.x1 - box.x1, box.y0 - tight.y0, tight.y1 - box.y1)
    left, right, bottom, top = (math.ceil(max(0, inner) / figure.dpi * DPI + EDGE) / DPI for inner in over)
    whole = (left + width + right, bottom + height + top)
    figure.set_size_inches(*whole)
    ax.set_position((left / whole[0], bottom / whole[1], width / whole[0], height / whole[1]))


def _figure(ax: Axes) -> Figure:
    from matplotlib.figure import Figure

    figure = ax.figure
    assert isinstance(figure, Figure)  # it is ours
    return figure
