"""Does a model repeat its training images?  Distances to the nearest training image against a held-out one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dither.metrics._distances import nearest, points

COPY = 0.5  # a sample this much nearer to training images than to held-out ones is taken for a copy


@dataclass(frozen=True)
class Memorisation:
    """How much nearer samples are to training images than to held-out ones; see `memorisation`."""

    ratio: float  # median over samples; about 1 without memorisation, far below for copies
    lower_quartile: float
    upper_quartile: float
    nearer_to_train: float  # share of samples; about 1/2 without memorisation
    copies: float  # share of samples whose distance to all of train is below half that to the held-out images
    compared: int  # images on either side of the ratio


def memorisation(samples: Tensor, train: Tensor, held_out: Tensor, *, seed: int = 0, chunk: int | None = None) -> Memorisation:
    """Nearest-neighbour memorisation ratio of samples.

    Formula     per sample, d(sample, nearest of train) / d(sample, nearest of held_out), Euclidean; its median and
                quartiles (of an even number the lower one, as torch.median) over the samples. A sample equal to an
                image of both is as near to either: 1; equal to a held-out one alone: infinity.
    Fairness    a larger set has nearer neighbours, so the larger of train and held_out is cut to the size of the other
                by a random choice (`seed`). Copies of images that were cut away then go unseen by the ratio: `copies`
                looks at all of train, whose size alone does not halve distances in data of many dimensions.
    Shapes      samples (n, units), train (t, units), held_out (u, units); held_out from the same source as train.
    Raises      ValueError as `squared_distances`.
    """
    samples, train, held_out = points("samples", samples), points("train", train), points("held_out", held_out)
    compared = min(len(train), len(held_out))
    generator = torch.Generator().manual_seed(seed)
    to_train = nearest(samples, _cut(train, compared, generator), chunk=chunk)[0][:, 0]
    to_held_out = nearest(samples, _cut(held_out, compared, generator), chunk=chunk)[0][:, 0]
    to_all = to_train if compared == len(train) else nearest(samples, train, chunk=chunk)[0][:, 0]
    ratio = torch.where((to_train == 0) & (to_held_out == 0), 1.0, to_train / to_held_out)
    quarters = torch.tensor([0.25, 0.5, 0.75], dtype=ratio.dtype, device=ratio.device)
    # "lower" names a ratio that occurs: between two, of which one may be infinite, is no number.
    low, middle, high = ratio.quantile(quarters, interpolation="lower").tolist()
    nearer = (to_train < to_held_out).double() + (to_train == to_held_out).double() / 2
    return Memorisation(
        ratio=middle,
        lower_quartile=low,
        upper_quartile=high,
        nearer_to_train=float(nearer.mean()),
        copies=float((to_all < COPY * to_held_out).double().mean()),
        compared=compared,
    )


def _cut(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    if size == len(images):
        return images
    return images[torch.randperm(len(images), generator=generator, dtype=torch.int64, device="cpu")[:size].to(images.device)]
