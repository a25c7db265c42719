from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor, nn

from dither.estimators._call import Call
from dither.estimators._estimator import Estimator, Layout
from dither.estimators._site import Site
from dither.functional._bernoulli import widen
from dither.functional._categorical import _one_hot, _proper
from dither.nodes import Bernoulli, Categorical, Node


class LocalExpectation(Estimator):
    """Local expectation gradients: each unit's outcomes summed over exactly, all other units sampled.

    Estimates   d E[L] / d a for every logit; unbiased at any depth. For one unit it is the exact gradient.
    Formula     binary       s (1 - s) (L[h_i = 1] - L[h_i = 0])
                categorical  p_k (L[h_i = k] - sum_j p_j L[h_i = j])
                where every L has the other units of the layer, and the noise of the layers behind it, in common.
    Requires    1 + sum over units of (outcomes - 1) evaluations of the closure: a first run, and one for each other outcome of
                each unit. Any cost, differentiable or not; it must be finite for outcomes of probability 0 too.
    max_runs    the most evaluations that a call may take.
    Local cost  a closure that returns (batch, terms) gives each unit the difference of those terms that it can influence.
    Value       the mean cost of the first run.
    Sampling    a categorical unit is drawn from one uniform through its cumulative probabilities: distributed as the node's
                own, Gumbel-max draw, but for the same noise it is another one; so layers behind change little.
    Raises      ValueError, naming the units, beyond max_runs; TypeError for nodes other than Bernoulli and Categorical.
    Reference   Titsias, Lazaro-Gredilla 2015, "Local expectation gradients for black box variational inference".
    """

    unbiased = True
    reference = "Titsias, Lazaro-Gredilla 2015"
    supports = (Bernoulli, Categorical)
    planned = True
    composable = False
    local_credit = True

    def __init__(self, model: nn.Module, *, max_runs: int = 4096, vectorize: bool = True) -> None:
        super().__init__(model, vectorize=vectorize)
        if max_runs < 2:
            raise ValueError(f"max_runs is {max_runs}: one binary unit alone takes 2 runs")
        self.max_runs = max_runs
        self._starts = [1]  # the first run of each call's own, and the number of all

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        return {cls.__name__: cls}

    def tried(self, outcomes: int) -> int:
        """How many other outcomes of a unit are tried, each in a run of its own."""
        return outcomes - 1

    def runs(self, layout: Layout) -> int:
        nodes = [node for node in self._calls if node.discrete]
        sizes = [_size(nodes[i] if i < len(nodes) else None, shape) for i, shape in enumerate(layout)]
        own = [units * self.tried(outcomes) for units, outcomes in sizes]
        self._starts = list(accumulate(own, initial=1))
        if self._starts[-1] > self.max_runs:
            listed = " + ".join(f"{units} units x {self.tried(outcomes)}" for units, outcomes in sizes)
            raise ValueError(
                f"{type(self).__name__} would run the closure {self._starts[-1]} times (1 + {listed} other outcomes), but "
                f"max_runs={self.max_runs}: use DisARM or ScoreFunction for as many units, or raise max_runs"
            )
        return self._starts[-1]

    def value(self, costs: Tensor) -> Tensor:
        return super().value(costs[:1])

    def answer(self, call: Call) -> tuple[Tensor, Tensor | None]:
        node, logits = call.node, call.logits
        start, stop = (self._starts[min(i, len(self._starts) - 1)] for i in (call.index, call.index + 1))
        same = call.run >= start  # runs of this call's own and of later ones
        noise = call.noise(0, same=same)
        if not node.discrete:
            return node.propagate(logits, noise), None
        units, outcomes = _size(node, tuple(logits.shape[1:]))
        drawn = node.outcome(logits, noise) if isinstance(node, Bernoulli) else self._categories(logits, noise)
        unit, number = (call.run - start) // self.tried(outcomes), (call.run - start) % self.tried(outcomes)
        shape = logits.shape[1:] if isinstance(node, Bernoulli) else (*logits.shape[1:-1], 1)
        here = (torch.arange(units, device=logits.device).view(shape) == unit) & same & (call.run < stop)
        outcome = torch.where(here, self.other(call, drawn, number, same), drawn)
        return node.emit(logits, outcome), outcome

    def _categories(self, logits: Tensor, noise: Tensor) -> Tensor:
        return inverse_cdf(_proper(logits.detach()).softmax(-1), noise[..., :1]).to(logits.dtype)

    def other(self, call: Call, drawn: Tensor, number: Tensor, same: Tensor) -> Tensor:
        """Another outcome for every unit than the drawn one, the `number`th of those tried."""
        if isinstance(call.node, Bernoulli):
            return 1 - drawn
        return _one_hot((drawn.argmax(-1) + 1 + number) % drawn.shape[-1], drawn)

    def breaks(self, node: Node, logits: Tensor, stream: int) -> Tensor | None:
        if not node.discrete:
            return None
        a = widen(logits)
        return torch.sigmoid(a).unsqueeze(0) if isinstance(node, Bernoulli) else cdf_breaks(_proper(a).softmax(-1))

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        logits = site.logits[:1]
        cost = self._of_units(site, site.credit(costs).expand(site.log_prob.shape), site.log_prob.dim() - 2)
        outcome = self._of_units(site, site.outcome, site.log_prob.dim() - 2)
        if isinstance(site.node, Bernoulli):
            s = torch.sigmoid(widen(logits.detach()))
            difference = (cost * (2 * outcome - 1)).sum(0).view(logits.shape)
            return site.along_logits(s * (1 - s) * difference, logits)
        p = _proper(logits.detach()).softmax(-1).view(outcome.shape[1:])
        weight, baseline = self.weighed(p, outcome, cost)
        estimate = ((weight * (cost - baseline)).unsqueeze(-1) * (outcome - p)).sum(0)
        return site.along_logits(estimate.view(logits.shape), logits)

    def weighed(self, p: Tensor, outcome: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
        """(weight of each outcome that was drawn or tried, baseline). p: (batch, units, K); outcome: (tried + 1, *p.shape)."""
        weight = (p * outcome).sum(-1)
        return weight, (weight * cost).sum(0)

    def _of_units(self, site: Site, values: Tensor, dims: int) -> Tensor:
        """(tried + 1, batch, units, ...): of each unit what it had in the first run and in those of its own."""
        values = values.flatten(2, 1 + dims) if dims else values.unsqueeze(2)
        start, stop = self._starts[site.index : site.index + 2]
        own = values[start:stop].unflatten(0, (values.shape[2], -1)).diagonal(dim1=0, dim2=3).movedim(-1, 2)
        return torch.cat((values[:1], own))


def _size(node: Node | None, shape: tuple[int, ...]) -> tuple[int, int]:
    """(units, outcomes of each) of a call with logits of this shape."""
    return (math.prod(shape[:-1]), shape[-1]) if isinstance(node, Categorical) else (math.prod(shape), 2)


def _cdf(p: Tensor) -> Tensor:
    total = p.cumsum(-1)
    # divided by its own end: an impossible last category stays beyond every uniform, whatever the rounding
    return (total / total[..., -1:])[..., :-1]


def inverse_cdf(p: Tensor, uniform: Tensor) -> Tensor:
    """One-hot category in whose interval of cumulative probability the uniform, (..., 1), falls."""
    hard = _one_hot((uniform >= _cdf(p)).sum(-1), p)
    return torch.add(hard, p, alpha=0)  # carries NaN


def cdf_breaks(p: Tensor) -> Tensor:
    """The thresholds of `inverse_cdf`, (K - 1, batch, *units, 1): of K uniforms it needs one."""
    return _cdf(p).movedim(-1, 0).unsqueeze(-1)
