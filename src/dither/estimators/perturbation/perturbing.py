"""Gradients from the cost alone: move the parameters a little and see what the cost does; the model is not back-propagated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dither import noise
from dither.estimators.core.auxiliary import WithAux
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.execution import require_called
from dither.estimators.core.nesting import refuse_shared
from dither.estimators.core.ranks import mean_over_ranks, seed_of_first_rank
from dither.estimators.core.site import Closure, checked_cost
from dither.exact import Oracle
from dither.functional import widen
from dither.nodes import Node, taken_over


class _WithGradient(torch.autograd.Function):
    """0, whose gradient with respect to a parameter is what `make()` returns in the backward pass; nothing is kept for it."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, make: Callable[[], Tensor], like: Tensor) -> Tensor:
        ctx.make = make
        return like.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        gradient = ctx.make()
        return gradient * grad.to(gradient), None, None


def with_gradient(value: Tensor, gradients: Sequence[tuple[Tensor, Callable[[], Tensor]]]) -> Tensor:
    """`value`, with that gradient for each parameter. One graph node per parameter: a gradient that a hook consumes at
    once (an optimizer step in backward) is freed before the next is made."""
    for parameter, make in gradients if torch.is_grad_enabled() else ():
        value = value + _WithGradient.apply(parameter, make, value)
    return value


class Perturbing(Estimator):
    """Base of FiniteDifference and SPSA: runs the closure at moved parameters, with the same noise in the nodes each time.

    Data-parallel ranks take rank 0's seed, so that they move their equal parameters alike, and average the differences of
    the cost over the ranks' examples: every rank has the gradient of the whole batch, wrapped in DistributedDataParallel or
    not, which cannot do it, because the closure runs without a graph. All ranks must make the call.
    """

    unbiased = False
    credits_examples = False
    composable = False
    keeps_graph = False
    records = False
    oracle = Oracle(
        refusal="moves the parameters in place and repeats the nodes' noise, so dither.exact cannot sum over its runs: measure "
        "its bias by many draws, dither.audit(model, closure, {'name': estimator}), or enumerate the cost at moved parameters, "
        "dither.exact.expected_cost(model, closure)"
    )
    former_order = ("scale", "samples")

    def __init__(self, model: nn.Module, *, scale: float, samples: int) -> None:
        super().__init__(model, samples=samples, vectorize=False)
        self.scale = positive(scale, "0.01")
        if not self.perturbed():
            raise ValueError(f"{type(model).__name__} has no parameter with requires_grad=True: there is nothing to perturb")

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        # Empty: the suite enumerates the nodes' noise, drawn once a run and inside vmap; these repeat the same noise at
        # parameters that are moved in place. They are tested against the enumerated cost instead.
        return {}

    def perturbed(self) -> list[nn.Parameter]:
        """The model's parameters that are moved."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def _begin(self) -> Tensor:
        """The seed of a call, and of what its backward pass draws anew."""
        self.calls += 1
        refuse_shared(type(self).__name__, self.nodes)
        seed = noise.draw_seed()
        # Without gradients nothing must agree, and a rank may evaluate by itself.
        return seed_of_first_rank(seed, self.perturbed()[0].device) if torch.is_grad_enabled() else seed

    def _over_ranks(self, derivatives: Tensor) -> Tensor:
        return mean_over_ranks(derivatives) if torch.is_grad_enabled() else derivatives

    def _cost(self, closure: Closure, seed: Tensor, sample: int) -> Tensor:
        """The closure's costs, (batch, terms), with this sample's noise in the nodes, whatever the parameters are."""
        called = 0

        def handler(node: Node, logits: Tensor) -> Tensor:
            nonlocal called
            called += 1
            noise = node.keyed(logits, seed, called - 1, sample)
            if not node.discrete:
                return node.propagate_keyed(logits, noise)
            return node.output(logits, node.sample_keyed(logits, noise))

        with taken_over(self.nodes.values(), handler=handler, only=type(self).__name__):
            cost = widen(checked_cost(closure()).detach())
        require_called(called > 0, self)
        if isinstance(closure, WithAux):
            closure.give_last()
        if not bool(torch.isfinite(cost).all()):
            rows = (~torch.isfinite(cost)).any(-1).nonzero().flatten().tolist()
            raise FloatingPointError(
                f"the cost is not finite for {len(rows)} of {len(cost)} examples (first: example {rows[0]}) in call "
                f"{self.calls} of {type(self).__name__}, at perturbed parameters; noise seed {int(seed)}. Lower the "
                "learning rate or scale; the update was not made"
            )
        return cost


def positive(scale: float, usual: str) -> float:
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
        raise ValueError(f"scale is {scale!r}: the size of the perturbation is a positive number, such as {usual}")
    return float(scale)
