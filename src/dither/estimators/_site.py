"""What a run of the closure leaves behind: its cost, and a record of every decision taken on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from dither.functional._bernoulli import widen, without_infinities
from dither.nodes import Bernoulli, Categorical, Node
from dither.nodes._node import is_concrete

Closure = Callable[[], Tensor]


@dataclass
class Site:
    """One call of one discrete node in a pass over the closure, for all K runs.

    name: the module's name, with ":1", ":2", ... for later calls of the same node in one pass. logits, outcome:
    (K, batch, *units[, categories]). index: number among the sites. slope: d cost / d output in each run, for
    estimators that differentiate.
    """

    name: str
    node: Node
    logits: Tensor
    outcome: Tensor
    slope: Tensor | None = None
    index: int = 0
    influence: Tensor | None = None  # (units, terms) bool: the cost terms that each unit can change; None: all

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the logits, (K, batch, *units[, categories])."""
        return tuple(self.logits.shape)

    def _per_unit(self, values: Tensor) -> Tensor:
        return values.unflatten(0, self.shape[:2])

    @property
    def units(self) -> tuple[int, ...]:
        """The shape of the node's units: that of log_prob without runs and batch."""
        if isinstance(self.node, Bernoulli):
            return self.shape[2:]
        return tuple(self.shape[2:-1] if isinstance(self.node, Categorical) else self.log_prob.shape[2:])

    @cached_property
    def log_prob(self) -> Tensor:
        """log P(outcome) per unit, (K, batch, *units), differentiable."""
        return self._per_unit(self.node.log_prob(self.logits.flatten(0, 1), self.outcome.flatten(0, 1)))

    @cached_property
    def score_weight(self) -> Tensor:
        """Squared norm of the score per unit, (K, batch, *units)."""
        logits = self.logits.detach().flatten(0, 1)
        return self._per_unit(self.node.score_weight(logits, self.outcome.flatten(0, 1)))

    @cached_property
    def score(self) -> Tensor | None:
        """d log P(outcome) / d logits, the shape of logits; None for nodes whose units share logits."""
        score = self.node.score(self.logits.detach().flatten(0, 1), self.outcome.flatten(0, 1))
        return None if score is None else self._per_unit(score)

    def credit(self, costs: Tensor) -> Tensor:
        """The cost that each unit is credited with, (K, batch, *units), or with ones for units when all share it.

        costs: (K, batch, terms). With local credit a unit's is the sum of the terms that it can influence.
        """
        costs = widen(costs)
        if self.influence is not None:
            return (costs @ self.influence.to(costs.dtype).T).view(*costs.shape[:2], *self.units)
        return self.over_units(costs.sum(-1))

    def along_logits(self, estimate: Tensor, logits: Tensor | None = None) -> Tensor:
        """A scalar whose gradient with respect to the logits (of all runs, or those given) is `estimate` / batch."""
        logits, batch, estimate = self.logits if logits is None else logits, self.logits.shape[1], estimate.detach()
        if is_concrete(logits) and len(logits) > 1 and logits.stride(0) == 0:
            estimate, logits = estimate.sum(0), logits[0]  # the same logits in all runs
        return (estimate * without_infinities(widen(logits))).sum() / batch

    def over_units(self, values: Tensor) -> Tensor:
        """(K, batch) values with trailing dimensions that broadcast over units."""
        return values.view(*values.shape, *[1] * len(self.units))


def checked_cost(cost: Tensor) -> Tensor:
    """The closure's cost as (batch, terms)."""
    if not isinstance(cost, Tensor):
        raise TypeError(f"the closure returned {type(cost).__name__}: it must return a tensor, one cost per example, (batch,)")
    if cost.dim() == 0:
        raise ValueError(
            "the closure returned a scalar cost: one cost per example, shape (batch,), is needed to credit each decision "
            'with its own outcome; use reduction="none" in the loss and leave the mean to the estimator'
        )
    if cost.dim() > 2 or not cost.is_floating_point():
        raise ValueError(
            f"the closure returned a cost of shape {tuple(cost.shape)} and dtype {cost.dtype}: floating-point costs of shape "
            "(batch,) or (batch, terms) are needed; sum over the other dimensions, e.g. cost.flatten(1).sum(1)"
        )
    if 0 in cost.shape:
        raise ValueError(f"the closure returned an empty cost, shape {tuple(cost.shape)}; skip the step for an empty batch")
    return cost if cost.dim() == 2 else cost.unsqueeze(1)
