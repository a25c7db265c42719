"""Pictures of a trained denoising model: consecutive samples of its chain, completions of images, autocorrelation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from dither import chains, metrics
from dither.data import Dataset
from dither.experiments.denoising import training
from dither.experiments.denoising.recipes import Model
from dither.plots import chains as chain_plots
from dither.plots import images
from dither.tables import NamedFigure

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

Shape = tuple[int, int]
Side = Literal["left", "right", "top", "bottom"]
STEPS = 200
LAGS = 100


def of_run(path: Path, dataset: Dataset, device: str = "cpu") -> Iterator[NamedFigure]:
    """(name, figure) of everything that a run can show."""
    model, x, shape = training.load(path, device=device), dataset.test.x, (dataset.shape[1], dataset.shape[2])
    yield "samples", samples(model, x[0], shape, STEPS, seed=7, title=path.name)
    yield "inpainting", inpainting(model, x[:8], dataset.train.x, shape, "left", steps=STEPS, seed=3)
    yield "autocorrelation", autocorrelation(model, x, path.name)


def samples(
    model: Model, start: Tensor, shape: Shape, steps: int, seed: int, thin: int = 1, title: str = ""
) -> Figure | SubFigure:
    """The means P(x | ...) along one chain from `start` (units,), row by row."""
    means = _means(model, start.unsqueeze(0), steps, seed, thin=thin)
    return images.consecutive(means[:, 0], columns=20, shape=shape, title=title).figure


def inpainting(
    model: Model, x: Tensor, train: Tensor, shape: Shape, clamped: Side, steps: int, seed: int, shown: int = 10
) -> Figure | SubFigure:
    """One half of x (n, units) clamped, the other sampled along a chain, beside the nearest training image."""
    clamp = half(shape, clamped)
    noise = torch.randint(2, x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int64, device="cpu").to(
        x.dtype
    )
    thin = max(1, steps // (shown + 1))
    means = _means(model, torch.where(clamp, x, noise), shown * thin, seed, burn_in=thin, thin=thin, clamp=clamp)
    nearest = train[metrics.nearest(x[:, clamp], train[:, clamp])[1].squeeze(-1)]
    completed = torch.where(clamp, x, means).transpose(0, 1)
    return images.inpainting(x, clamp, completed, nearest=nearest, shape=shape).figure


def half(shape: Shape, side: Side) -> Tensor:
    """(rows * columns,), True in one half of an image."""
    if side not in get_args(Side):
        raise ValueError(f"side is {side!r}; it must be one of {', '.join(get_args(Side))}")
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.int64, device="cpu") for n in shape), indexing="ij")
    along, size = (columns, shape[1]) if side in ("left", "right") else (rows, shape[0])
    first = along < size // 2 if side in ("left", "top") else along >= (size + 1) // 2
    return first.flatten()


def _means(
    model: Model, x: Tensor, steps: int, seed: int, burn_in: int = 0, thin: int = 1, clamp: Tensor | None = None
) -> Tensor:
    """Those along chains from x, (steps, chains, units), as shades of grey on the CPU.

    The chains run where the model is.
    """
    device = next(model.parameters()).device
    clamp = None if clamp is None else clamp.to(device)
    on_gpu = device.type == "cuda"
    visited = chains.run(model, x.to(device), steps, burn_in=burn_in, thin=thin, clamp=clamp, seed=seed, cuda_graph=on_gpu)
    return visited.mean.cpu().clamp(0, 1)


def autocorrelation(model: Model, x: Tensor, name: str, count: int = 20) -> Figure | SubFigure:
    """Of the ink (the mean pixel) of several chains that start at images of x, after some steps."""
    ink = _means(model, x[:count], 5 * LAGS, seed=5, burn_in=LAGS).mean(-1)
    by_lag = metrics.autocorrelation(ink.double(), first="steps")[:, : LAGS + 1]
    return chain_plots.autocorrelation({name: by_lag}, quantity="ink").figure
