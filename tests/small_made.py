"""A MADE of five units whose weights are random and large, and its distribution by enumeration."""

from typing import Any

import torch

from dither.reconstruction import MADE
from small_distributions import binary

UNITS, STATES = 5, binary(5)
MASKS = STATES[:-1].bool()
ORDERS = ["natural", "random", "agnostic"]
MIXED = torch.tensor([3, 1, 0, 4, 2])


def random_made(order: Any = "natural", hidden=(7, 6), dtype=torch.float64, units=UNITS, context=3):
    """With weights so large that every unit depends much on the others."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        family = MADE(units, hidden, context=context, order=order, seed=3)
        for parameter in family.parameters():
            torch.nn.init.normal_(parameter, std=1.0)
    return family.to(dtype).eval()


def contexts(batch=2, dtype=torch.float64):
    return torch.randn(batch, 3, generator=torch.Generator().manual_seed(2)).to(dtype)


def log_table(family, outputs, order=None):
    return torch.stack([family.log_prob(row.expand(32, -1), STATES.to(row.dtype), order) for row in outputs])


def clamped_first(order, clamp):
    return torch.stack([torch.cat((order[row[order]], order[~row[order]])) for row in clamp])
