from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor, nn

from dither.estimators.core.call import Call, Layout
from dither.estimators.core.credit import Credits
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.mappable import Vectorize
from dither.estimators.core.site import Site
from dither.exact import Oracle
from dither.functional import one_hot
from dither.nodes import Node


class LocalExpectation(Estimator):
    """Local expectation gradients: each unit's outcomes summed over exactly, all other units sampled.

    >>> import torch, dither
    >>> node, logits = dither.Categorical(), torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    >>> table = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64)
    >>> estimator = dither.LocalExpectation(node)
    >>> estimator(lambda: table[node(logits).argmax(1)]).backward()  # any cost; of one unit the gradient is exact
    >>> logits.grad, estimator.evaluations
    (tensor([[-0.6667, -0.3333,  1.0000]], dtype=torch.float64), 3)

    Estimates   d E[L] / d a for every logit; unbiased at any depth. For one unit it is the exact gradient.
    Formula     sum over outcomes c of (d p_c / d a) L[h_i = c], for a unit with outcomes of probability p_c         (1)
                binary       s (1 - s) (L[h_i = 1] - L[h_i = 0])
                categorical  p_k (L[h_i = k] - sum_j p_j L[h_i = j])
                where every L has the other units of the layer, and the noise of the layers behind it, in common.
    Requires    1 + sum over units of (outcomes - 1) evaluations of the closure: a first run, and one for each other outcome of
                each unit. Any cost, differentiable or not; it must be finite for outcomes of probability 0 too.
    max_runs    how many evaluations a call may take at most.
    Local cost  a closure that returns (batch, terms) gives each unit the difference of those terms that it can influence.
    credit      declares which terms those are, as in ScoreFunction; by default they are traced.
    Value       the mean cost of the first run.
    Sampling    a unit that is not binary is sampled from one uniform through its cumulative probabilities: distributed as the
                node's own sample, but for the same noise it is another one; so layers behind change little.
    Raises      ValueError, naming the units, beyond max_runs; TypeError for nodes that do not list their outcomes.
    Reference   Titsias, Lazaro-Gredilla 2015, "Local expectation gradients for black box variational inference".
    """

    unbiased = True
    reference = "Titsias, Lazaro-Gredilla 2015"
    requires = ("probabilities",)
    runs_depend_on_layout = True
    runs_differ_by_kind = True
    composable = False
    credits_batches = False
    credits_repeats = False
    local_credit = True

    def __init__(
        self, model: nn.Module, *, max_runs: int = 4096, credit: Credits = "traced", vectorize: Vectorize = "auto"
    ) -> None:
        super().__init__(model, vectorize=vectorize)
        self.credit = credit
        if max_runs < 2:
            raise ValueError(f"max_runs is {max_runs}: one binary unit alone takes 2 runs")
        self.max_runs = max_runs

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        return {cls.__name__: cls}

    def tried(self, outcomes: int) -> int:
        """How many other outcomes of a unit are tried, each in a run of its own."""
        return outcomes - 1

    def starts(self, layout: Layout) -> list[int]:
        """The first run of each call's own, and the number of all runs."""
        sizes = [_size(node, shape) for node, shape in layout]
        starts = list(accumulate((units * self.tried(outcomes) for units, outcomes in sizes), initial=1))
        if starts[-1] > self.max_runs:
            listed = " + ".join(f"{units} units x {self.tried(outcomes)}" for units, outcomes in sizes)
            raise ValueError(
                f"{type(self).__name__} would run the closure {starts[-1]} times (1 + {listed} other outcomes), but "
                f"max_runs={self.max_runs}: use DisARM or ScoreFunction for as many units, or raise max_runs"
            )
        return starts

    def runs(self, layout: Layout) -> int:
        return self.starts(layout)[-1]

    def own_runs(self, values: Tensor) -> Tensor:
        return values[:1]

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        node, logits, noise = call.node, call.logits, call.noise(0)
        if not node.discrete:
            return node.propagate(logits, noise), None
        p = node.probabilities(logits.detach())
        first = node.indicator(logits, node.sample(logits, noise)) if node.binary else inverse_cdf(p, noise)
        start, stop = own_runs(self, call)
        unit, number = (call.run - start) // self.tried(p.shape[-1]), (call.run - start) % self.tried(p.shape[-1])
        units = torch.arange(math.prod(p.shape[1:-1]), device=p.device, dtype=torch.int64).view(*p.shape[1:-1], 1)
        # One unit of this layer takes another outcome, L[h_i = c] of (1); all else is as in the first run.
        here = (units == unit) & (call.run >= start) & (call.run < stop)
        indicator = torch.where(here, self.other(call, p, first, number), first)
        sample = node.sample_of(logits, indicator.to(logits.dtype))
        return call.output(sample), sample

    def other(self, call: Call, p: Tensor, first: Tensor, number: Tensor) -> Tensor:
        """Another outcome for every unit than its `first` one, the `number`th of those tried; one-hot, as p."""
        return one_hot((first.argmax(-1) + 1 + number) % p.shape[-1], first)

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        units, logits = site.units, site.logits[0]
        probabilities = site.node.probabilities(logits)
        cost = self._of_units(site, site.credit(costs).expand(*site.shape[:2], *units))
        indicator = self._of_units(site, site.per_run(site.node.indicator, site.logits.detach(), site.sample))
        p = probabilities.detach().view(indicator.shape[1:])
        weight, baseline = self.weighed(p, indicator, cost)
        # (1) as the sum of p_c (L_c - b) d log p_c. The baseline drops out where every outcome is summed over.
        per_outcome = ((weight * (cost - baseline)).unsqueeze(-1) * indicator).sum(0)  # what multiplies d log p_c
        per_outcome = torch.where(p > 0, per_outcome / torch.where(p > 0, p, 1), 0).detach()
        return (per_outcome.view(probabilities.shape) * probabilities).sum() / max(len(logits), 1)

    def weighed(self, p: Tensor, indicator: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
        """(weight of each outcome sampled or tried, baseline). p: (batch, units, K); indicator: (tried + 1, *p.shape)."""
        weight = (p * indicator).sum(-1)
        return weight, (weight * cost).sum(0)

    def _of_units(self, site: Site, values: Tensor) -> Tensor:
        """(tried + 1, batch, units, ...): of each unit what it had in the first run and in those of its own."""
        dims = len(site.units)
        values = values.flatten(2, 1 + dims) if dims else values.unsqueeze(2)
        start, stop = self.starts(self.layout)[site.index : site.index + 2]
        units = values.shape[2]
        tried = (stop - start) // max(units, 1)
        own = values[start:stop].unflatten(0, (units, tried)).diagonal(dim1=0, dim2=3).movedim(-1, 2)
        return torch.cat((values[:1], own))


def _size(node: Node | None, shape: tuple[int, ...]) -> tuple[int, int]:
    """(units, outcomes of each) of a call with logits of this shape; of the call foreseen before the first, one bit."""
    if node is None:
        return 1, 2
    return math.prod(node.unit_shape(shape)), len(node.outcomes(torch.empty((1, *shape), device="meta", dtype=torch.float32)))


def own_runs(estimator: LocalExpectation, call: Call) -> tuple[int, int]:
    """The runs in which other outcomes of this call are tried: start, stop."""
    starts = estimator.starts(call.layout)
    return starts[min(call.index, len(starts) - 1)], starts[min(call.index + 1, len(starts) - 1)]


def _cdf(p: Tensor) -> Tensor:
    total = p.cumsum(-1)
    # divided by its own end: an impossible last outcome stays beyond every uniform, whatever the rounding
    return (total / total[..., -1:])[..., :-1]


def inverse_cdf(p: Tensor, noise: Tensor) -> Tensor:
    """The one-hot outcome in whose interval of cumulative probability a unit's first uniform falls."""
    units = p.dim() - 1
    uniform = noise.unsqueeze(-1) if noise.dim() == units else noise.flatten(units)[..., :1]
    hard = one_hot((uniform >= _cdf(p)).sum(-1), p)
    return torch.add(hard, p, alpha=0)  # carries NaN


# --- for oracles ----------------------------------------------------------------------------------------------------------
def cdf_thresholds(p: Tensor) -> Tensor:
    """Those of `inverse_cdf`, (K - 1, batch, *units)."""
    return _cdf(p).movedim(-1, 0)


def repeats(estimator: LocalExpectation, call: Call, stream: int) -> Tensor:
    """In this call's own runs, and those of later calls, what is before it is as in the first run."""
    return call.run >= own_runs(estimator, call)[0]


def _thresholds(estimator: LocalExpectation, node: Node, logits: Tensor, stream: int) -> Tensor | None:
    return cdf_thresholds(node.probabilities(logits)) if node.discrete else None


LocalExpectation.oracle = Oracle(thresholds=_thresholds, repeats=repeats)
