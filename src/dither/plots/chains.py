"""Traces of Markov chains: how slowly they forget, which classes they visit, how good their samples are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from dither.plots._arrays import array
from dither.plots._figure import PALETTE, Row, curve, new_axes, note, style
from dither.plots._layout import lay_out
from dither.plots.learning_curves import collect

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLASSES = (*PALETTE, "#F0E442", "#7B4F2C")  # ten: on a strip nothing has to be read on white, so yellow is one of them


def autocorrelation(
    curves: Mapping[str, ArrayLike],
    ax: Axes | None = None,
    *,
    lags: int | None = None,
    quantity: str = "",
    title: str = "",
) -> Axes:
    """A line for each method: the mean autocorrelation of its chains against the lag; a band from minimum to maximum.

    curves      {"GSN": (lags,) or (chains, lags), ...}, from lag 0 on, as of `metrics.autocorrelation`
    lags        the largest lag drawn, by default the largest that every method has
    quantity    what the chains are of, in the label of the axis
    A chain of NaN, one that never moved, has no autocorrelation: it is left out, and counted in the legend.
    Raises      ValueError for no curves, another shape, a chain that is NaN in part, or fewer lags than asked for.
    """
    if not curves:
        raise ValueError("curves is empty: give the autocorrelations of at least one method")
    methods = {name: _chains(f"curves[{name!r}]", value) for name, value in curves.items()}
    shortest = min(chains.shape[1] for chains in methods.values()) - 1
    if lags is not None and not 0 < lags <= shortest:
        raise ValueError(f"lags is {lags}, expected 1 to {shortest}, the largest lag that every method has")
    lag = np.arange((lags or shortest) + 1)
    with style():
        own, ax = ax is None, ax or new_axes()
        ax.axhline(0, color="#888888", linewidth=0.8, label="_zero")
        for i, (name, chains) in enumerate(methods.items()):
            moved = chains[~np.isnan(chains).any(1), : len(lag)]
            stuck = len(chains) - len(moved)
            mean = moved.mean(0) if len(moved) else np.full(len(lag), np.nan)
            label = f"{name} (n = {len(moved)}{f', {stuck} never moved' if stuck else ''})"
            band = (moved.min(0), moved.max(0)) if len(moved) > 1 else None
            curve(ax, i, lag, mean, band, label, markevery=(i, max(1, len(lag) // 12)))
        ax.set_xlim(0, lag[-1])
        ax.set_xlabel("lag (steps of the chain)")
        ax.set_ylabel(f"autocorrelation{f' of {quantity}' if quantity else ''}")
        ax.set_title(title, loc="left", fontsize=11)
        if any(len(chains) > 1 for chains in methods.values()):
            note(ax, "line: mean, band: range over n chains")
        ax.legend(fontsize=9)
        if own:
            lay_out(ax)
    return ax


def classes(
    labels: Mapping[str, ArrayLike],
    ax: Axes | None = None,
    *,
    names: Sequence[str] | None = None,
    first: int = 0,
    title: str = "",
) -> Axes:
    """A strip for each chain, a cell for each step in the colour of its class; beside it how often the class switches.

    labels      {"GSN": (steps,) integers, ...}: what a classifier says of each state
    names       of the classes, 0, 1, ...; by default their numbers
    first       the number of the first step
    Raises      ValueError for no chain, chains of unequal length, labels that are no integers or outside the names.
    """
    cells, names = _cells(labels, names)
    steps = cells.shape[1]
    with style():
        from matplotlib.colors import to_rgb
        from matplotlib.patches import Patch

        own, ax = ax is None, ax or new_axes(height=1.3 + 0.42 * len(cells))
        colours = np.array([to_rgb(color) for color in CLASSES])
        extent = (first - 0.5, first + steps - 0.5, len(cells) - 0.5, -0.5)
        ax.imshow(colours[cells], aspect="auto", interpolation="none", extent=extent)
        for edge in range(1, len(cells)):
            ax.axhline(edge - 0.5, color="white", linewidth=5)
        switches = (cells[:, 1:] != cells[:, :-1]).sum(1)
        ax.set_yticks(
            range(len(cells)),
            [f"{name} ({n} switch{'' if n == 1 else 'es'})" for name, n in zip(labels, switches, strict=True)],
        )
        ax.tick_params(axis="y", length=0)
        ax.grid(visible=False)
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.set_xlabel("step of the chain")
        ax.set_title(title, loc="left", fontsize=11)
        keys = [Patch(color=color, label=name) for color, name in zip(CLASSES, names, strict=False)]
        fitting = int(6.6 / (0.5 + 0.08 * max(map(len, names))))  # inches of a row and, about, of an entry
        ncols = max(1, min(len(names), fitting))
        ax.figure.legend(handles=keys, loc="outside lower center", ncols=ncols, fontsize=9, handlelength=1, columnspacing=1)
        if own:
            lay_out(ax)
    return ax


def likelihood(
    records: Sequence[Row],
    ax: Axes | None = None,
    *,
    x: str = "samples",
    y: str = "csl",
    group: str = "method",
    x_label: str = "samples of the chain",
    y_label: str = "CSL (nats per example)",
    title: str = "",
) -> Axes:
    """The estimate of the log-likelihood against its number of samples, on a logarithmic axis; a line for each method.

    records     [{"method": "GSN", "seed": 0, "samples": 1000, "csl": -110.2}, ...]; of several seeds the mean is drawn,
                with a band from the minimum to the maximum
    The conservative estimate (CSL) is below the true value in expectation and rises with the samples: a line that
    still rises at its end says that more would be needed.
    Raises      ValueError when no record has both, or a number of samples is not positive.
    Source      Bengio, Yao and Cho 2014, "Bounding the test log-likelihood of generative models".
    """
    curves = collect(records, x, y, group)
    if not curves:
        keys = sorted({key for record in records for key in record})
        raise ValueError(f"no record has both {x!r} and {y!r}; {len(records)} records have {', '.join(keys) or 'no key'}")
    if (smallest := min(point[0] for points in curves.values() for point in points)) <= 0:
        raise ValueError(f"a record has {x} = {smallest:g}, it must be positive on a logarithmic axis")
    with style():
        own, ax = ax is None, ax or new_axes()
        ax.set_xscale("log")
        for i, (name, points) in enumerate(curves.items()):
            xs, means, lows, highs, seeds = zip(*points, strict=True)
            label = f"{name} (n = {max(seeds)})" if name else f"n = {max(seeds)}"
            curve(ax, i, xs, means, (lows, highs) if max(seeds) > 1 else None, label, markersize=4.5)
        ax.set_xlabel(x_label)
        ax.set_ylabel(y_label)
        ax.set_title(title, loc="left", fontsize=11)
        if any(points[0][4] > 1 for points in curves.values()):
            note(ax, "line: mean, band: range over n seeds")
        ax.legend(fontsize=9)
        if own:
            lay_out(ax)
    return ax


def _cells(labels: Mapping[str, ArrayLike], names: Sequence[str] | None) -> tuple[np.ndarray, Sequence[str]]:
    """The labels as integers (chains, steps), and the names of all classes."""
    if not labels:
        raise ValueError("labels is empty: give the classes of at least one chain")
    chains = {name: array(f"labels[{name!r}]", value, "steps") for name, value in labels.items()}
    count = len(names) if names is not None else int(max(chain.max() for chain in chains.values())) + 1
    if count > len(CLASSES):
        raise ValueError(f"there are {count} classes and only {len(CLASSES)} colours: merge some")
    for name, chain in chains.items():
        if (chain != chain.round()).any() or chain.min() < 0 or chain.max() >= count:
            raise ValueError(f"labels[{name!r}] has values from {chain.min():g} to {chain.max():g}, expected 0 to {count - 1}")
    if len(lengths := {len(chain) for chain in chains.values()}) > 1:
        raise ValueError(f"labels has chains of {sorted(lengths)} steps: cut them to one length")
    return np.stack(list(chains.values())).astype(int), names if names is not None else [str(i) for i in range(count)]


def _chains(name: str, value: ArrayLike) -> np.ndarray:
    """(chains, lags), each chain without NaN or of nothing else."""
    axes = ("lags",) if np.ndim(value) == 1 else ("chains", "lags")
    chains = np.atleast_2d(array(name, value, *axes, finite=False))
    bad = ~np.isfinite(chains)
    if chains.shape[1] < 2 or (bad.any(1) & ~np.isnan(chains).all(1)).any():
        raise ValueError(
            f"{name} has {chains.shape[1]} lags and {int(bad.sum())} values that are not finite: look at the chain"
        )
    return chains
