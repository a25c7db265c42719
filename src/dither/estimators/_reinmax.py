from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from dither import functional
from dither.estimators._estimator import Estimator
from dither.nodes import Bernoulli, Categorical, Node
from dither.noise import Keyed


class ReinMax(Estimator):
    """ReinMax: a straight-through gradient that is second-order accurate; at temperature 1 it is ZGR.

    Estimates   d E[L] / d theta, biased; exact at temperature 1 for a cost that is quadratic in each unit, given the others.
    Formula     d L / d a := (2 (diag q - q q') - (diag p - p p') / 2) d L / d z, p = softmax(a), q = (z + softmax(a /
                temperature)) / 2. A binary unit is the case of logits (0, a).
    Requires    samples evaluations of the closure; a cost differentiable in the units' outputs. Bernoulli and Categorical.
    temperature > 0; above 1 trades bias for less variance, 1 to 1.5 is usual.
    Reference   Liu, Dong, Liu, Yu, Gao 2023, "Bridging discrete and backpropagation", Algorithm 2; Shekhovtsov 2023, "Cold
                analysis of Rao-Blackwellized straight-through Gumbel-softmax gradient estimator" (ZGR).
    """

    unbiased = False
    reference = "Liu et al. 2023, Algorithm 2"
    supports = (Bernoulli, Categorical)

    def __init__(self, model: nn.Module, temperature: float = 1.0, samples: int = 1, *, vectorize: bool = True) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize)
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}: it must be positive; 1 to 2 is usual")
        self.temperature = temperature

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        kinds = [(1.0, 1), (1.0, 2), (1.3, 1)]
        return {f"{cls.__name__}-{t:g}-{k}": partial(cls, temperature=t, samples=k) for t, k in kinds}

    def respond(self, node: Node, logits: Tensor, noise: Tensor | Keyed) -> tuple[Tensor, Tensor | None]:
        if isinstance(node, Bernoulli):
            return node.propagate(logits, noise, partial(functional.bernoulli_reinmax, temperature=self.temperature)), None
        if isinstance(node, Categorical):
            return node.propagate(logits, noise, partial(functional.reinmax, temperature=self.temperature)), None
        return node.propagate(logits, noise), None


class MVE(Estimator):
    """MVE: of the estimators that multiply d L / d z by a matrix that depends on the sample, that of least variance.

    Estimates   d E[L] / d theta, biased; exact for linear costs and, at quadratic = inf, for quadratic ones, as ReinMax(1) is.
                Its variance is the least over slopes of no preferred direction: for one given cost it may be above ReinMax's.
    Formula     d L / d a := S_z' d L / d z; S minimises sum_x p_x |S_x|^2 plus `quadratic` times the squared errors on
                quadratic costs: `functional.mve`.
    Requires    samples evaluations of the closure; a cost differentiable in the units' outputs; a K x K system per unit of K
                categories. Bernoulli and Categorical.
    quadratic   > 0, may be changed between calls: near 0 it is straight-through; its authors raise it from 1 to 1e6.
    Reference   Hooper & Shekhovtsov 2026.
    """

    unbiased = False
    reference = "Hooper & Shekhovtsov 2026"
    supports = (Bernoulli, Categorical)

    def __init__(self, model: nn.Module, quadratic: float = math.inf, samples: int = 1, *, vectorize: bool = True) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize)
        if not quadratic > 0:
            raise ValueError(f"quadratic is {quadratic}: the weight of errors on quadratic costs must be positive, or inf")
        self.quadratic = quadratic

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        return {f"{cls.__name__}-{q:g}-{k}": partial(cls, quadratic=q, samples=k) for q, k in ((math.inf, 1), (1.0, 2))}

    def respond(self, node: Node, logits: Tensor, noise: Tensor | Keyed) -> tuple[Tensor, Tensor | None]:
        if isinstance(node, Bernoulli):
            return node.propagate(logits, noise, partial(functional.bernoulli_mve, quadratic=self.quadratic)), None
        if isinstance(node, Categorical):
            return node.propagate(logits, noise, partial(functional.mve, quadratic=self.quadratic)), None
        return node.propagate(logits, noise), None
