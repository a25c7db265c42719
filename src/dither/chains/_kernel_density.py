"""The kernel density estimate of P(x | x~): the denoiser without parameters for continuous data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from dither import noise
from dither.chains._sampling import blocks, categorical_index, checked_clamp


class KernelConditional:
    """P(x | x~) as a kernel density (Parzen) estimate from pairs (x_i, x~_i): the x_i whose x~_i are near x~.

    Formula     P(x | x~) = sum_i w_i(x~) N(x; x_i, b^2 I), w_i(x~) = exp(-|x~ - x~_i|^2 / 2 s^2) / sum_j ...
                Given x[clamp], w_i is multiplied by the density of the clamped values: exact, not a heuristic.
    Shapes      x, corrupted (pairs, units); bandwidth_corrupted s and bandwidth_x b in the units of the data.
    chunk       rows of a batch at a time, by default as many as make a block of 64 MB. It changes no result.
    Raises      ValueError for empty, unequal or not finite pairs, or bandwidths that are not positive.

    >>> x = torch.tensor([[0.0], [1.0]])
    >>> learned = KernelConditional(x, corrupted=x, bandwidth_corrupted=0.1, bandwidth_x=0.2)
    >>> learned.sample(torch.zeros(3, 1)).shape
    torch.Size([3, 1])
    """

    def __init__(
        self, x: Tensor, corrupted: Tensor, bandwidth_corrupted: float, bandwidth_x: float, *, chunk: int | None = None
    ) -> None:
        if x.dim() != 2 or x.shape != corrupted.shape or not x.numel():
            raise ValueError(
                f"x has shape {tuple(x.shape)}, corrupted {tuple(corrupted.shape)}: (pairs, units) is needed of both"
            )
        if not (torch.isfinite(x).all() and torch.isfinite(corrupted).all()):
            raise ValueError("x or corrupted holds infinity or NaN: find where they come from; no pair is dropped here")
        for name, value in (("bandwidth_corrupted", bandwidth_corrupted), ("bandwidth_x", bandwidth_x)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} is {value}: the width of a Gaussian, finite and > 0, is needed")
        self.x, self.corrupted = x.detach().double(), corrupted.detach().double()
        self.bandwidth_corrupted, self.bandwidth_x, self.chunk = bandwidth_corrupted, bandwidth_x, chunk

    def log_prob(self, corrupted: Tensor, x: Tensor) -> Tensor:
        """log P(x | x~): (batch, units) of both -> (batch,) float64."""
        if x.shape != corrupted.shape:
            raise ValueError(f"x has shape {tuple(x.shape)}, corrupted {tuple(corrupted.shape)}: they must be the same")
        every = torch.ones_like(x, dtype=torch.bool)
        return torch.cat([self._log_weights(corrupted, rows, every, x).logsumexp(1) for rows in self._rows(corrupted)])

    def sample(self, corrupted: Tensor, clamp: Tensor | None = None, values: Tensor | None = None) -> Tensor:
        """A sample of x (batch, units) given x~, and given x[clamp] = values[clamp] if there is a mask."""
        clamp, values = checked_clamp(clamp, values, corrupted)
        uniform = noise.fresh("uniform", tuple(corrupted[:, :1].shape), corrupted.device)  # to sample i by w_i
        normal = replace(uniform, kind="normal", site=1, shape=tuple(corrupted.shape))
        u, sample = uniform.draw(corrupted[:, :1]), torch.empty_like(corrupted, dtype=torch.float64)
        for rows in self._rows(corrupted):
            weights = torch.softmax(self._log_weights(corrupted, rows, clamp, values), 1)
            sample[rows] = self.x[categorical_index(weights, u[rows])]
        sample = (sample + self.bandwidth_x * normal.draw(corrupted)).to(corrupted.dtype)
        return sample if clamp is None or values is None else torch.where(clamp, values.to(sample.dtype), sample)

    def _log_weights(self, corrupted: Tensor, rows: slice, clamp: Tensor | None, values: Tensor | None) -> Tensor:
        """log of w_i times the density of the clamped values, (rows, pairs)."""
        near = -_squared(corrupted[rows], self.corrupted) / (2 * self.bandwidth_corrupted**2)
        weights = torch.log_softmax(near, 1)
        if clamp is None or values is None:
            return weights
        mask, width = clamp[rows].double(), 2 * self.bandwidth_x**2
        constant = mask.sum(1, keepdim=True) * math.log(math.pi * width) / 2
        return weights - _squared(values[rows], self.x, mask) / width - constant

    def _rows(self, batch: Tensor) -> Iterator[slice]:
        if batch.dim() != 2 or batch.shape[1] != self.x.shape[1]:
            raise ValueError(
                f"corrupted has shape {tuple(batch.shape)}: (batch, {self.x.shape[1]}) is needed, as the pairs have"
            )
        return blocks(len(batch), len(self.x), self.chunk)


def _squared(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """sum_j mask_j (a_j - b_j)^2 for every row of a and of b."""
    centre = b.mean(0)  # near the points, so that the difference below cancels little
    a, b = a.double() - centre, b - centre
    mask = torch.ones_like(a) if mask is None else mask
    return ((mask * a.square()).sum(1, keepdim=True) - 2 * (mask * a) @ b.T + mask @ b.square().T).clamp_min(0)
