from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import partial

import torch
from torch import Tensor, nn

from dither.estimators.core.call import Call
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.mappable import Vectorize
from dither.estimators.core.site import Site
from dither.functional import score_function_surrogate, widen


class VIMCO(Estimator):
    """VIMCO: the score function for a multi-sample bound, with a leave-one-out baseline for every sample.

    >>> import torch, dither
    >>> node = dither.Bernoulli()
    >>> node.logits = torch.nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))
    >>> cost = lambda: node(node.logits).sum(1)  # -log w: 0 or 1, mean cost 0.5, -log E[w] = 0.3799
    >>> bound = lambda samples: dither.exact.moments(dither.VIMCO(node, samples=samples), cost).value.item()
    >>> [round(bound(samples), 4) for samples in (2, 3, 5)]
    [0.4399, 0.4189, 0.4026]

    Estimates   d B / d theta of B = -E[log 1/K sum_k w_k] for every parameter; unbiased. The closure returns -log w per example
                (log w = log p(x, h) - log q(h | x)): with several terms, their sum. B is at most the mean cost, the usual
                bound, and falls towards -log p(x) as K grows.
    Formula     -sum_k (B_K - B_K,-k) d log q(h_k) / d theta + direct part                                           (1)
                B_K = log 1/K sum_j w_j                                                                              (2)
                B_K,-k the same with w_k replaced by the geometric mean of the others                                (3)
    Value       -B_K, mean over the batch: the bound, not the mean cost.
    Requires    samples >= 2 evaluations of the closure; any cost, differentiable or not. Any discrete node.
    Raises      ValueError for samples < 2.
    Reference   Mnih, Rezende 2016, "Variational inference for Monte Carlo objectives" (geometric mean).
    """

    unbiased = True
    multi_sample = True
    composable = False
    credits_batches = False
    reference = "Mnih, Rezende 2016"
    former_order = ("samples",)

    def __init__(self, model: nn.Module, *, samples: int = 5, vectorize: Vectorize = "auto", repeated: bool = False) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize, repeated=repeated)
        if samples < 2:
            raise ValueError(
                f"samples is {samples}: VIMCO's baseline of a sample comes from the others, so it needs at least 2; with one "
                "sample the bound is the mean cost, which ScoreFunction takes"
            )

    @classmethod
    def fewest_samples(cls, words: Collection[str] = ()) -> int:
        return 2

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        return {f"{cls.__name__}-{k}": partial(cls, samples=k) for k in (2, 3)}

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        if not call.node.discrete:
            return call.propagate(), None
        sample = call.sample()
        return call.output(sample), sample

    def value(self, costs: Tensor) -> Tensor:
        return -_log_mean_exp(-widen(costs).sum(-1))  # -(2); its own gradient is the direct part of (1)

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        log_w = -widen(costs).sum(-1)
        count = len(log_w)
        own = torch.eye(count, dtype=torch.bool, device=log_w.device).unsqueeze(-1)
        others = torch.where(own, 0, log_w).sum(1) / (count - 1)  # not sum - own: that would cancel
        without = _log_mean_exp(torch.where(own, others.unsqueeze(1), log_w).transpose(0, 1))  # (3)
        # (1): cost -B_K and baseline -B_K,-k
        signal = site.over_units(-_log_mean_exp(log_w).expand_as(log_w))
        return score_function_surrogate(signal, site.log_prob, site.over_units(-without)).sum() / max(costs.shape[1], 1)


def _log_mean_exp(values: Tensor) -> Tensor:
    return values.logsumexp(0) - math.log(len(values))
