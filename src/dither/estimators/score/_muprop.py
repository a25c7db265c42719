from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from dither.estimators.core.baselines.baseline import score_alone
from dither.estimators.core.call import Call, Layout
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.shapes import flat_units
from dither.estimators.core.site import Site


class MuProp(Estimator):
    """MuProp: the score function with the first-order Taylor expansion of the cost around the mean-field network.

    >>> import torch, dither
    >>> node, logits = dither.Categorical(), torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    >>> worth = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64)
    >>> estimator = dither.MuProp(node)
    >>> estimator(lambda: node(logits) @ worth).backward()  # one sample, and no variance: the cost is linear
    >>> logits.grad, estimator.evaluations
    (tensor([[-0.6667, -0.3333,  1.0000]], dtype=torch.float64), 2)

    Estimates   d E[L] / d a for every logit; unbiased at any depth.
    Formula     (L(h) - L(m) - L'(m) (h - m)) d log P(h) / d a + L'(m) d E[h | parents] / d a                 (1; Eq. 7)
                with m the outputs of a run in which every node gives its mean, and L' its derivative there by ordinary
                back-propagation.
    Requires    samples + 1 evaluations of the closure, and one backward pass. The cost should be differentiable in the nodes'
                outputs; where it is not, L' is zero there and the estimate stays unbiased.
    Raises      TypeError for discrete nodes without a score in closed form.
    Reference   Gu, Levine, Sutskever, Mnih 2016, "MuProp: unbiased backpropagation for stochastic neural networks", Eq. 7.
    """

    unbiased = True
    reference = "Gu, Levine, Sutskever, Mnih 2016, Eq. 7"
    requires = ("score",)
    needs_sample_gradients = True
    runs_differ_by_kind = True
    composable = False

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        return {f"{cls.__name__}-{k}": partial(cls, samples=k) for k in (1, 2)}

    def runs(self, layout: Layout) -> int:
        return self.samples + (not self.reading)

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        if not call.node.discrete:
            return call.propagate(), None
        sample, mean = call.sample(), call.node.mean(call.logits)
        last = call.is_run(self.samples)
        output = torch.where(last, mean.detach(), call.output(sample))
        return call.differentiable(output, torch.where(last, mean, mean.detach())), sample

    def own_runs(self, values: Tensor) -> Tensor:
        return values[: self.samples]

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        assert site.sample_gradient is not None
        if self.reading:
            return score_alone(site, costs)
        k = self.samples
        gradient, output = site.sample_gradient[k:], site.output[:k]  # L'(m), of the last run; h, of the others
        mean = site.per_run(site.node.mean, site.logits)
        # (1): L(m) + L'(m) (h - m), then what it leaves over times the score, then the second term
        expansion = costs.sum(-1)[k:] + flat_units((output - mean.detach()[k:]) * gradient).sum(-1)
        score = (site.over_units(costs.sum(-1)[:k] - expansion).detach() * site.log_prob[:k]).sum()
        return (score + (gradient * mean[:k]).sum()) / max(k * site.shape[1], 1)
