from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from dither.estimators._call import Call
from dither.estimators._estimator import Estimator, Layout
from dither.estimators._perturbation import positive
from dither.estimators._site import Site
from dither.functional._bernoulli import attach, widen, without_infinities
from dither.nodes import Bernoulli, Categorical, Node


class NodePerturbation(Estimator):
    """Node perturbation: noise on the logits, and how much worse the cost was with it than without.

    Estimates   d E[L] / d theta of the net whose logits carry that noise, a + scale xi, xi standard normal: exactly unbiased
                for that smoothed net, through every discrete node; for the net itself the bias is O(scale^2).
    Formula     (L(a + scale xi) - L(a)) xi / scale for the logits a of the *perturbed* run; mean over the batch and K samples.
                Both runs draw their units by the same uniforms, so L(a) takes much of the variance away.
    Why         z = a + scale xi is a Gaussian decision with score xi / scale with respect to a, given all decisions before it:
                by Stein's lemma E[L xi_i / scale | prefix] = d/da_i E[L | prefix], and the chain rule of scores sums it over
                units and layers, where the prefix, and d a / d theta with it, is the perturbed run's own. L(a) depends on no
                xi, so it subtracts nothing on average. With the base run's a in the product, deeper layers would be biased:
                its prefix is not the one that led to the cost.
    Local cost  a closure that returns (batch, terms) gives each unit the difference of those terms that it can influence.
    Value       the loss's value is the mean cost of the unperturbed runs; what the cost has of a gradient by itself (parameters
                used in it) is the perturbed runs'.
    Requires    2 samples evaluations of the closure; any cost, differentiable or not. Bernoulli and Categorical nodes.
    Variance    grows with the number of units, and like 1 / scale as units are hard: they flip with probability O(scale).
    Reference   Widrow & Lehr 1990; Fiete & Seung 2006 (Bengio 2013, Sec. 1.1); Williams 1992, Sec. 6, for Gaussian units.
    """

    unbiased = False
    reference = "Fiete & Seung 2006"
    supports = (Bernoulli, Categorical)
    composable = False
    local_credit = True
    quadrature = 4  # points by which an oracle integrates over each unit's noise

    def __init__(self, model: nn.Module, scale: float = 0.5, samples: int = 1, *, vectorize: bool = True) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize)
        self.scale = positive(scale, "0.5")

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        return {f"{cls.__name__}-{samples}": partial(cls, samples=samples) for samples in (1, 2)}

    def runs(self, layout: Layout) -> int:
        return 2 * self.samples

    def answer(self, call: Call) -> tuple[Tensor, Tensor | None]:
        pair, perturbed = call.run // 2, call.run % 2
        if not call.node.discrete:
            return call.node.propagate(call.logits, call.noise(pair)), None
        normal = torch.special.ndtri(call.noise(pair, stream=1)).to(widen(call.logits).dtype) * perturbed
        logits = (call.logits.detach() + self.scale * normal).to(call.logits.dtype)
        noise = replace(call, logits=logits).noise(pair, same=perturbed == 0)
        return call.node.emit(logits, call.node.outcome(logits, noise)), normal  # what is credited is the noise

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        credit = site.credit(costs).unflatten(0, (self.samples, 2))
        change = credit[:, 1] - credit[:, 0]
        logits = site.logits.unflatten(0, (self.samples, 2))[:, 1]
        normal = site.outcome.unflatten(0, (self.samples, 2))[:, 1]
        change = change.view(*change.shape, *[1] * (normal.dim() - change.dim()))
        estimate = (change * normal / self.scale).detach() * without_infinities(widen(logits))
        return estimate.sum() / logits.shape[:2].numel()

    def value(self, costs: Tensor) -> Tensor:
        own = widen(costs).sum(-1).unflatten(0, (self.samples, 2)).mean(0)
        return attach(own[0].detach(), own[1])

    # --- for oracles --------------------------------------------------------------------------------------------------
    def cells(self, node: Node, logits: Tensor, stream: int) -> tuple[Tensor, Tensor] | None:
        if stream == 0:
            return None
        at, weight = (torch.as_tensor(v).to(logits) for v in np.polynomial.hermite_e.hermegauss(self.quadrature))
        shape = (self.quadrature, *[1] * logits.dim())
        noise, log_weight = torch.special.ndtr(at).view(shape), (weight / weight.sum()).log().view(shape)
        return noise.expand(-1, *logits.shape), log_weight.expand(-1, *logits.shape)

    # For Categorical units there are no thresholds to cut by: an oracle finds the base runs' expectations only.
    def breaks(self, node: Node, logits: Tensor, stream: int) -> Tensor | None:
        return torch.sigmoid(widen(logits)).unsqueeze(0) if stream == 0 and isinstance(node, Bernoulli) else None
