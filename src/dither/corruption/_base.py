"""The base class of corruptions, and what they share."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from dither import noise


class Corruption(nn.Module):
    """Base: `x (batch, units) -> x~` of the same shape and dtype, fresh noise at every call, also in `.eval()`.

    Raises      ValueError for x of another shape, TypeError for x that is not floating-point.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A sample of x~; a unit that stays carries its gradient."""

    def log_prob(self, corrupted: Tensor, x: Tensor) -> Tensor:
        """log C(x~ | x), summed over units: (..., units), (..., units) -> (...,). -inf for what cannot happen.

        A probability where x~ has finitely many values, else a density. float32 or wider; NaN where a row has one.
        """
        raise NotImplementedError(f"{type(self).__name__} has no known density; energies and exact chains need one")


def noise_of(kind: Literal["uniform", "normal"], x: Tensor) -> noise.Keyed:
    """A number of noise for each unit of x (batch, units), which is checked."""
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}: a corruption needs a floating-point tensor; convert with x.float()")
    if x.dim() != 2:
        raise ValueError(f"x has shape {tuple(x.shape)}: (batch, units) is needed; use x.flatten(1), or x.unsqueeze(0) for one")
    return noise.fresh(kind, tuple(x.shape), x.device)


def checked_rate(rate: float) -> float:
    if not 0 < rate <= 1:
        raise ValueError(
            f"rate is {rate}: it must be above 0 and at most 1; a corruption that keeps everything leaves only the identity to "
            "learn, and a chain that never moves (GDAE paper, Sec. 2.3)"
        )
    return float(rate)


def checked_finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}: a finite number is needed, as data are")
    return float(value)


def check_same(corrupted: Tensor, x: Tensor) -> None:
    if corrupted.shape != x.shape:
        raise ValueError(f"corrupted has shape {tuple(corrupted.shape)} and x {tuple(x.shape)}: they must be the same")


def indicator(event: Tensor, like: Tensor) -> Tensor:
    """1 or 0, in a type wide enough for a probability of 784 units."""
    return event.to(torch.promote_types(like.dtype, torch.float32))


def log_product(corrupted: Tensor, x: Tensor, probability: Tensor) -> Tensor:
    """The log of the product over units. A NaN equals nothing, and must not pass for an impossible value."""
    return torch.where((corrupted.isnan() | x.isnan()).any(-1), torch.nan, probability.log().sum(-1))
