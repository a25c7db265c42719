from __future__ import annotations

import torch
from torch import Tensor

from dither.estimators.antithetic.pairs import LayerwisePairs
from dither.estimators.core.site import Site
from dither.functional import widen


class DisARM(LayerwisePairs):
    """DisARM, also known as U2G: an antithetic pair of binary samples, with the uniforms integrated out.

    >>> import torch, dither
    >>> node, logits = dither.Bernoulli(), torch.tensor([[0.0, torch.inf]], dtype=torch.float64, requires_grad=True)
    >>> estimator = dither.DisARM(node)
    >>> estimator(lambda: node(logits).sum(1).round()).backward()  # the cost needs no derivative
    >>> logits.grad, estimator.evaluations  # the pair differs in the first unit, and agrees in the second
    (tensor([[0.2500, 0.0000]], dtype=torch.float64), 2)

    Estimates   d E[L] / d a_i for every logit; unbiased at any depth.
    Formula     1/2 (L(b) - L(b')) (b_i - b'_i) max(s_i, 1 - s_i)                                             (1; Eq. 6)
                b = 1[u < s], b' = 1[1 - u < s], s = sigmoid(a)                                                      (2)
                Zero for units that agree in both.
    Requires    samples evaluations of the closure for a net with one layer, in pairs (samples=2 is one): a first run, and one
                in which the layer's uniforms are turned to 1 - u. With several layers a first run has such a run for each of
                them: samples / 2 x (1 + layers). Any cost, differentiable or not. Bernoulli nodes only.
    Local cost  a closure that returns (batch, terms) gives each unit the difference of those terms that it can influence.
    credit      declares which terms those are, as in ScoreFunction; by default they are traced.
    Raises      TypeError for a model with another discrete node.
    Reference   Dong, Mnih, Tucker 2020, "DisARM: an antithetic gradient estimator for binary latent variables", Eq. 6;
                Yin, Ho, Yan, Qian, Zhou 2020, "Probabilistic best subset selection via gradient-based optimization" (U2G).
    """

    unbiased = True
    reference = "Dong, Mnih, Tucker 2020, Eq. 6"

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        first, second = self.pair(site, site.credit(costs))
        h, turned = self.pair(site, site.sample)  # (2)
        logits, _ = self.pair(site, site.logits)
        s = torch.sigmoid(widen(logits.detach()))
        # (1)
        estimate = 0.5 * (first - second) * (h - turned) * torch.maximum(s, 1 - s)
        return site.along_logits(estimate / self.pairs, logits)
