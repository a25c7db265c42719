from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn

from dither import functional
from dither.estimators.core.call import Call
from dither.estimators.core.estimator import Estimator

_SAMPLERS = {
    "identity": functional.bernoulli_straight_through,
    "sigmoid": functional.bernoulli_straight_through_sigmoid,
    "clipped": functional.bernoulli_straight_through_clipped,
}
Variant = Literal["identity", "sigmoid", "clipped"]


class StraightThrough(Estimator):
    """Straight-through: back-propagation as if a hard sample were its logit, or its mean.

    Estimates   d E[L] / d theta, biased; exact when the cost is linear in each unit ("sigmoid") and nothing lies between.
    Formula     sigmoid   d L / d a := sigmoid'(a) d L / d h   (the derivative of the mean; the default)
                identity  d L / d a := d L / d h               (the paper's, Sec. 3.2.1)
                clipped   d L / d a := d L / d h where |a| <= 1, else 0   (Hubara et al. 2016)
                Other units always use the Jacobian of their mean, categorical ones that of their softmax.
    Why         the factor holds back units that are decided already: without it, at a learning rate that suits the rest of
                the net, weights grow and accuracy falls (measured on MNIST: docs/experiments/first-demo.md).
    Requires    samples evaluations of the closure; a cost differentiable in the units' outputs.
    vectorize   run the samples as one vmap over the closure.
    Slope       annealing (Chung et al. 2016) makes P(h = 1) = sigmoid(slope a): it changes the model, whatever the estimator,
                so it is written there, `node(slope * linear(x))`; "sigmoid" then has the factor slope sigmoid'(slope a).
    Reference   Hinton 2012, lecture 15b; Bengio 2013, Sec. 3.2.1.
    """

    unbiased = False
    reference = "Bengio 2013, Sec. 3.2.1"

    def __init__(
        self,
        model: nn.Module,
        variant: Variant = "sigmoid",
        samples: int = 1,
        *,
        vectorize: bool = True,
    ) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize)
        if variant not in _SAMPLERS:
            raise ValueError(f"variant is {variant!r}: it must be one of {', '.join(map(repr, _SAMPLERS))}")
        self.variant = variant

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        variants: tuple[Variant, ...] = ("identity", "sigmoid", "clipped")
        return {f"{cls.__name__}-{v}-{k}": partial(cls, variant=v, samples=k) for v in variants for k in (1, 2)}

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        return call.propagate(_SAMPLERS[self.variant] if call.node.binary else type(call.node).straight_through), None
