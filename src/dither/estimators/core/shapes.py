"""Shapes of what all runs leave behind."""

from __future__ import annotations

from torch import Tensor


def flat_units(values: Tensor) -> Tensor:
    """(K, batch, ...) -> (K, batch, units): the units of any shape in one dimension, also where they have none."""
    return values.flatten(2) if values.dim() > 2 else values.unsqueeze(-1)
