from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from dither.estimators.control_variates.relaxation import Relaxing
from dither.estimators.control_variates.scales import Scales
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.mappable import Vectorize
from dither.estimators.core.site import Site


class REBAR(Relaxing):
    """REBAR: the score function, with the cost of relaxed units as its control variate.

    >>> import torch, dither
    >>> node = dither.Bernoulli()
    >>> node.logits = torch.nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))
    >>> cost = lambda: (node(node.logits) + 1).square().sum(1)
    >>> for temperature in (0.5, 1.0):  # unbiased at any, proven by quadrature: else this raises
    ...     dither.testing.assert_unbiased(dither.REBAR(node, temperature=temperature), node, cost)
    >>> variance = lambda estimator: dither.exact.moments(estimator, cost).variance["logits"].item()
    >>> round(variance(dither.REBAR(node)), 4), round(variance(dither.ScoreFunction(node)), 4)
    (0.349, 1.5625)

    Estimates   d E[L] / d a for every logit; unbiased at any depth for costs that are differentiable in the units' outputs.
    Formula     L(b) d log P(b) / d a                                                                                (1)
                + eta (d c(z) / d a - d c(z~) / d a - c(z~) d log P(b) / d a)                         (2; Sec. 3.1, 3.3)
                c the cost of relaxed units, sigmoid(z / T) or softmax(z / T); b = 1[z > 0] or the greatest z; z~ is
                sampled from the law of z given b. Both derivatives are total: z~ moves with a also through that law.
    Layers      one after another: for layer l the layers before it are hard, it and all behind it relaxed. The derivative of
                c by parameters behind it, or beside it in the cost, has mean zero and is left out.
    eta         a scale per node, of all constants the one with the minimum |gradient|^2 over previous calls (closed form); 1
                at first. State: two moving averages per node, with `decay` per call.
    temperature T, fixed: 0.1 to 1. The paper also learns it; that needs second derivatives of the cost, which the closure may
                not have and which would cost a further backward pass. Any T is unbiased: tune it as a hyper-parameter.
    Requires    samples x (1 + 2 layers) evaluations of the closure, two of three at relaxed outputs, and a backward pass.
                Bernoulli and Categorical nodes. The value is the mean cost of the hard runs. Terms of a cost are summed.
    Raises      TypeError for other discrete nodes; ValueError for a temperature that is not positive.
    Reference   Tucker, Mnih, Maddison, Lawson, Sohl-Dickstein 2017, "REBAR: low-variance, unbiased gradient estimates for
                discrete latent variable models", Sec. 3.1-3.3 and App. C.
    """

    reference = "Tucker et al. 2017, Sec. 3.1 and 3.3"
    former_order = ("temperature", "samples")

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float = 0.5,
        samples: int = 1,
        decay: float = 0.99,
        vectorize: Vectorize = "auto",
    ) -> None:
        super().__init__(model, temperature=temperature, samples=samples, vectorize=vectorize)
        self.scales = Scales(decay, nodes=tuple(n for n, v in self.nodes.items() if v.discrete))

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        return {cls.__name__: cls, f"{cls.__name__}-1.0": partial(cls, temperature=1.0)}

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        if (plain := self.plain(site, costs)) is not None:
            return plain
        parts = self.parts(site, costs)
        estimate = parts.reinforce + self.scales.of(site) * parts.control  # (1) + (2)
        if self.learning and torch.is_grad_enabled():
            self.scales.learn(site, parts.reinforce, parts.control)
        return site.along_logits(estimate / self.samples, self.role(site.logits, 0))
