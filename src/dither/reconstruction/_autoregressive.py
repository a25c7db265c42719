"""Samples of an autoregressive distribution given units late in its order, by sums over the free units before."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dither import functional

ENUMERATED = 16  # units whose joint values are summed over
_ELEMENTS = 1 << 20  # outputs, and values of units, at a time

Terms = Callable[[Tensor, Tensor, Tensor], Tensor]  # (outputs, x, order) -> log P of each unit given those before it


def extend_clamp(
    terms: Terms, outputs: Tensor, u: Tensor, order: Tensor, clamp: Tensor, values: Tensor
) -> tuple[Tensor, Tensor]:
    """(clamp, values) of all units up to the last clamped one: the free ones there are sampled given the clamped.

    terms       of binary units, (batch, units)
    Shapes      u, clamp, values (batch, units), values 0 where not clamped; order (units,)
    Raises      ValueError where too many units are free to sum over their joint values.
    """
    steps = torch.arange(1, len(order) + 1, device=order.device, dtype=torch.int64)
    early = order.argsort() < (clamp[:, order] * steps).amax(1, keepdim=True)  # up to an example's last clamped unit
    free = early & ~clamp
    count = int(free.sum(1).amax())
    if count > ENUMERATED:
        raise ValueError(
            f"clamp leaves {count} units free that come before a clamped one in this order: given that, they are sampled by a "
            f"sum over all their values, which is possible for {ENUMERATED} units; build it with order='agnostic', which puts "
            "any clamped units first"
        )
    for mask in torch.unique(clamp, dim=0):
        rows = (clamp == mask).all(1).nonzero()  # (rows, 1)
        group = rows[:, 0]
        units = order[free[group[0]][order]]
        if len(units):
            table = _table(terms, outputs[group], values[group], order, units, early[group[0]])
            sample = _sample_of_table(table, u[group][:, units])
            values = values.index_put((rows, units), sample.to(values.dtype))
    return clamp | free, values


def _table(terms: Terms, outputs: Tensor, values: Tensor, order: Tensor, units: Tensor, early: Tensor) -> Tensor:
    """log P of the early units for all values of some: (rows, 2^units), the first of these the slowest to change."""
    count = len(units)
    shifts = torch.arange(count - 1, -1, -1, device=units.device, dtype=torch.int64)
    bits = (torch.arange(1 << count, device=units.device, dtype=torch.int64).unsqueeze(1) >> shifts) & 1
    total, log_prob = len(values) << count, []
    for index in torch.arange(total, device=units.device, dtype=torch.int64).split(
        max(1, _ELEMENTS // (outputs.shape[1] + values.shape[1]))
    ):
        row, code = index >> count, index & ((1 << count) - 1)
        x = values[row].index_copy(1, units, bits[code].to(values.dtype))
        log_prob.append(terms(outputs[row], x, order).masked_fill(~early, 0).sum(1))
    return torch.cat(log_prob).view(len(values), -1)


def _sample_of_table(table: Tensor, u: Tensor) -> Tensor:
    """A sample of binary units from log P of all their values, (rows, 2^units), by a uniform each: (rows, units)."""
    sample = []
    for u_of_unit in u.unbind(1):
        table = table.unflatten(1, (2, -1))
        off, on = table.logsumexp(2).unbind(1)
        sample.append(functional.bernoulli_sample(on - off, u_of_unit))
        table = torch.where(sample[-1].unsqueeze(1) > 0.5, table[:, 1], table[:, 0])
    return torch.stack(sample, 1)
