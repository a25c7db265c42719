"""Gradients from the cost alone: move the parameters a little and see what the cost does; the model is not back-propagated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dither import noise
from dither.estimators._estimator import Estimator
from dither.estimators._site import Closure, checked_cost
from dither.functional._bernoulli import widen
from dither.nodes import Node, taken_over

_CHUNK = 1 << 20  # elements of a direction that are drawn at once: the generator's workspace is some tens of bytes for each


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


def with_gradient(value: Tensor, gradients: list[tuple[Tensor, Callable[[], Tensor]]]) -> Tensor:
    """`value`, with the given gradient for each parameter. One graph node per parameter: a gradient that a hook consumes at
    once (an optimizer step in backward) is freed before the next is made."""
    for parameter, make in gradients if torch.is_grad_enabled() else ():
        value = value + _Given.apply(parameter, make, value)
    return value


class _Perturbing(Estimator):
    """What the two share: evaluations of the closure at moved parameters, all with the same noise in the nodes."""

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

    def respond(self, node: Node, logits: Tensor, noise: Tensor) -> tuple[Tensor, Tensor | None]:
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


class SPSA(_Perturbing):
    """Simultaneous perturbation: the slope of the cost along a random direction of all parameters, times that direction.

    Estimates   d E[L] / d theta for every parameter of the model with requires_grad; bias O(scale^2) (central differences).
    Formula     (L(theta + c D) - L(theta - c D)) / (2 c) D,  c = scale, D of independent +-1 ("rademacher") or standard
                normal entries; mean over the batch and K samples, each with a direction of its own. With the normal it is
                exactly unbiased for the cost smoothed by that noise, E_D[E[L(theta + c D)]].
    Noise       both evaluations of a pair have the same noise in the nodes. Hard units flip with probability O(c), so the
                variance grows like 1 / scale (it would be 1 / scale^2 with fresh noise), and like the number of parameters:
                prefer a larger scale than for a smooth net. In half precision scale must exceed the parameters' resolution.
    Value       the loss's value is the mean cost of the perturbed nets, not of theta itself.
    Memory      that of inference: the closure runs without a graph, D is drawn anew from its key whenever it is needed,
                also in the backward pass, one tensor at a time.
    exact_restore  True: a copy of the parameters is kept during the call and they come back bit by bit, also when the closure
                raises. False: no copy; the steps +c D, -2 c D, +c D are undone by replay, which leaves rounding errors of
                about an ulp of max(|theta|, c) per call and parameter, a random walk.
    Requires    2 samples evaluations of the closure; any cost, differentiable or not. Everything that depends on a parameter's
                value counts, also through .detach() or .item(); parameters outside the model get no gradient.
    Reference   Spall 1992; Malladi et al. 2023 (MeZO) for the replayed direction; Nesterov & Spokoiny 2017 for the normal.
    """

    reference = "Spall 1992"

    def __init__(
        self,
        model: nn.Module,
        scale: float = 0.01,
        samples: int = 1,
        distribution: Literal["rademacher", "normal"] = "rademacher",
        *,
        exact_restore: bool = True,
    ) -> None:
        super().__init__(model, scale, samples)
        if distribution not in ("rademacher", "normal"):
            raise ValueError(f"distribution is {distribution!r}: it must be 'rademacher' or 'normal'")
        self.distribution = distribution
        self.exact_restore = exact_restore

    @property
    def evaluations(self) -> int:
        return 2 * self.samples

    def __call__(self, closure: Closure) -> Tensor:
        self._begin()
        parameters, slopes, values = self._parameters(), [], []
        for k in range(self.samples):
            with torch.no_grad(), self._moving(parameters, k) as move_to:
                move_to(self.scale)
                plus = self._cost(closure, k)
                move_to(-self.scale)
                minus = self._cost(closure, k)
            slopes.append((plus - minus).double().sum(-1).mean() / (2 * self.scale))
            values.append((plus + minus).sum(-1).mean() / 2)
        seed = int(self._seed)

        def replayed(number: int, p: Tensor) -> Tensor:
            with torch.no_grad():
                total = torch.zeros_like(p)
                for k, slope in enumerate(slopes):
                    total.add_(self.direction(seed, number, p, k).mul_((slope / len(slopes)).to(p)))
                return total

        gradients = [(p, lambda i=i, p=p: replayed(i, p)) for i, p in enumerate(parameters)]
        return with_gradient(torch.stack(values).mean(), gradients)

    def direction(self, seed: int, number: int, like: Tensor, sample: int) -> Tensor:
        """The entries of D for trainable parameter `number` of the model, whose shape and dtype `like` has."""
        key = torch.tensor(noise.step_seed(seed, number))  # apart from the keys of the nodes' noise
        flat = torch.empty(like.numel(), dtype=like.dtype, device=like.device)
        for chunk, part in enumerate(flat.split(_CHUNK)):
            draw = noise.uniform if self.distribution == "rademacher" else noise.normal
            with noise.examples(torch.tensor([chunk])):  # whatever the ids of the user's batch are
                drawn = draw(key, 0, torch.tensor(sample), (1, part.numel()), part)[0]
            part.copy_(torch.where(drawn < 0.5, -1.0, 1.0) if self.distribution == "rademacher" else drawn)
        return flat.view(like.shape)

    @contextmanager
    def _moving(self, parameters: list[nn.Parameter], sample: int) -> Iterator[Callable[[float], None]]:
        """Gives a function that puts the parameters at theta + c D; on leaving they are at theta."""
        saved = [p.detach().clone() for p in parameters] if self.exact_restore else None
        seed, at = int(self._seed), 0.0

        def move_to(c: float) -> None:
            nonlocal at
            for i, p in enumerate(parameters):
                start = p if saved is None else p.copy_(saved[i])
                start.add_(self.direction(seed, i, p, sample), alpha=c - at if saved is None else c)
            at = c

        try:
            yield move_to
        finally:
            if saved is None:
                move_to(0.0)
            else:
                for p, before in zip(parameters, saved, strict=True):
                    p.copy_(before)


class FiniteDifference(_Perturbing):
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
