from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from dither.estimators.core.nesting import returned
from dither.estimators.core.shapes import batch_mean
from dither.estimators.core.site import Closure
from dither.estimators.perturbation.perturbing import Perturbing, with_gradient


class FiniteDifference(Perturbing):
    """Central differences of the cost, one parameter at a time: the plain yardstick, for small models.

    >>> import torch, dither
    >>> net = torch.nn.Sequential(dither.Bernoulli(), torch.nn.Linear(2, 1)).double()
    >>> _ = torch.nn.init.constant_(net[1].weight, 3), torch.nn.init.constant_(net[1].bias, 1)
    >>> certain = torch.tensor([[torch.inf, -torch.inf]], dtype=torch.float64)
    >>> estimator = dither.FiniteDifference(net)
    >>> estimator(lambda: net(certain).square().sum(1).detach()).backward()  # what is detached counts too
    >>> net[1].weight.grad.round(decimals=6), estimator.evaluations  # two evaluations for each of three parameters
    (tensor([[8., 0.]], dtype=torch.float64), 6)

    Estimates   d E[L] / d theta for every parameter of the model with requires_grad; bias O(scale^2).
    Formula     (L(theta + c e_i) - L(theta - c e_i)) / (2 c) for each i, c = scale; mean over the batch             (1)
    Noise       all evaluations have the same noise in the nodes (common random numbers); as with SPSA the variance grows like
                1 / scale where units are hard, but not with the number of parameters.
    Value       the mean cost of the perturbed nets.
    Requires    2 evaluations per parameter; any cost. Parameters come back bit by bit.
    Ranks       data-parallel ranks average their differences; all must make the call.
    Raises      ValueError above max_parameters.
    Reference   the approximation that "appear[s] hopelessly inefficient" in Bengio 2013, Sec. 1; Kiefer & Wolfowitz 1952.
    """

    reference = "Kiefer & Wolfowitz 1952"
    former_order = ("scale", "max_parameters")

    def __init__(self, model: nn.Module, *, scale: float = 0.01, max_parameters: int = 2000) -> None:
        super().__init__(model, scale=scale, samples=1)
        if self.evaluations > 2 * max_parameters:
            raise ValueError(
                f"{type(model).__name__} has {self.evaluations // 2} trainable parameters, max_parameters is {max_parameters}: "
                f"a call would evaluate the closure {self.evaluations} times; use dither.SPSA, which needs two, or raise it"
            )

    @property
    def evaluations(self) -> int:
        return 2 * sum(p.numel() for p in self.perturbed())

    def estimate(self, closure: Closure) -> Tensor:
        seed = self._begin()
        values, gradients = [], []
        for p in self.perturbed():
            gradient = torch.zeros_like(p, requires_grad=False)
            for index in product(*map(range, p.shape)):
                gradient[index], value = self._difference(closure, seed, p, index)
                values.append(value)
            gradient = self._over_ranks(gradient)
            gradients.append((p, lambda gradient=gradient: gradient))
        return returned(type(self).__name__, with_gradient(torch.stack(values).mean(), gradients))

    @torch.no_grad()
    def _difference(self, closure: Closure, seed: Tensor, p: Tensor, index: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        before = p[index].clone()
        high, low = before + self.scale, before - self.scale
        try:
            p[index] = high
            plus = self._cost(closure, seed, 0)
            p[index] = low
            minus = self._cost(closure, seed, 0)
        finally:
            p[index] = before
        step = high.double() - low.double()  # as it was rounded
        # (1), and the cost in between
        return batch_mean((plus - minus).double().sum(-1)) / step, batch_mean((plus + minus).sum(-1)) / 2
