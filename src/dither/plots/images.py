"""Samples as pictures: a grid of images, a chain's consecutive states, completions of partly clamped images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from dither.plots._arrays import array, numpy
from dither.plots._figure import PALETTE, new_axes, style
from dither.plots._layout import fit
from dither.plots._mosaic import arrange, mosaic, offsets, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FRAME = PALETTE[1]
TINT = (0.62, 0.79, 0.93)  # pixels that are not clamped: no grey, so no ink


def grid(
    images: ArrayLike,
    rows: int | None = None,
    columns: int | None = None,
    shape: tuple[int, int] = (28, 28),
    gap: int = 1,
    highlight: Sequence[tuple[int, int]] | None = None,
    labels: Sequence[str] | None = None,
    *,
    invert: bool = False,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Images side by side, row by row; 0 is black and 1 white, or with `invert` the other way round.

    images      (n, pixels), or (rows, columns, pixels); `shape` is (height, width) of one. Values in [0, 1]
    rows, columns   of (n, pixels), by default as square as can be; places left over stay empty
    gap         pixels between images
    highlight   (row, column) of images that get a frame, such as each row's nearest training example
    labels      one for each row, at its left
    Raises      ValueError for another shape, a value outside [0, 1], a number of rows or labels that does not fit.
    Returns     the axes. Without `ax` the figure is new, and sized so that every pixel is a whole number of dots.
    """
    tiles = arrange("images", images, rows, columns, shape)
    return _draw(_shade(tiles, invert), gap, highlight, labels, title=title, ax=ax)


def consecutive(
    chain: ArrayLike,
    columns: int = 20,
    shape: tuple[int, int] = (28, 28),
    *,
    gap: int = 1,
    first: int | None = None,
    invert: bool = False,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Consecutive samples of one chain, (steps, pixels), one row after the other.

    With `first`, the number of the first step, each row is labelled with its own. Raises as `grid`.
    Source: Bengio, Thibodeau-Laufer, Alain and Yosinski 2014 (generative stochastic networks), Figure 2.
    """
    chain = array("chain", chain, "steps", "pixels")
    if columns < 1:
        raise ValueError(f"columns is {columns}, it must be at least 1")
    labels = None if first is None else [f"{first + i}" for i in range(0, len(chain), columns)]
    tiles = arrange("chain", chain, None, columns, shape)
    return _draw(_shade(tiles, invert), gap, None, labels, title=title, ax=ax)


def inpainting(
    original: ArrayLike,
    clamp: ArrayLike,
    completions: ArrayLike,
    nearest: ArrayLike | None = None,
    shape: tuple[int, int] = (28, 28),
    *,
    gap: int = 1,
    labels: Sequence[str] | None = None,
    invert: bool = False,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """A row for each example: the original, its clamped part, completions, and the nearest training examples, framed.

    original    (n, pixels)
    clamp       bool, (pixels,) or (n, pixels): True where the pixel is clamped; the others are tinted
    completions (n, k, pixels), such as states of clamped chains
    nearest     (n, pixels): of each row's last completion, say; left out if None
    Raises      ValueError for shapes that do not fit, a clamp that is not bool, a completion that changes a clamped
                pixel.
    Source      Bengio, Thibodeau-Laufer, Alain and Yosinski 2014 (generative stochastic networks), Figure 2, bottom.
    """
    originals = array("original", original, "n", "pixels")
    pictures = array("completions", completions, "n", "k", "pixels")
    clamped = _mask(clamp, originals.shape)
    parts = [originals[:, None], originals[:, None], pictures]
    if nearest is not None:
        parts.append(array("nearest", nearest, "n", "pixels")[:, None])
    for name, part in zip(("completions", "nearest"), parts[2:], strict=False):
        if (len(part), part.shape[2]) != originals.shape:
            raise ValueError(
                f"{name} is of {len(part)} x {part.shape[2]} pixels, original of {originals.shape}: they must agree"
            )
    if (changed := (np.abs(pictures - originals[:, None]) > 1e-6) & clamped[:, None]).any():
        raise ValueError(
            f"completions differ from original in {int(changed.sum())} clamped pixels: pass the chain's states with the "
            "clamped part put back, and a clamp that is True there"
        )
    colours = _shade(arrange("original, completions or nearest", np.concatenate(parts, 1), None, None, shape), invert)
    colours[:, 1] = np.where(clamped.reshape(-1, *shape)[..., None], colours[:, 1], TINT)
    k = pictures.shape[1]
    last = [(row, k + 2) for row in range(len(originals))] if nearest is not None else []
    groups = {"original": (0, 1), "given": (1, 2), "completions": (2, k + 2)}
    return _draw(colours, gap, last, labels, groups | ({"nearest": (k + 2, k + 3)} if last else {}), title, ax)


def _shade(tiles: np.ndarray, invert: bool) -> np.ndarray:
    """Grey (rows, columns, height, width) as colours (..., 3), page white where there is no image."""
    grey = np.where(np.isnan(tiles), 1.0, 1 - tiles if invert else tiles)
    return np.repeat(grey[..., None], 3, -1)


def _mask(clamp: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    mask = numpy(clamp)
    if mask.dtype != bool or mask.shape not in (shape, shape[1:]):
        raise ValueError(
            f"clamp has shape {mask.shape} and type {mask.dtype}, expected a bool mask of shape ({shape[1]},) or {shape}, "
            "True where the pixel is clamped"
        )
    return np.broadcast_to(mask, shape)


def _draw(
    tiles: np.ndarray,
    gap: int,
    highlight: Sequence[tuple[int, int]] | None,
    labels: Sequence[str] | None,
    groups: dict[str, tuple[int, int]] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """The mosaic of tiles (rows, columns, height, width, 3) with frames, labels and headings of groups of columns."""
    from matplotlib.patches import Rectangle

    rows, columns, height, width, _ = tiles.shape
    if gap < 0:
        raise ValueError(f"gap is {gap}, it must be 0 or more pixels")
    if labels is not None and len(labels) != rows:
        raise ValueError(f"labels has {len(labels)} entries for {rows} rows: give one for each row")
    breaks = [begin for begin, _ in (groups or {}).values()]
    tops, lefts = offsets(rows, height, gap), offsets(columns, width, gap, breaks)
    with style():
        axes = ax or new_axes(6, 6)
        show(picture := mosaic(tiles, gap, breaks), axes)
        for row, column in highlight or ():
            if not (0 <= row < rows and 0 <= column < columns):
                raise ValueError(f"highlight has ({row}, {column}), outside the {rows} rows and {columns} columns, from 0")
            corner = (lefts[column] - 0.5, tops[row] - 0.5)  # pixel centres are whole numbers
            axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=FRAME, linewidth=1.5, clip_on=False))
        if labels is not None:
            axes.set_yticks([top + (height - 1) / 2 for top in tops[:-1]], labels)
        if groups:
            middles = [(lefts[begin] + lefts[end - 1] + width - 1) / 2 for begin, end in groups.values()]
            axes.xaxis.tick_top()
            axes.set_xticks(middles, list(groups))
        if title:
            axes.set_title(title, loc="left", fontsize=11)
        if ax is None:
            fit(axes, picture.shape, (height, width))
    return axes
