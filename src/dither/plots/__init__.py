"""Figures of records: `draw(records, ax=None) -> Axes`, and `save(figure, path)`.

matplotlib is an extra (`pip install "dither[plots]"`). Figures use its object-oriented interface on the Agg canvas: no
global state, no window, nothing that a notebook's own settings could change.
"""

from dither.plots._figure import PALETTE, new_axes, save, svg

__all__ = ["PALETTE", "new_axes", "save", "svg"]
