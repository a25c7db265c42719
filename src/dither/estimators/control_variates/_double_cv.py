from __future__ import annotations

import torch
from torch import Tensor, nn

from dither.estimators.control_variates.independent import IndependentSamples
from dither.estimators.control_variates.scales import Scales, others
from dither.estimators.core.mappable import Vectorize
from dither.estimators.core.shapes import flat_units
from dither.estimators.core.site import Site, over_logits
from dither.functional import widen


class DoubleCV(IndependentSamples):
    """Double CV: leave-one-out, with the first-order expansion of the cost around the mean.

    >>> import torch, dither
    >>> node, logits = dither.Bernoulli(), torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    >>> worth = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)
    >>> loss = dither.DoubleCV(node, samples=2)(lambda: node(logits) @ worth)
    >>> torch.autograd.grad(loss, logits)[0]  # worth / 4, whatever the samples: the cost is linear
    tensor([[ 0.2500, -0.5000,  1.0000]], dtype=torch.float64)

    Estimates   d E[L] / d a for every logit; unbiased at any depth.
    Formula     1/K sum_k (L_k - alpha b_k - 1/(K-1) sum_{j != k} (L_j - alpha b_j)) d log P(x_k)/d a                (1)
                + 1/K sum_k alpha g_k' d m_k/d a                                                                     (2)
                b_k = g_k' (x_k - m_k)                                                                               (3)
                x_k is the output of run k, m_k its mean given the layers before, and g_k the mean of d L_j / d x_j over
                the other runs j. Zero variance for a cost that is linear in the units of one layer, at alpha = 1. The
                two control variates are b_k in sample k's own term and b_j in its baseline.
    alpha       a scale per node, of all constants the one with the minimum |gradient|^2 over previous calls (closed form); 1
                at first. (The paper takes gradient steps on the same objective, with the other sign.) `decay` of the averages.
    Requires    samples >= 2 evaluations of the closure, and one backward pass. Any cost; one without a derivative in the units'
                outputs has the sample gradient 0 and leaves leave-one-out. Nodes with a score in closed form. Terms of a cost
                are summed.
    Layers      all K runs are independent from the first layer on; sample gradients pass later nodes straight-through. (The
                paper draws K samples anew for every layer, given one sample of the layers before.)
    Raises      TypeError for other discrete nodes; ValueError for fewer than two samples.
    Reference   Titsias, Shi 2022, "Double control variates for gradient estimation in discrete latent variable models",
                Sec. 3.
    """

    reference = "Titsias, Shi 2022, Sec. 3"
    former_order = ("samples",)

    def __init__(
        self, model: nn.Module, *, samples: int = 2, decay: float = 0.99, vectorize: Vectorize = "auto", repeated: bool = False
    ) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize, repeated=repeated)
        self.scales = Scales(decay, nodes=tuple(n for n, v in self.nodes.items() if v.discrete))

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        plain, control = self._terms(site, widen(costs).sum(-1))
        estimate = plain + self.scales.of(site) * control  # (1) + (2), grouped by what alpha multiplies
        if self.learning and torch.is_grad_enabled():
            self.scales.learn(site, plain.sum(0, keepdim=True), control.sum(0, keepdim=True))
        return site.along_logits(estimate)

    def _terms(self, site: Site, cost: Tensor) -> tuple[Tensor, Tensor]:
        """Leave-one-out and what alpha multiplies, per sample and logit; each is divided by K."""
        assert site.sample_gradient is not None and site.score is not None
        score, gradient = site.score, others(widen(site.sample_gradient))
        centred = site.output - site.per_run(site.node.mean, site.logits.detach())
        linear = site.where_present(flat_units(gradient * centred).sum(-1))  # (3)
        plain, control = (over_logits(c - others(c), score) * score for c in (cost, linear))
        control = site.mean_vjp(gradient) - control
        return site.where_present(plain) / self.samples, site.where_present(control) / self.samples
