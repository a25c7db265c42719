"""What the runs of a closure leave behind: their cost, and a record of every sample taken on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dither.estimators.core.along import along
from dither.functional import widen
from dither.nodes import Node, is_concrete

Closure = Callable[[], Tensor]


@dataclass
class Site:
    """One call of one discrete node in a pass over the closure, for all K runs.

    name: the module's name, with ":1", ":2", ... for later calls of the same node in one pass. logits, sample:
    (K, batch, *units[, categories]). sample_gradient: d cost / d output in each run, for estimators that need it.
    A call in `dither.rows` has its rows in place of the batch.
    index: number among the sites, of which there are `count`. shared: (batch, ...), the logits of every run where all have the
    same, as a first node's are in a vmap over the runs.
    """

    name: str
    node: Node
    logits: Tensor
    sample: Tensor
    sample_gradient: Tensor | None = None
    index: int = 0
    count: int = 1
    influence: Tensor | None = None  # (units, terms) bool: the cost terms that each unit can change; None: all
    present: Tensor | None = None  # (K,) bool: the runs that made this call; None: all. The others' entries are another run's
    local: bool = False  # whether influences were asked for: credit then has one shape, whether or not they are known
    shared: Tensor | None = None
    rows: Tensor | None = None  # (rows,) the example of each row, where the call is of a part of the batch; None: row i's is i
    rows_of: int | None = None  # how many examples the program said that there are

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """That of the logits, (K, batch, *units[, categories])."""
        return tuple(self.logits.shape)

    def per_run(self, f: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """A function of the node, of tensors whose batch is first, for tensors of all runs (K, batch, ...)."""
        return f(*(t.flatten(0, 1) for t in tensors)).unflatten(0, tensors[0].shape[:2])

    @property
    def units(self) -> tuple[int, ...]:
        """The shape of the node's units: that of log_prob without runs and batch."""
        return self.node.unit_shape(self.shape[2:])

    def where_present(self, values: Tensor) -> Tensor:
        """Values (K, batch, ...), and 0 for runs that did not make this call."""
        if self.present is None:
            return values
        return torch.where(self.present.view(-1, *[1] * (values.dim() - 1)), values, 0)

    @cached_property
    def log_prob(self) -> Tensor:
        """log P(sample) per unit, (K, batch, *units), differentiable."""
        return self.per_run(self.node.log_prob, self.logits, self.sample)

    @cached_property
    def score_weight(self) -> Tensor:
        """Squared norm of the score per unit, (K, batch, *units)."""
        return self.per_run(self.node.score_weight, self.logits.detach(), self.sample)

    @cached_property
    def score(self) -> Tensor | None:
        """d log P(sample) / d logits, the shape of logits; None for nodes that have no score in closed form."""
        if not self.node.has("score"):
            return None
        if self.shared is not None and self.node.score_broadcasts:
            return self.node.score(self.shared, self.sample)
        return self.per_run(self.node.score, self.logits.detach(), self.sample)

    @property
    def output(self) -> Tensor:
        """The node's output in each run, without a graph."""
        return self.per_run(self.node.output, self.logits.detach(), self.sample)

    def mean_vjp(self, gradient: Tensor, logits: Tensor | None = None) -> Tensor:
        """(d mean / d logits)' gradient in each run."""
        return self.per_run(self.node.mean_vjp, self.logits if logits is None else logits, gradient)

    def credit(self, costs: Tensor) -> Tensor:
        """The cost that each unit is credited with, (K, batch, *units), or with ones for units when all share it.

        costs: (K, batch, terms). With local credit a unit's is the sum of the terms that it can influence.
        """
        costs = widen(costs)
        if self.influence is not None:
            return (costs @ self.influence.to(costs.dtype).T).view(*costs.shape[:2], *self.units)
        one_term = costs.shape[-1] == 1 and len(self.units) == 1  # its dimension stands for that of the units
        whole = costs if one_term else self.over_units(summed(costs))
        return whole.expand(*costs.shape[:2], *self.units) if self.local else whole

    def along_logits(self, estimate: Tensor, logits: Tensor | None = None) -> Tensor:
        """A scalar whose gradient with respect to the logits (of all runs, or those given) is `estimate` / batch."""
        logits, batch = self.logits if logits is None else logits, self.shape[1]
        shared = self.shared
        if shared is not None and (logits is self.logits or _repeats(shared, logits)):
            return along(shared, estimate.sum(0) if estimate.shape[0] > 1 else estimate.squeeze(0), batch)
        return along(logits, estimate, batch)

    def over_units(self, values: Tensor) -> Tensor:
        """(K, batch) values with trailing dimensions that broadcast over units."""
        units = len(self.units)
        return values.unsqueeze(-1) if units == 1 else values.view(*values.shape, *[1] * units)


