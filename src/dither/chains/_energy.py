"""Energies of denoising models: every x~ gives -log of the chain's distribution, up to a constant of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor


def energy(log_reconstruction: Tensor, log_corruption: Tensor) -> Tensor:
    """An estimate of -log P(x), up to a number that depends on x~ alone. Only energies of the same x~ compare.

    Formula     energy(x) = -log P(x | x~) + log C(x~ | x)
    Shapes      both the same, for one x~ and several x; nan where C(x~ | x) = 0, of which x~ says nothing.
    Raises      ValueError where the shapes differ.
    The estimate is exact where P(x | x~) is the conditional of a joint with C(x~ | x). A model that was trained on x~
    near x is to be trusted near x~ only.
    Source      GDAE paper, Sec. 2.4.
    """
    if log_reconstruction.shape != log_corruption.shape:
        raise ValueError(
            f"log_reconstruction has shape {tuple(log_reconstruction.shape)} and log_corruption {tuple(log_corruption.shape)}: "
            "they must be the same; take both at the same x and x~"
        )
    return torch.where(log_corruption == -torch.inf, torch.nan, log_corruption - log_reconstruction)


def relative_energies(
    model_log_prob: Callable[[Tensor, Tensor], Tensor],
    corruption_log_prob: Callable[[Tensor, Tensor], Tensor],
    path: Tensor,
    *,
    through: Literal["midpoint", "ends"] = "midpoint",
) -> Tensor:
    """The energies of the points of a path, relative to its first point: sums of small steps, each at an x~ close by.

    Formula     E_1 = 0, E_{k+1} = E_k + energy(x_{k+1}) - energy(x_k)
                midpoint: at x~ = (x_k + x_{k+1}) / 2, for continuous x;  ends: the mean of x~ = x_k and x~ = x_{k+1}
    Shapes      path (N, units) -> (N,); model_log_prob(x~, x) is log P(x | x~), corruption_log_prob(x~, x) log
                C(x~ | x), both (batch, units) twice -> (batch,)
    Raises      ValueError for a path of fewer than two points, an unknown `through`, or a step whose energy is not
                finite.
    Source      GDAE paper, Sec. 2.4. Errors add up along the path, so go straight.
    """
    if path.dim() != 2 or len(path) < 2:
        raise ValueError(f"path has shape {tuple(path.shape)}: at least two points are needed, (N, units)")
    if through not in ("midpoint", "ends"):
        raise ValueError(f"through is {through!r}: choose 'midpoint' (continuous x) or 'ends'")
    left, right = path[:-1], path[1:]
    corrupted = [(left + right) / 2] if through == "midpoint" else [left, right]
    steps = torch.stack([_difference(model_log_prob, corruption_log_prob, c, left, right) for c in corrupted]).mean(0)
    impossible = (~torch.isfinite(steps)).nonzero().flatten()
    if len(impossible):
        k = int(impossible[0])
        raise ValueError(
            f"the step from point {k} to {k + 1} of the path has no finite energy: its x~ ({through}) cannot come from both "
            "points, or the model gives one of them no probability; take shorter steps, or through='ends' for discrete x"
        )
    return torch.cat([steps.new_zeros(1), steps.cumsum(0)])


def _difference(
    model: Callable[[Tensor, Tensor], Tensor],
    corruption: Callable[[Tensor, Tensor], Tensor],
    corrupted: Tensor,
    left: Tensor,
    right: Tensor,
) -> Tensor:
    before, after = (energy(model(corrupted, x), corruption(corrupted, x)) for x in (left, right))
    return after - before
