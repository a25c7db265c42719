from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from dither import functional
from dither.estimators.core.call import Call
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.mappable import Vectorize
from dither.estimators.propagating.outcomes import log_probabilities


class MVE(Estimator):
    """MVE: of the estimators that multiply d L / d z by a matrix that depends on the sample, that of minimum variance.

    >>> import math, torch, dither
    >>> node = dither.Categorical()
    >>> node.logits = torch.nn.Parameter(torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64))
    >>> cost = lambda: (node(node.logits) @ torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64) - 1).square()
    >>> for quadratic in (math.inf, 1.0, 1e-9):  # from unbiased for quadratic costs to straight-through: bias, variance
    ...     bias = dither.testing.bias(dither.MVE(node, quadratic=quadratic), cost)["logits"].abs().max()
    ...     variance = dither.exact.moments(dither.MVE(node, quadratic=quadratic), cost).variance["logits"].sum()
    ...     round(bias.item(), 2), round(variance.item(), 2)
    (0.0, 26.47)
    (0.67, 10.1)
    (0.97, 4.04)

    Estimates   d E[L] / d theta, biased; exact for linear costs and, at quadratic = inf, for quadratic ones, as ReinMax(1) is.
                Its variance is the minimum for gradients of no preferred direction: for one cost it may be above ReinMax's.
    Formula     d L / d a := S_z' d L / d z                                                                          (1)
                S minimises sum_x p_x |S_x|^2 plus `quadratic` times the squared errors on quadratic costs           (2)
                `functional.mve` has (2) in full.
    Requires    samples evaluations of the closure; a cost differentiable in the units' outputs; a K x K system per unit of K
                categories; nodes that list their outcomes.
    quadratic   > 0, may be changed between calls: near 0 it is straight-through; its authors raise it from 1 to 1e6.
    Reference   Hooper & Shekhovtsov 2026.
    """

    unbiased = False
    credits_examples = False
    reference = "Hooper & Shekhovtsov 2026"
    requires = ("probabilities",)
    former_order = ("quadratic", "samples")

    def __init__(
        self,
        model: nn.Module,
        *,
        quadratic: float = math.inf,
        samples: int = 1,
        vectorize: Vectorize = "auto",
        repeated: bool = False,
    ) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize, repeated=repeated)
        if not quadratic > 0:
            raise ValueError(f"quadratic is {quadratic}: the weight of errors on quadratic costs must be positive, or inf")
        self.quadratic = quadratic

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        return {f"{cls.__name__}-{q:g}-{k}": partial(cls, quadratic=q, samples=k) for q, k in ((math.inf, 1), (1.0, 2))}

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        if not call.node.discrete:
            return call.propagate(), None
        node, logits, sample = call.node, call.logits, call.sample()
        if node.binary:  # (1), with the S of two categories
            return call.output(functional.bernoulli_mve_given(logits, sample, quadratic=self.quadratic)), None
        if node.one_hot:  # (1)
            return call.output(functional.mve_given(logits, sample, quadratic=self.quadratic)), None
        # (1) for the one-hot outcome z of a unit that lists its outcomes; its sample is linear in z
        indicator = functional.mve_given(
            log_probabilities(node, logits), node.indicator(logits, sample), quadratic=self.quadratic
        )
        return call.output(node.sample_of(logits, indicator).to(logits.dtype)), None
