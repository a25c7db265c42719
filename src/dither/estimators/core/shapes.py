"""Shapes of what all runs leave behind, also where there are no units or no examples."""

from __future__ import annotations

from torch import Tensor


def flat_units(values: Tensor) -> Tensor:
    """(K, batch, ...) -> (K, batch, units): the units of any shape in one dimension, also where they have none."""
    return values.flatten(2) if values.dim() > 2 else values.unsqueeze(-1)


def mean_over_examples(values: Tensor) -> Tensor:
    """The mean over (K, batch), the first two dimensions; of no examples 0, which moves no ratio of two averages."""
    return values.mean((0, 1)) if values.shape[1] else values.sum((0, 1))


def batch_mean(values: Tensor) -> Tensor:
    """The mean of values (batch,); of an empty batch 0, whose gradient is 0."""
    if values.shape[0] == 1:
        return values.squeeze(0)
    return values.mean() if values.shape[0] else values.sum()
