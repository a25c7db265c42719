"""Tiles of equal size, put together into one picture, pixel by pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from dither.plots._arrays import array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BREAK = 4  # a break between groups of columns, in gaps


def arrange(name: str, images: ArrayLike, rows: int | None, columns: int | None, shape: tuple[int, int]) -> np.ndarray:
    """(rows, columns, height, width), NaN where there is no image."""
    axes = ("rows", "columns", "pixels") if np.ndim(images) == 3 else ("n", "pixels")
    pixels = array(name, images, *axes)
    height, width = shape
    if pixels.shape[-1] != height * width:
        raise ValueError(
            f"{name} has {pixels.shape[-1]} pixels each, expected {height} * {width} = {height * width}: "
            "pass shape=(height, width) of one image"
        )
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > 1:
        raise ValueError(f"{name} has values from {low:.4g} to {high:.4g}, expected [0, 1]: scale or clamp them first")
    if pixels.ndim == 3:
        if (rows or pixels.shape[0], columns or pixels.shape[1]) != pixels.shape[:2]:
            raise ValueError(
                f"{name} is {pixels.shape[0]} x {pixels.shape[1]}, not rows={rows} x columns={columns}: pass neither"
            )
        return pixels.reshape(*pixels.shape[:2], height, width)
    n = len(pixels)
    columns = columns if columns is not None else math.ceil(n / rows) if rows else math.ceil(math.sqrt(n))
    rows = rows if rows is not None else math.ceil(n / max(columns, 1))
    if min(rows, columns) < 1 or rows * columns < n:
        raise ValueError(
            f"{n} images do not fit in rows={rows} x columns={columns}; choose more, or draw {name}[:{rows * columns}]"
        )
    tiles = np.full((rows * columns, height, width), np.nan)
    tiles[:n] = pixels.reshape(n, height, width)
    return tiles.reshape(rows, columns, height, width)


def offsets(count: int, size: int, gap: int, breaks: Sequence[int] = ()) -> list[int]:
    """Where each of `count` tiles begins, a gap after the last, a wide one at `breaks`; and where one more would."""
    ends = [0]
    for index in range(1, count + 1):
        ends.append(ends[-1] + size + gap * (BREAK if index in breaks else 1))
    return ends


def mosaic(tiles: np.ndarray, gap: int, breaks: Sequence[int] = ()) -> np.ndarray:
    """(rows, columns, height, width, 3) -> one picture (H, W, 3), white between the tiles."""
    rows, columns, height, width, _ = tiles.shape
    tops, lefts = offsets(rows, height, gap), offsets(columns, width, gap, breaks)
    picture = np.ones((tops[-1] - gap, lefts[-1] - gap, 3))
    for row in range(rows):
        for column in range(columns):
            y, x = tops[row], lefts[column]
            picture[y : y + height, x : x + width] = tiles[row, column]
    return picture


def show(picture: np.ndarray, ax: Axes) -> None:
    """The picture on bare axes."""
    # "none" is "nearest" in a PNG; in an SVG it stores the picture's own pixels, not a resampled copy.
    ax.imshow(picture, interpolation="none")
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.tick_params(length=0, pad=4)
