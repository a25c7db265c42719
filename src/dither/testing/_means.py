"""A z-test of means, for what cannot be enumerated."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_mean(values: Tensor, expected: Tensor | float, *, comparisons: int = 1000, alpha: float = 1e-6) -> None:
    """A z-test that the mean of independent `values` (draws in the first dimension) is `expected`, elementwise.

    The false-alarm rate alpha is that of a whole suite of `comparisons` such comparisons (Bonferroni): by default |z| > 6.1.
    A bias b of a quantity with standard deviation s is seen from about (12 s / b)^2 draws on.
    """
    draws = values.shape[0]
    if draws < 30:
        raise ValueError(f"values has {draws} draws in its first dimension: a z-test needs 30 or more")
    limit = float(torch.special.ndtri(torch.tensor(1 - alpha / (2 * comparisons), dtype=torch.float64, device="cpu")))
    values = values.double()
    error = (values.mean(0) - torch.as_tensor(expected, dtype=torch.float64, device="cpu")).abs()
    noise = values.std(0) / draws**0.5
    z = torch.where(noise > 0, error / noise, torch.where(error > 1e-12, torch.inf, torch.zeros_like(error)))
    if not bool((z <= limit).all()):
        raise AssertionError(
            f"mean off by z = {float(z.max()):.2f} standard errors at flat index {int(z.argmax())} of {z.numel()} after "
            f"{draws} draws; the limit is {limit:.2f} (false-alarm rate {alpha:g} for {comparisons} comparisons)"
        )
