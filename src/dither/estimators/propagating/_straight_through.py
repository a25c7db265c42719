from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn

from dither import functional
from dither.estimators.core.call import Call
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.mappable import Vectorize
from dither.settings import did_you_mean

_SAMPLERS = {
    "identity": functional.bernoulli_straight_through,
    "sigmoid": functional.bernoulli_straight_through_sigmoid,
    "clipped": functional.bernoulli_straight_through_clipped,
}
Variant = Literal["identity", "sigmoid", "clipped"]


class StraightThrough(Estimator):
    """Straight-through: back-propagation as if a hard sample were its logit, or its mean.

    >>> import torch, dither
    >>> node, logits = dither.Bernoulli(), torch.tensor([[0.0, 2.0]], dtype=torch.float64, requires_grad=True)
    >>> for variant in ("sigmoid", "identity", "clipped"):  # d L / d h is 1
    ...     torch.autograd.grad(dither.StraightThrough(node, variant=variant)(lambda: node(logits).sum(1)), logits)[0]
    tensor([[0.2500, 0.1050]], dtype=torch.float64)
    tensor([[1., 1.]], dtype=torch.float64)
    tensor([[1., 0.]], dtype=torch.float64)

    Estimates   d E[L] / d theta, biased; exact when the cost is linear in each unit ("sigmoid") and nothing lies between.
    Formula     sigmoid   d L / d a := sigmoid'(a) d L / d h, by the derivative of the mean; the default             (1)
                identity  d L / d a := d L / d h                                                         (2; Sec. 3.2.1)
                clipped   d L / d a := d L / d h where |a| <= 1, else 0                          (3; Hubara et al. 2016)
                others    d L / d a := (d mean / d a)' d L / d h, of categorical units by the softmax                (4)
    variant     of binary nodes (`Node.binary`) alone. Every other node, of the library or of your own, has (4) under each
                variant: the sampler that it names as its `straight_through`, else its own way to back-propagate.
    Why         the factor holds back units that are nearly certain: without it, at a learning rate that suits the rest of
                the net, weights grow and accuracy falls (measured on MNIST: docs/experiments/first-demo.md).
    Requires    samples evaluations of the closure; a cost differentiable in the units' outputs.
    vectorize, repeated  how the samples are run: as for ScoreFunction.
    Slope       annealing (Chung et al. 2016) makes P(h = 1) = sigmoid(slope a): it changes the model, whatever the estimator,
                so it is written there, `node(slope * linear(x))`; "sigmoid" then has the factor slope sigmoid'(slope a).
    Reference   Hinton 2012, lecture 15b; Bengio 2013, Sec. 3.2.1.
    """

    unbiased = False
    credits_examples = False
    reference = "Bengio 2013, Sec. 3.2.1"
    former_order = ("variant", "samples")

    def __init__(
        self,
        model: nn.Module,
        *,
        variant: Variant = "sigmoid",
        samples: int = 1,
        vectorize: Vectorize = "auto",
        repeated: bool = False,
    ) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize, repeated=repeated)
        if variant not in _SAMPLERS:
            raise ValueError(
                f"variant is {variant!r}: it must be one of {', '.join(map(repr, _SAMPLERS))}{did_you_mean(variant, _SAMPLERS)}"
            )
        self.variant = variant

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        variants: tuple[Variant, ...] = ("identity", "sigmoid", "clipped")
        return {f"{cls.__name__}-{v}-{k}": partial(cls, variant=v, samples=k) for v in variants for k in (1, 2)}

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        # (1), (2) or (3) for binary units, else (4)
        return call.propagate(_SAMPLERS[self.variant] if call.node.binary else type(call.node).straight_through), None
