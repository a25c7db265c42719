from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from dither.estimators.core.call import Call
from dither.estimators.core.credit import Credits
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.mappable import Vectorize
from dither.estimators.score._local_expectation import LocalExpectation, cdf_thresholds, inverse_cdf, repeats
from dither.exact import Oracle
from dither.functional import one_hot
from dither.nodes import Node

_REST = 1  # the stream of noise from which v is sampled


class SumAndSample(LocalExpectation):
    """Sum and sample: each unit's likeliest outcomes summed over exactly, one sample for the rest.

    >>> import torch, dither
    >>> node = dither.Categorical()
    >>> node.logits = torch.nn.Parameter(torch.tensor([[0.0, 0.0, 1.0, 2.0]], dtype=torch.float64))
    >>> cost = lambda: node(node.logits) @ torch.tensor([0.0, 3.0, 6.0, 1.0], dtype=torch.float64)
    >>> variance = lambda estimator: dither.exact.moments(estimator, cost).variance["logits"].sum().item()
    >>> [round(variance(dither.SumAndSample(node, categories=k)), 2) for k in (1, 2, 3)]  # by k + 1 evaluations
    [1.06, 0.06, 0.0]
    >>> round(variance(dither.ScoreFunction(node)), 2)
    7.75

    Estimates   d E[L] / d a for every logit; unbiased at any depth.
    Formula     sum over c in C of p_c (L_c - b) (e_c - p)  +  p(rest) (L_v - b) (e_v - p)                           (1)
                b = sum over c in C of p_c L_c / p(C)                                                                (2)
                C the k likeliest categories, v ~ p restricted to the rest; every L has the other units of the layer,
                and the noise of the layers behind it, in common. The paper leaves b open; it does not see v.
    categories  k; for k >= K - 1 nothing is left to sample, and it is LocalExpectation. So it is for binary units.
    Requires    1 + k x units evaluations of the closure. A sampled category is either in C or a sample of the rest, so the
                first run's cost serves as one of the k + 1. Any cost, differentiable or not.
    Raises      ValueError, naming the units, beyond max_runs; TypeError for nodes that do not list their outcomes.
    Reference   Liu, Regier, Tripuraneni, Jordan, McAuliffe 2019, "Rao-Blackwellized stochastic gradients for discrete
                distributions"; per unit as in LocalExpectation, which see for sampling and the loss's value.
    """

    unbiased = True
    reference = "Liu, Regier, Tripuraneni, Jordan, McAuliffe 2019"
    former_order = ("categories",)

    def __init__(
        self,
        model: nn.Module,
        *,
        categories: int = 1,
        max_runs: int = 4096,
        credit: Credits = "traced",
        vectorize: Vectorize = "auto",
    ) -> None:
        super().__init__(model, max_runs=max_runs, credit=credit, vectorize=vectorize)
        if isinstance(categories, bool) or not isinstance(categories, int) or categories < 1:
            raise ValueError(f"categories is {categories!r}: it must be an integer of at least 1, how many are summed over")
        self.categories = categories

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        return {f"{cls.__name__}-{k}": partial(cls, categories=k) for k in (1, 2)}

    def tried(self, outcomes: int) -> int:
        return min(self.categories, outcomes - 1)

    def other(self, call: Call, p: Tensor, first: Tensor, number: Tensor) -> Tensor:
        if self.tried(p.shape[-1]) == p.shape[-1] - 1:
            return super().other(call, p, first, number)
        ranked = p.argsort(dim=-1, descending=True, stable=True)
        # The next of C; where the first run sampled it already, v stands in for it: so both sums of (1) are complete.
        likely = one_hot((ranked * (torch.arange(p.shape[-1], device=p.device, dtype=torch.int64) == number)).sum(-1), first)
        rest = inverse_cdf(self.rest(p), call.noise(0, stream=_REST))
        return torch.where((likely * first).sum(-1, keepdim=True) > 0, rest.to(first.dtype), likely)

    def weighed(self, p: Tensor, indicator: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
        sampled = (indicator * ~self._likely(p)).sum(-1) > 0
        own = (p * indicator).sum(-1)
        summed = torch.where(sampled, 0, own)
        remaining = torch.where(self._likely(p), 0, p).sum(-1)
        total = summed.sum(0).clamp(min=torch.finfo(p.dtype).tiny)  # p(C) >= 1/K; 0 in an oracle's impossible outcomes only
        return torch.where(sampled, remaining, own), (summed * cost).sum(0) / total  # p(rest) or p_c of (1), and (2)

    def _likely(self, p: Tensor) -> Tensor:
        """Which outcomes are summed over."""
        return p.argsort(dim=-1, descending=True, stable=True).argsort(-1) < self.tried(p.shape[-1])

    def rest(self, p: Tensor) -> Tensor:
        """The distribution of v; where the rest is impossible any of it may stand for it, because it weighs nothing."""
        likely = self._likely(p)
        rest = torch.where(likely, 0, p)
        total = rest.sum(-1, keepdim=True)
        return torch.where(total > 0, rest / total, (~likely).to(p.dtype) / (p.shape[-1] - self.tried(p.shape[-1])))


def _thresholds(estimator: SumAndSample, node: Node, logits: Tensor, stream: int) -> Tensor | None:
    if not node.discrete:
        return None
    p = node.probabilities(logits)
    return cdf_thresholds(estimator.rest(p) if stream == _REST else p)


SumAndSample.oracle = Oracle(thresholds=_thresholds, repeats=repeats)
