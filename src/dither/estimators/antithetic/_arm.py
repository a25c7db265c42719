from __future__ import annotations

from torch import Tensor

from dither.estimators.antithetic.pairs import LayerwisePairs, repeats, thresholds
from dither.estimators.core.site import Site
from dither.exact import Oracle


class ARM(LayerwisePairs):
    """ARM, augment-REINFORCE-merge: an antithetic pair of binary samples, weighed by their uniforms.

    >>> import torch, dither
    >>> node = dither.Bernoulli()
    >>> node.logits = torch.nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))
    >>> for estimator in (dither.ARM(node), dither.DisARM(node)):  # ARM has the uniform's own variance, 1/48, besides
    ...     moments = dither.exact.moments(estimator, lambda: node(node.logits).sum(1))
    ...     round(moments.mean["logits"].item(), 4), round(moments.variance["logits"].item(), 4)
    (0.25, 0.0208)
    (0.25, 0.0)

    Estimates   d E[L] / d a_i for every logit; unbiased at any depth.
    Formula     (L(b) - L(b')) (1/2 - u_i)                                                                (1; Theorem 1)
                b = 1[u < s], b' = 1[1 - u < s], s = sigmoid(a)                                                      (2)
                The paper's pair is 1[u > sigmoid(-a)] = b' and 1[u < sigmoid(a)] = b, in this order, hence its u - 1/2.
                A unit that agrees in both still has a part, of mean zero.
    Use         DisARM instead: it is this estimate's mean given b and b', at the same cost, so its variance is never larger.
                ARM is here to be compared with.
    Requires    samples / 2 pairs, as DisARM. Any cost, differentiable or not. Bernoulli nodes only.
    Local cost  a closure that returns (batch, terms) gives each unit the difference of those terms that it can influence.
    credit      declares which terms those are, as in ScoreFunction; by default they are traced.
    Raises      TypeError for a model with another discrete node.
    Reference   Yin, Zhou 2019, "ARM: augment-REINFORCE-merge gradient for stochastic binary networks", Theorem 1.
    """

    unbiased = True
    reference = "Yin, Zhou 2019, Theorem 1"

    def record(self, sample: Tensor, noise: Tensor) -> Tensor:
        return noise

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        first, second = self.pair(site, site.credit(costs))
        _, turned = self.pair(site, site.sample)  # 1 - u of (2)
        logits, _ = self.pair(site, site.logits)
        # (1), as (1 - u) - 1/2
        return site.along_logits((first - second) * (turned - 0.5) / self.pairs, logits)


# Two-point Gauss-Legendre between thresholds: the square of u is integrated exactly.
ARM.oracle = Oracle(thresholds=thresholds, repeats=repeats, quadrature=(-(3**-0.5), 3**-0.5))
