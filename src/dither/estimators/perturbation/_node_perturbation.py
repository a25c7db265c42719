from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from dither.estimators.core.call import Call, Layout
from dither.estimators.core.credit import Credits
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.mappable import Vectorize
from dither.estimators.core.site import Site
from dither.estimators.perturbation.perturbing import positive
from dither.exact import Oracle
from dither.functional import attach, widen, without_infinities
from dither.nodes import Node

_LOGITS = 1  # the stream of the noise on the logits


class NodePerturbation(Estimator):
    """Node perturbation: noise on the logits, and how much worse the cost was with it than without.

    >>> import torch, dither
    >>> node = dither.Bernoulli()
    >>> node.logits = torch.nn.Parameter(torch.tensor([[1.0]], dtype=torch.float64))
    >>> cost = lambda: node(node.logits).sum(1)
    >>> estimators = [dither.NodePerturbation(node, scale=scale) for scale in (0.4, 0.2)]
    >>> [round(dither.testing.bias(estimator, cost)["logits"].item(), 4) for estimator in estimators]  # O(scale^2)
    [-0.003, -0.0007]

    Estimates   d E[L] / d theta of the net whose logits carry that noise, a + scale xi, xi standard normal: exactly unbiased
                for that smoothed net, through every discrete node; for the net itself the bias is O(scale^2).
    Formula     (L(a + scale xi) - L(a)) xi / scale                                                                  (1)
                for the logits a of the *perturbed* run; mean over the batch and K samples. Both runs sample their units
                by the same uniforms, so L(a) takes much of the variance away.
    Why         z = a + scale xi is a Gaussian sample with score xi / scale with respect to a, given all samples before it:
                by Stein's lemma E[L xi_i / scale | prefix] = d/da_i E[L | prefix], and the chain rule of scores sums it over
                units and layers, where the prefix, and d a / d theta with it, is the perturbed run's own. L(a) depends on no
                xi, so it subtracts nothing on average. With the base run's a in the product, deeper layers would be biased:
                its prefix is not the one that led to the cost.
    Local cost  a closure that returns (batch, terms) gives each unit the difference of those terms that it can influence.
    credit      declares which terms those are, as in ScoreFunction; by default they are traced.
    Value       the loss's value is the mean cost of the unperturbed runs; what the cost has of a gradient by itself (parameters
                used in it) is the perturbed runs'.
    Requires    2 samples evaluations of the closure, the net's own and perturbed ones; any cost, differentiable or not. Nodes
                with a score in closed form.
    Variance    grows with the number of units, and like 1 / scale as units are hard: they flip with probability O(scale).
    Reference   Widrow & Lehr 1990; Fiete & Seung 2006 (Bengio 2013, Sec. 1.2); Williams 1992, Sec. 6, for Gaussian units.
    """

    unbiased = False
    reference = "Fiete & Seung 2006"
    requires = ("score",)
    composable = False
    local_credit = True
    former_order = ("scale", "samples")

    def __init__(
        self,
        model: nn.Module,
        *,
        scale: float = 0.5,
        samples: int = 1,
        credit: Credits = "traced",
        vectorize: Vectorize = "auto",
    ) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize)
        self.credit = credit
        self.scale = positive(scale, "0.5")

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        return {f"{cls.__name__}-{samples}": partial(cls, samples=samples) for samples in (1, 2)}

    def runs(self, layout: Layout) -> int:
        return 2 * self.samples

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        pair, perturbed = call.run // 2, call.run % 2
        if not call.node.discrete:
            return call.node.propagate(call.logits, call.noise(pair)), None
        normal = torch.special.ndtri(call.noise(pair, stream=_LOGITS)).to(widen(call.logits).dtype) * perturbed
        call = replace(call, logits=(call.logits.detach() + self.scale * normal).to(call.logits.dtype))
        return call.output(call.node.sample(call.logits, call.noise(pair))), normal  # what is credited is the noise

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        credit = site.credit(costs).unflatten(0, (self.samples, 2))
        change = credit[:, 1] - credit[:, 0]
        logits = site.logits.unflatten(0, (self.samples, 2))[:, 1]
        normal = site.sample.unflatten(0, (self.samples, 2))[:, 1]
        change = change.view(*change.shape, *[1] * (normal.dim() - change.dim()))
        # (1), along the logits of the perturbed run
        estimate = (change * normal / self.scale).detach() * without_infinities(widen(logits))
        return estimate.sum() / max(logits.shape[:2].numel(), 1)

    def own_runs(self, values: Tensor) -> Tensor:
        return values.unflatten(0, (self.samples, 2))[:, 0]

    def value(self, costs: Tensor) -> Tensor:
        own = widen(costs).sum(-1).unflatten(0, (self.samples, 2)).mean(0)
        return attach(own[0].detach(), own[1])


# --- for oracles ----------------------------------------------------------------------------------------------------------
def _partition(nodes: int, stream: int, logits: Tensor) -> tuple[Tensor, Tensor] | None:
    if stream != _LOGITS:
        return None
    at, weight = (
        torch.as_tensor(v, dtype=logits.dtype, device=logits.device) for v in np.polynomial.hermite_e.hermegauss(nodes)
    )
    shape = (nodes, *[1] * logits.dim())
    noise, log_weight = torch.special.ndtr(at).view(shape), (weight / weight.sum()).log().view(shape)
    return noise.expand(-1, *logits.shape), log_weight.expand(-1, *logits.shape)


# For units that are not binary there are no thresholds to divide by: an oracle has the base runs' expectations only.
def _thresholds(estimator: NodePerturbation, node: Node, logits: Tensor, stream: int) -> Tensor | None:
    return torch.sigmoid(widen(logits)).unsqueeze(0) if stream == 0 and node.binary else None


def _repeats(estimator: NodePerturbation, call: Call, stream: int) -> Tensor | bool:
    return stream == _LOGITS or call.run % 2 == 0


def oracle(nodes: int = 4) -> Oracle:
    """nodes: of the quadrature over the noise of each logit."""
    partition = lambda estimator, node, logits, stream: _partition(nodes, stream, logits)  # noqa: E731
    return Oracle(partition=partition, thresholds=_thresholds, repeats=_repeats)


NodePerturbation.oracle = oracle()