def _repeats(shared: Tensor, logits: Tensor) -> bool:
    """Whether logits (runs, batch, ...) are the shared ones, for some of the runs."""
    return (
        logits.shape[1:] == shared.shape
        and logits.stride() == (0 if logits.shape[0] > 1 else logits.stride(0), *shared.stride())
        and logits.data_ptr() == shared.data_ptr()
        and logits.requires_grad == shared.requires_grad
    )


def summed(costs: Tensor) -> Tensor:
    """(K, batch, terms) -> (K, batch)."""
    return costs.sum(-1) if costs.shape[-1] > 1 else costs.squeeze(-1)


def over_logits(values: Tensor, logits: Tensor) -> Tensor:
    """Values (K, batch) or (K, batch, *units) with trailing dimensions that broadcast over logits (K, batch, ...)."""
    return values.view(*values.shape, *[1] * (logits.dim() - values.dim()))


def checked_cost(cost: Tensor) -> Tensor:
    """The closure's cost as (batch, terms)."""
    if not isinstance(cost, Tensor):
        raise TypeError(f"the closure returned {type(cost).__name__}: it must return a tensor, one cost per example, (batch,)")
    if cost.dim() == 0:
        raise ValueError(
            "the closure returned a scalar cost: one cost per example, shape (batch,), is needed to credit each sample "
            'with its own outcome; use reduction="none" in the loss and leave the mean to the estimator'
        )
    if not cost.is_floating_point():
        raise ValueError(
            f"the closure returned a cost of dtype {cost.dtype}: floating-point costs of shape (batch,) or (batch, terms) are "
            "needed; errors that are counted become so by cost.float()"
        )
    if cost.dim() > 2:
        raise ValueError(
            f"the closure returned a cost of shape {tuple(cost.shape)}: floating-point costs of shape (batch,) or (batch, "
            "terms) are needed; sum over the other dimensions, e.g. cost.flatten(1).sum(1)"
        )
    if cost.dim() == 2 and cost.shape[1] == 0:
        raise ValueError(f"the closure returned a cost of shape {tuple(cost.shape)}, without terms: return one term or more")
    return cost if cost.dim() == 2 else cost.unsqueeze(1)


def check_costs(costs: Tensor, sites: Sequence[Site], what: str, seed: Tensor) -> None:
    """Raise unless every site has a cost for each of its examples, and all costs are finite.

    costs: (K, batch, terms). what: the call, for the message, such as "call 3 of DisARM".
    """
    batch = costs.shape[1]
    for site in sites:
        if site.rows is not None:
            if site.rows_of not in (None, batch):
                raise ValueError(
                    f"dither.rows around node '{site.name}' was given {site.rows_of} examples (mask, batch=, noise.examples), "
                    f"but the closure returned a cost for {batch}: a mask says of each example whether it takes part"
                )
            if is_concrete(site.rows) and site.rows.is_cpu and len(site.rows) and int(site.rows.max()) >= batch:
                raise ValueError(
                    f"node '{site.name}' got a row of example {int(site.rows.max())} (dither.rows), but the closure returned a "
                    f"cost for {batch} examples: index says of each row whose cost it answers for, from 0 to {batch - 1}"
                )
        elif site.shape[1] != batch:
            raise ValueError(
                f"node '{site.name}' got logits of shape {site.shape[1:]} but the closure returned a cost "
                f"for {costs.shape[1]} examples: the first dimension of logits must be the batch, example by example; "
                "reshape (batch * time, units) to (batch, time, units), expand shared logits to (batch, units); a part of the "
                "net that sees some examples, or rows of them, runs in `with dither.rows(index):`, row i of example index[i]"
            )
    if is_concrete(costs) and not _all_finite(costs.detach()):
        broken = [s.name for s in sites if not bool(torch.isfinite(widen(s.logits.detach())).all())]
        where = f"first non-finite logits at node '{broken[0]}'" if broken else "all logits are finite"
        rows = (~torch.isfinite(costs.detach())).any(-1).any(0).nonzero().flatten().tolist()
        raise FloatingPointError(
            f"the cost is not finite for {len(rows)} of {costs.shape[1]} examples (first: example {rows[0]}) in {what}; "
            f"{where}; noise seed {int(seed)}. Lower the learning rate or clip gradients; the update was not made"
        )


def _all_finite(costs: Tensor) -> bool:
    return math.isfinite(costs.sum()) or bool(torch.isfinite(costs).all())  # a sum of finite ones may overflow


def refuse_repeats(name: str, site: Site) -> None:
    """Raise if an example has several rows in a site, for estimators that change one unit of each row at a time."""
    assert site.rows is not None
    if len(site.rows.unique()) < len(site.rows):
        raise ValueError(
            f"node '{site.name}' got several rows of one example (dither.rows), of which {name} would change a unit in all at "
            "once: give them as units of one row, (batch, rows, units), or use ScoreFunction or DisARM"
        )
