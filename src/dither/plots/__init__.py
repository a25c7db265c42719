"""Figures drawn from records: `draw(records, ax=None) -> Axes`, and `save(figure, path)`.

matplotlib is an extra (`pip install "dither[plots]"`). Figures are made with the object-oriented interface on
the Agg canvas: no global state, no window, nothing that a notebook's own settings could change.
"""

from dither.plots._figure import PALETTE, new_axes, save, svg

__all__ = ["PALETTE", "new_axes", "save", "svg"]
