from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from dither import functional
from dither.estimators.core.call import Call
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.mappable import Vectorize
from dither.estimators.propagating.outcomes import log_probabilities


class ReinMax(Estimator):
    """ReinMax: a straight-through gradient that is second-order accurate; at temperature 1 it is ZGR.

    >>> import torch, dither
    >>> node = dither.Bernoulli()
    >>> node.logits = torch.nn.Parameter(torch.tensor([[0.0, 1.0]], dtype=torch.float64))
    >>> cost = lambda power: (node(node.logits).sum(1) - 0.4) ** power
    >>> bias = lambda build, power: dither.testing.bias(build(node), lambda: cost(power))["logits"].abs().max().item()
    >>> [round(bias(dither.ReinMax, power), 4) for power in (2, 3)]  # none for a quadratic cost
    [0.0, 0.125]
    >>> [round(bias(dither.StraightThrough, power), 4) for power in (2, 3)]
    [0.0909, 0.2618]

    Estimates   d E[L] / d theta, biased; exact at temperature 1 for a cost that is quadratic in each unit, given the others.
    Formula     d L / d a := (2 (diag q - q q') - (diag p - p p') / 2) d L / d z                        (1; Algorithm 2)
                p = softmax(a), q = (z + softmax(a / temperature)) / 2                                               (2)
                d h / d a := 2 q (1 - q) - p (1 - p) / 2 for a binary unit, of logits (0, a)                         (3)
    Requires    samples evaluations of the closure; a cost differentiable in the units' outputs; nodes that list their outcomes.
    temperature > 0; above 1 trades bias for less variance, 1 to 1.5 is usual.
    Reference   Liu, Dong, Liu, Yu, Gao 2023, "Bridging discrete and backpropagation", Algorithm 2; Shekhovtsov 2023, "Cold
                analysis of Rao-Blackwellized straight-through Gumbel-softmax gradient estimator" (ZGR).
    """

    unbiased = False
    credits_examples = False
    reference = "Liu et al. 2023, Algorithm 2"
    requires = ("probabilities",)
    former_order = ("temperature", "samples")

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float = 1.0,
        samples: int = 1,
        vectorize: Vectorize = "auto",
        repeated: bool = False,
    ) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize, repeated=repeated)
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
        if node.binary:  # (3)
            return call.output(functional.bernoulli_reinmax_given(logits, sample, temperature=self.temperature)), None
        if node.one_hot:  # (1)
            return call.output(functional.reinmax_given(logits, sample, temperature=self.temperature)), None
        # (1) for the one-hot outcome z of a unit that lists its outcomes; its sample is linear in z
        indicator = functional.reinmax_given(
            log_probabilities(node, logits), node.indicator(logits, sample), temperature=self.temperature
        )
        return call.output(node.sample_of(logits, indicator).to(logits.dtype)), None
