"""Where a chain is expected to move, in the plane: data, the field of E[x | x~] - x~, a walkback path, attractors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from dither.plots._arrays import array
from dither.plots._figure import PALETTE, new_axes, new_figure, style
from dither.plots._layout import lay_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

DATA, SAMPLES, PATH, ATTRACTOR, ARROW = PALETTE[3], PALETTE[0], "#D00000", PALETTE[6], "#555555"  # the paper's violet and red
ARROWS: dict[str, Any] = {"width": 0.0028, "headwidth": 4, "headlength": 5, "headaxislength": 4.5}


def draw(
    data: ArrayLike,
    at: ArrayLike,
    expected: ArrayLike,
    *,
    samples: ArrayLike | None = None,
    path: ArrayLike | None = None,
    attractors: ArrayLike | None = None,
    length: float = 1.0,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """The data, and at each point x~ an arrow towards E[x | x~], as long as `length` times the expected move.

    data        (n, 2)
    at          (m, 2), the points x~, such as a grid
    expected    (m, 2), E[x | x~] at each
    samples     (k, 2), what the chain visits
    path        (steps, 2), a walkback path, drawn as a red dotted line from a filled to a hollow circle
    attractors  (j, 2), spurious ones, where the field converges away from the data; this function does not search for
                them
    Raises      ValueError, naming the argument, for another shape, a value that is not finite, a length that is not
                positive.
    Source      Bengio, Yao, Alain and Vincent 2013 (generalized denoising auto-encoders), Figure 2.
    """
    with style():
        own, ax = ax is None, ax or new_axes()
        keys, points = _panel(ax, data, at, expected, length, samples=samples, path=path, attractors=attractors)
        _frame(ax, points)
        ax.legend(handles=list(keys.values()), loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=2, fontsize=9)
        ax.set_title(title, loc="left", fontsize=11)
        if own:
            lay_out(ax, (5.0, 4.4 * _ratio(points) + 1.2))
    return ax


def side_by_side(
    data: ArrayLike,
    at: ArrayLike,
    expected: Mapping[str, ArrayLike],
    *,
    samples: Mapping[str, ArrayLike] | None = None,
    paths: Mapping[str, ArrayLike] | None = None,
    attractors: Mapping[str, ArrayLike] | None = None,
    length: float = 1.0,
    title: str = "",
) -> Figure:
    """A panel of `draw` for each entry of `expected`, such as {"without walkback": ..., "with": ...}, on common axes.

    The other mappings have entries for the panels that show samples, a path or attractors. Raises as `draw`, and
    ValueError for an entry of no panel.
    """
    if not expected:
        raise ValueError("expected is empty: give the field of at least one panel")
    samples, paths, attractors = samples or {}, paths or {}, attractors or {}
    for kind, of_panels in (("samples", samples), ("paths", paths), ("attractors", attractors)):
        if unknown := of_panels.keys() - expected.keys():
            raise ValueError(f"{kind} has {sorted(unknown)}, but the panels are {list(expected)}: use their names")
    with style():
        figure = new_figure(0.3 + 4.4 * len(expected), 5.0)
        panels = figure.subplots(1, len(expected), sharex=True, sharey=True, squeeze=False)[0]
        keys, shown = {}, []
        for ax, (name, moves) in zip(panels, expected.items(), strict=True):
            optional = {"samples": samples.get(name), "path": paths.get(name), "attractors": attractors.get(name)}
            more, points = _panel(ax, data, at, moves, length, **optional)
            keys |= more
            shown.append(points)
            ax.set_title(name, loc="left", fontsize=11)
        for ax in panels:
            _frame(ax, np.concatenate(shown))
        figure.legend(handles=list(keys.values()), loc="outside lower center", ncols=len(keys), fontsize=9)
        figure.suptitle(title, fontsize=11)
        lay_out(panels[0], (0.3 + 4.4 * len(expected), 4.0 * _ratio(np.concatenate(shown)) + (1.2 if title else 0.9)))
    return figure


def _panel(
    ax: Axes,
    data: ArrayLike,
    at: ArrayLike,
    expected: ArrayLike,
    length: float,
    samples: ArrayLike | None,
    path: ArrayLike | None,
    attractors: ArrayLike | None,
) -> tuple[dict[str, Line2D], np.ndarray]:
    """Draws one field. Returns the keys of its legend by their text, and all points that must be visible."""
    points, start, end = array("data", data, "n", "2"), array("at", at, "m", "2"), array("expected", expected, "m", "2")
    if len(start) != len(end):
        raise ValueError(f"expected has {len(end)} points for {len(start)} points in at: give E[x | x~] at each of them")
    if not 0 < length < float("inf"):
        raise ValueError(f"length is {length}, it must be a positive share of the expected move")
    move = length * (end - start)
    ax.quiver(*start.T, *move.T, angles="xy", scale_units="xy", scale=1, color=ARROW, zorder=2, **ARROWS)
    keys = [_key("$\u2192$", ARROW, "expected move" + ("" if length == 1 else f" × {length:g}"), markersize=12)]
    shown = [points, start, start + move]

    def dots(xy: np.ndarray, text: str, color: str, area: float, zorder: float, marker: str = "o", edge: float = 0) -> None:
        ax.scatter(*xy.T, s=area, marker=marker, color=color, linewidths=edge, zorder=zorder, label=text)
        keys.append(_key(marker, color, text, markersize=max(4, 0.8 * area**0.5), markeredgewidth=edge))
        shown.append(xy)

    dots(points, "data", DATA, 9, 3)
    if samples is not None:
        dots(array("samples", samples, "k", "2"), "samples", SAMPLES, 5, 2.5)
    if path is not None:
        shown.append(steps := array("path", path, "steps", "2"))
        ax.plot(*steps.T, ":", color=PATH, linewidth=2, zorder=5, label="walkback path")
        ax.plot(*steps[0], "o", color=PATH, markersize=6, zorder=6, label="_start")
        ax.plot(*steps[-1], "o", color=PATH, markersize=6, markerfacecolor="white", zorder=6, label="_end")
        keys.append(_key("", PATH, "walkback path", ":", linewidth=2))
    if attractors is not None:
        dots(array("attractors", attractors, "j", "2"), "spurious attractor", ATTRACTOR, 80, 7, "x", 2)
    return {str(key.get_label()): key for key in keys}, np.concatenate(shown)


def _key(marker: str, color: str, text: str, line: Literal["none", ":"] = "none", **more: Any) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle=line, marker=marker, color=color, label=text, **more)


def _frame(ax: Axes, points: np.ndarray) -> None:
    """Room for all points and equal units on both axes; a box instead of a grid, in which arrows would be lost."""
    low, high, margin = points.min(0), points.max(0), _margin(points)
    ax.set_xlim(low[0] - margin, high[0] + margin)
    ax.set_ylim(low[1] - margin, high[1] + margin)
    ax.set_aspect("equal")
    ax.grid(visible=False)
    ax.spines[:].set_visible(True)
    ax.spines[:].set_color("#BBBBBB")


def _margin(points: np.ndarray) -> float:
    return 0.04 * float(np.ptp(points, 0).max() or 1)


def _ratio(points: np.ndarray) -> float:
    """Height to width of the frame; beyond 3 either way the figure rather has some empty space."""
    width, height = np.ptp(points, 0) + 2 * _margin(points)
    return min(max(float(height / width), 1 / 3), 3.0)
