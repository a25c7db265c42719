from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from dither import functional
from dither.estimators.core.call import Call
from dither.estimators.core.estimator import Estimator
from dither.estimators.propagating.outcomes import log_probabilities


class ReinMax(Estimator):
    """ReinMax: a straight-through gradient that is second-order accurate; at temperature 1 it is ZGR.

    Estimates   d E[L] / d theta, biased; exact at temperature 1 for a cost that is quadratic in each unit, given the others.
    Formula     d L / d a := (2 (diag q - q q') - (diag p - p p') / 2) d L / d z, p = softmax(a), q = (z + softmax(a /
                temperature)) / 2. A binary unit is the case of logits (0, a).
    Requires    samples evaluations of the closure; a cost differentiable in the units' outputs; nodes that list their outcomes.
    temperature > 0; above 1 trades bias for less variance, 1 to 1.5 is usual.
    Reference   Liu, Dong, Liu, Yu, Gao 2023, "Bridging discrete and backpropagation", Algorithm 2; Shekhovtsov 2023, "Cold
                analysis of Rao-Blackwellized straight-through Gumbel-softmax gradient estimator" (ZGR).
    """

    unbiased = False
    reference = "Liu et al. 2023, Algorithm 2"
    requires = ("probabilities",)

    def __init__(self, model: nn.Module, temperature: float = 1.0, samples: int = 1, *, vectorize: bool = True) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize)
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}: it must be positive; 1 to 2 is usual")
        self.temperature = temperature

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        kinds = [(1.0, 1), (1.0, 2), (1.3, 1)]
        return {f"{cls.__name__}-{t:g}-{k}": partial(cls, temperature=t, samples=k) for t, k in kinds}

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        if not call.node.discrete:
            return call.propagate(), None
        node, logits, sample = call.node, call.logits, call.sample()
        if node.binary:
            return call.output(functional.bernoulli_reinmax_given(logits, sample, self.temperature)), None
        if node.one_hot:
            return call.output(functional.reinmax_given(logits, sample, self.temperature)), None
        indicator = functional.reinmax_given(log_probabilities(node, logits), node.indicator(logits, sample), self.temperature)
        return call.output(node.sample_of(logits, indicator).to(logits.dtype)), None
