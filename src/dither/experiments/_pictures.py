"""Pictures of a trained denoising model: consecutive samples of its chain, completions of clamped images, autocorrelation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dither import chains, metrics
from dither.experiments import _gsn

SIDES = ("left", "right", "top", "bottom")
STEPS = 200
LAGS = 100


def of_run(path: Path, dataset: Any, device: str = "cpu") -> Iterator[tuple[str, Any]]:
    """(name, figure) of everything that a run can show."""
    model, x, shape = _gsn.load(path, device=device), dataset.test.x, dataset.shape[1:]
    yield "samples", samples(model, x[0], shape, STEPS, seed=7, title=path.name)
    yield "inpainting", inpainting(model, x[:8], dataset.train.x, shape, "left", steps=STEPS, seed=3)
    yield "autocorrelation", autocorrelation(model, x, path.name)


def samples(model: Any, start: Tensor, shape: tuple[int, int], steps: int, seed: int, thin: int = 1, title: str = "") -> Any:
    """The means P(x | ...) along one chain from `start` (units,), row by row."""
    from dither.plots import images

    means = _means(model, start.unsqueeze(0), steps, thin=thin, seed=seed)
    return images.consecutive(means[:, 0], columns=20, shape=shape, title=title).figure


def inpainting(
    model: Any, x: Tensor, train: Tensor, shape: tuple[int, int], given: str, steps: int, seed: int, shown: int = 10
) -> Any:
    """The `given` half of x (n, units) clamped, the other redrawn along a chain, beside the nearest training image."""
    from dither.plots import images

    clamp = half(shape, given)
    start = torch.where(clamp, x, torch.randint(2, x.shape, generator=torch.Generator().manual_seed(seed)).to(x.dtype))
    thin = max(1, steps // (shown + 1))
    means = _means(model, start, shown * thin, burn_in=thin, thin=thin, clamp=clamp, seed=seed)
    nearest = train[metrics.nearest(x[:, clamp], train[:, clamp])[1].squeeze(-1)]
    completed = torch.where(clamp, x, means).transpose(0, 1)
    return images.inpainting(x, clamp, completed, nearest=nearest, shape=shape).figure


def half(shape: tuple[int, int], side: str) -> Tensor:
    """(rows * columns,), True in one half of an image."""
    if side not in SIDES:
        raise ValueError(f"side is {side!r}; choose {', '.join(SIDES)}")
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    along, size = (columns, shape[1]) if side in ("left", "right") else (rows, shape[0])
    first = along < size // 2 if side in ("left", "top") else along >= (size + 1) // 2
    return first.flatten()


def _means(model: Any, x: Tensor, steps: int, **options: Any) -> Tensor:
    """Those along chains from x, (steps, chains, units), as shades of grey on the CPU; the chains run where the model is."""
    device = next(model.parameters()).device
    options = {name: o.to(device) if isinstance(o, Tensor) else o for name, o in options.items()}
    return chains.run(model, x.to(device), steps, cuda_graph=device.type == "cuda", **options).mean.cpu().clamp(0, 1)


def autocorrelation(model: Any, x: Tensor, name: str, count: int = 20) -> Any:
    """Of the ink (the mean pixel) of several chains that start at images of x, after some steps."""
    from dither.plots import chains as plots

    ink = _means(model, x[:count], 5 * LAGS, burn_in=LAGS, seed=5).mean(-1).T
    found = metrics.autocorrelation(ink.double())[:, : LAGS + 1]
    return plots.autocorrelation({name: found}, quantity="ink").figure
