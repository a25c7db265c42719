"""Gradients from the cost alone: move the parameters a little and see what the cost does; the model is not back-propagated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dither import noise
from dither.estimators._estimator import Estimator
from dither.estimators._site import Closure, checked_cost
from dither.functional._bernoulli import widen
from dither.nodes import Node, taken_over
from dither.noise import Keyed


class _Given(torch.autograd.Function):
    """0, whose gradient with respect to a parameter is what `make()` returns in the backward pass; nothing is kept for it."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, make: Callable[[], Tensor], like: Tensor) -> Tensor:
        ctx.make = make
        return like.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        made = ctx.make()
        return made * grad.to(made), None, None


def with_gradient(value: Tensor, gradients: Sequence[tuple[Tensor, Callable[[], Tensor]]]) -> Tensor:
    """`value`, with the given gradient for each parameter. One graph node per parameter: a gradient that a hook consumes at
    once (an optimizer step in backward) is freed before the next is made."""
    for parameter, make in gradients if torch.is_grad_enabled() else ():
        value = value + _Given.apply(parameter, make, value)
    return value


class Perturbing(Estimator):
    """Base of FiniteDifference and SPSA: runs the closure at moved parameters, with the same noise in the nodes each time."""

    unbiased = False
    composable = False

    def __init__(self, model: nn.Module, scale: float, samples: int) -> None:
        super().__init__(model, samples=samples, vectorize=False)
        self.scale = positive(scale, "0.01")
        if not self._parameters():
            raise ValueError(f"{type(model).__name__} has no parameter with requires_grad=True: there is nothing to perturb")

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        # Empty: the suite enumerates the nodes' noise, drawn once a run and inside vmap; these repeat the same noise at
        # parameters that are moved in place. They are tested against the enumerated cost instead.
        return {}

    def respond(self, node: Node, logits: Tensor, noise: Tensor | Keyed) -> tuple[Tensor, Tensor | None]:
        if not node.discrete:
            return node.propagate(logits, noise), None
        return node.emit(logits, node.outcome(logits, noise)), None

    def _parameters(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def _begin(self) -> None:
        self.calls += 1
        self._seed = noise.draw_seed()

    def _cost(self, closure: Closure, sample: int) -> Tensor:
        """The closure's costs, (batch, terms), with this sample's noise in the nodes, whatever the parameters are."""
        called = 0

        def handler(node: Node, logits: Tensor) -> Tensor:
            nonlocal called
            called += 1
            return self.respond(node, logits, node.draw(logits, self._seed, called - 1, sample))[0]

        with taken_over(self.nodes.values(), _handler=handler):
            cost = widen(checked_cost(closure()).detach())
        if not called:
            raise ValueError(
                f"the closure called none of the nodes of the model that {type(self).__name__} was built on "
                f"({', '.join(self.nodes)}): build the estimator on the model that the closure runs"
            )
        if not bool(torch.isfinite(cost).all()):
            rows = (~torch.isfinite(cost)).any(-1).nonzero().flatten().tolist()
            raise FloatingPointError(
                f"the cost is not finite for {len(rows)} of {len(cost)} examples (first: example {rows[0]}) in call "
                f"{self.calls} of {type(self).__name__}, at perturbed parameters; noise seed {int(self._seed)}. Lower the "
                "learning rate or scale; the update was not made"
            )
        return cost


class FiniteDifference(Perturbing):
    """Central differences of the cost, one parameter at a time: the plain yardstick, for small models.

    Estimates   d E[L] / d theta for every parameter of the model with requires_grad; bias O(scale^2).
    Formula     (L(theta + c e_i) - L(theta - c e_i)) / (2 c) for each i, c = scale; mean over the batch.
    Noise       all evaluations have the same noise in the nodes (common random numbers); as with SPSA the variance grows like
                1 / scale where units are hard, but not with the number of parameters.
    Value       the mean cost of the perturbed nets.
    Requires    2 evaluations per parameter; any cost. Parameters come back bit by bit.
    Raises      ValueError above max_parameters.
    Reference   the approximation that "appear[s] hopelessly inefficient" in Bengio 2013, Sec. 1; Kiefer & Wolfowitz 1952.
    """

    reference = "Kiefer & Wolfowitz 1952"

    def __init__(self, model: nn.Module, scale: float = 0.01, max_parameters: int = 2000) -> None:
        super().__init__(model, scale, 1)
        if self.evaluations > 2 * max_parameters:
            raise ValueError(
                f"{type(model).__name__} has {self.evaluations // 2} trainable parameters, max_parameters is {max_parameters}: "
                f"a call would evaluate the closure {self.evaluations} times; use dither.SPSA, which needs two, or raise it"
            )

    @property
    def evaluations(self) -> int:
        return 2 * sum(p.numel() for p in self._parameters())

    def __call__(self, closure: Closure) -> Tensor:
        self._begin()
        values, gradients = [], []
        for p in self._parameters():
            gradient = torch.zeros_like(p, requires_grad=False)
            for index in product(*map(range, p.shape)):
                gradient[index], value = self._slope(closure, p, index)
                values.append(value)
            gradients.append((p, lambda gradient=gradient: gradient))
        return with_gradient(torch.stack(values).mean(), gradients)

    @torch.no_grad()
    def _slope(self, closure: Closure, p: Tensor, index: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        before = p[index].clone()
        high, low = before + self.scale, before - self.scale
        try:
            p[index] = high
            plus = self._cost(closure, 0)
            p[index] = low
            minus = self._cost(closure, 0)
        finally:
            p[index] = before
        step = high.double() - low.double()  # as it was rounded
        return (plus - minus).double().sum(-1).mean() / step, (plus + minus).sum(-1).mean() / 2


def positive(scale: float, usual: str) -> float:
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
        raise ValueError(f"scale is {scale!r}: the size of the perturbation is a positive number, such as {usual}")
    return float(scale)
