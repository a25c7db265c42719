from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from dither import functional
from dither.estimators.core.call import Call
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.mappable import Vectorize
from dither.exact import Oracle
from dither.functional import conditional_gumbel, proper_logits, widen
from dither.nodes import Node


class GumbelSoftmax(Estimator):
    """Gumbel-softmax (the concrete distribution): back-propagation through a tempered softmax of the noisy logits.

    >>> import torch, dither
    >>> node, logits = dither.Categorical(), torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64)
    >>> cost = lambda: node(logits).square().sum(1)
    >>> estimator = dither.GumbelSoftmax(node, temperature=1e9, hard=False)
    >>> round(estimator(cost).item(), 4)  # the net sees y: here 1/3 for each category
    0.3333
    >>> estimator.temperature = 1e-6  # y becomes the one-hot sample, which the net sees with hard=True
    >>> round(estimator(cost).item(), 4), dither.GumbelSoftmax(node)(cost).item()
    (1.0, 1.0)

    Estimates   d E[L] / d theta, biased; less so at a low temperature, where the variance grows.
    Formula     y = softmax((a + G) / temperature) with Gumbel noise G                                               (1)
                y = sigmoid((a - logit u) / temperature) for a binary unit                                           (2)
                hard    the net sees the one-hot argmax z of a + G (straight-through Gumbel-softmax, STGS):
                        d L / d a := (d y / d a)' d L / d z                                                          (3)
                soft    (hard=False) the net sees y itself, so the loss is that of another, continuous net, without bias
                        for it.
    Requires    samples evaluations of the closure; a cost differentiable in the units' outputs; nodes with a relaxation.
    temperature > 0; may be changed between calls (`estimator.temperature = ...`), as annealing does.
    Oracles     dither.exact weighs outcomes exactly, but knows the noise behind each by two quadrature nodes only: the
                expectation that it gives of this gradient is a rough one.
    Reference   Jang, Gu, Poole 2017; Maddison, Mnih, Teh 2017.
    """

    unbiased = False
    credits_examples = False
    reference = "Jang, Gu, Poole 2017"
    requires = ("relaxation",)
    former_order = ("temperature", "hard", "samples")

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float = 0.5,
        hard: bool = True,
        samples: int = 1,
        vectorize: Vectorize = "auto",
        repeated: bool = False,
    ) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize, repeated=repeated)
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}: it must be positive; 0.1 to 1 is usual")
        self.temperature = temperature
        self.hard = hard

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        kinds = [(True, 1), (True, 2), (False, 1)]
        return {f"{cls.__name__}-{'hard' if hard else 'soft'}-{k}": partial(cls, hard=hard, samples=k) for hard, k in kinds}

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.hard

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        node, logits, noise = call.node, call.logits, call.noise()
        if not node.discrete:
            return node.propagate(logits, noise), None
        soft = node.soften(node.relaxation(logits, noise), self.temperature).to(logits.dtype)  # (1), (2)
        # hard: (3), the value of z with the derivative of y
        return call.output(functional.attach(node.sample(logits, noise), soft) if self.hard else soft), None


# --- for oracles ----------------------------------------------------------------------------------------------------------
_QUANTILES = ((0.25, 0.75), (0.75, 0.25))


def _partition(estimator: GumbelSoftmax, node: Node, logits: Tensor, stream: int) -> tuple[Tensor, Tensor] | None:
    """Two nodes within each outcome's share of the noise."""
    if not node.discrete or not (node.binary or node.one_hot):
        return None
    _, log_weight = node.partition(logits)
    if node.binary:
        p = torch.sigmoid(widen(logits))
        noise = torch.stack([torch.stack((p + (1 - p) * e, p * e)) for e in (0.25, 0.75)], 1)
    else:
        noise = torch.stack([_given_each(proper_logits(logits), e) for e in _QUANTILES], 1)
    weight = (log_weight - math.log(2)).unsqueeze(1).expand(-1, 2, *log_weight.shape[1:])
    return noise.flatten(0, 1), weight.flatten(0, 1)


def _given_each(logits: Tensor, quantiles: tuple[float, float]) -> Tensor:
    """Uniforms that make each category win in turn, (categories, *logits.shape); the winner's noise is at quantile quantiles[0]
    of its distribution, the others' at quantiles[1]."""
    count = logits.shape[-1]
    winner = torch.eye(count, dtype=logits.dtype, device=logits.device).view(count, *[1] * (logits.dim() - 1), count)
    winner = winner.expand(count, *logits.shape)
    perturbed = conditional_gumbel(logits, winner, torch.where(winner > 0.5, quantiles[0], quantiles[1]))
    gumbel = torch.where(logits > -torch.inf, perturbed - logits, 0)
    return -torch.expm1(-torch.exp(-gumbel))


GumbelSoftmax.oracle = Oracle(partition=_partition)
