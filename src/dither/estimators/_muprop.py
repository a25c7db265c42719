from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from dither.estimators._call import Call
from dither.estimators._estimator import Estimator, Layout
from dither.estimators._site import Site
from dither.nodes import Bernoulli, Categorical


class MuProp(Estimator):
    """MuProp: the score function with the first-order Taylor expansion of the cost around the mean-field network.

    Estimates   d E[L] / d a for every logit; unbiased at any depth.
    Formula     (L(h) - L(m) - L'(m) (h - m)) d log P(h) / d a + L'(m) d E[h | parents] / d a, with m the outputs of a run in
                which every node gives its mean, and L' its derivative there by ordinary back-propagation.
    Requires    samples + 1 evaluations of the closure, and one backward pass. The cost should be differentiable in the nodes'
                outputs; where it is not, L' is zero there and the estimate stays unbiased.
    Raises      TypeError for discrete nodes other than Bernoulli and Categorical.
    Reference   Gu, Levine, Sutskever, Mnih 2016, "MuProp: unbiased backpropagation for stochastic neural networks", Eq. 7.
    """

    unbiased = True
    reference = "Gu, Levine, Sutskever, Mnih 2016, Eq. 7"
    supports = (Bernoulli, Categorical)
    differentiates = True
    composable = False

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        return {f"{cls.__name__}-{k}": partial(cls, samples=k) for k in (1, 2)}

    def runs(self, layout: Layout) -> int:
        return self.samples + 1

    def answer(self, call: Call) -> tuple[Tensor, Tensor | None]:
        node, logits, noise = call.node, call.logits, call.noise()
        if not node.discrete:
            return node.propagate(logits, noise), None
        outcome, mean = node.outcome(logits, noise), node.mean(logits)
        last = call.is_run(self.samples)
        output = torch.where(last, mean.detach(), node.emit(logits, outcome))
        return self.through(output, torch.where(last, mean, mean.detach())), outcome

    def value(self, costs: Tensor) -> Tensor:
        return super().value(costs[: self.samples])

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        assert site.slope is not None
        node, k = site.node, self.samples
        slope, logits = site.slope[k:], site.logits[:k]
        outcome = node.emit(logits, site.outcome[:k])
        mean = _mean(site, site.logits)
        expansion = costs.sum(-1)[k:] + ((outcome - mean.detach()[k:]) * slope).flatten(2).sum(-1)
        score = (site.over_units(costs.sum(-1)[:k] - expansion).detach() * site.log_prob[:k]).sum()
        return (score + (slope * mean[:k]).sum()) / (k * logits.shape[1])


def _mean(site: Site, logits: Tensor) -> Tensor:
    return site.node.mean(logits.flatten(0, 1)).unflatten(0, logits.shape[:2])
