"""Any unit with few outcomes as a categorical one: logits are the logarithms of their probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from dither.nodes import Node


def log_probabilities(node: Node, logits: Tensor) -> Tensor:
    """log P of each outcome of a unit, (batch, *unit_shape, outcomes), differentiable; -inf without a gradient where P is 0."""
    p = node.probabilities(logits)
    possible = p > 0
    return torch.where(possible, torch.log(torch.where(possible, p, 1)), -torch.inf)
