"""What a position is tried on: an estimator on a tiny net, whose exact gradient is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dither import exact
from dither.testing._checks import Build
from dither.testing._means import assert_mean
from dither.testing._tiny import Make, Tiny
from dither.testing._unbiased import TOLERANCE, objective

Closure = Callable[[], Tensor]
ClosureOf = Callable[[Tiny], Closure]
MAX_OUTCOMES = 1 << 12
DRAWS = 4000
COMPARISONS = 10_000  # of a whole suite: 50 estimators, two nodes, ten positions, and some entries of a gradient


@dataclass(frozen=True)
class Subject:
    """build: of the estimator; make: of a node; depth: of the net; enumerable: the same, as deep as can be enumerated."""

    build: Build
    make: Make
    depth: int
    enumerable: int

    def estimator(self, rows: int = 1, build: Build | None = None, **options: Any) -> Any:
        """One on a net of its own, `estimator.model`."""
        return (build or self.build)(Tiny(self.make, rows=rows, **{"depth": self.depth, **options}))

    def check(self, of: ClosureOf, plain: ClosureOf | None = None, rows: int = 1, **options: Any) -> None:
        """Raise AssertionError unless the expectation of the estimator, with the closure `of(model)`, is the exact gradient of
        the cost `plain(model)`; by enumeration, or by a z-test where there are too many outcomes."""
        estimator = self.estimator(rows, **{"depth": self.enumerable, **options})
        warm(estimator, of(estimator.model))
        try:
            assert_enumerated(estimator, of(estimator.model), (plain or of)(estimator.model))
        except exact.TooManyOutcomes:
            self.draw(of, plain, **options)

    def check_in_turn(self, closures: Iterable[ClosureOf]) -> None:
        """Likewise with one estimator for one closure after another, on the net in its whole depth."""
        drawn = self.enumerable < self.depth
        estimator = self.estimator(DRAWS if drawn else 1, separate=drawn)
        for of in closures:
            closure = of(estimator.model)
            warm(estimator, closure)
            if drawn:
                self.assert_drawn(estimator, exact.parameter_gradients(estimator(closure), estimator.model.parameters()), of)
            else:
                assert_enumerated(estimator, closure, closure)

    def draw(
        self,
        of: ClosureOf,
        plain: ClosureOf | None = None,
        prepare: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        """By a z-test, of noise as in training. prepare: what is done to the estimator before it runs."""
        estimator = self.estimator(DRAWS, separate=True, **options)
        if prepare is not None:
            prepare(estimator)
        closure = of(estimator.model)
        warm(estimator, closure)
        torch.manual_seed(1)
        loss = estimator(closure)
        torch.rand(3, dtype=torch.float32, device="cpu")  # torch's generator has moved on by the time of the backward pass
        self.assert_drawn(estimator, exact.parameter_gradients(loss, estimator.model.parameters()), plain or of, **options)

    def assert_drawn(self, estimator: Any, gradients: Iterable[Tensor], plain: ClosureOf, **options: Any) -> None:
        """Raise unless the rows of the gradients have the exact one as their mean."""
        one = self.estimator(separate=True, **options)
        expected = expectation(one, plain(one.model))
        for gradient, (name, exactly) in zip(gradients, expected.items(), strict=True):
            draws = gradient.double().reshape(len(gradient), -1) * len(gradient)
            if bool((draws - draws[0]).abs().max() < 1e-5):  # it does not depend on the noise, but for rounding
                assert_close(name, draws[0], exactly[0].flatten().double(), 1e-5)
            else:
                assert_mean(draws, exactly[0].flatten(), comparisons=COMPARISONS)


def subject(build: Build, make: Make, depth: int = 2) -> Subject:
    """With enumeration as deep as the estimator's outcomes can be summed. Raises ValueError for an estimator that is not
    declared unbiased."""
    if depth not in (1, 2):
        raise ValueError(f"depth is {depth}: the tiny net has one node or two")
    for enumerable in range(depth, 0, -1):
        tried = Subject(build, make, depth, enumerable)
        estimator = tried.estimator(depth=enumerable)
        if not estimator.unbiased:
            raise ValueError(
                f"{type(estimator).__name__} declares unbiased = False: in positions an estimator is held against the exact "
                "gradient; testing.check_estimator looks at what it declares"
            )
        if enumerable == 1 or exact.outcomes(estimator, estimator.model.cost) <= MAX_OUTCOMES:
            break
    return tried


def expectation(estimator: Any, closure: Closure) -> dict[str, Tensor]:
    """The exact gradient that the estimator is to have in the mean."""
    return exact.gradient(estimator.model, objective(estimator, closure), max_outcomes=MAX_OUTCOMES)


def warm(estimator: Any, closure: Closure) -> None:
    """A call as in training: baselines have learned, runs went through their vmap."""
    torch.manual_seed(0)
    estimator(closure)


def assert_enumerated(estimator: Any, closure: Closure, plain: Closure) -> None:
    """Raise unless the enumerated expectation of the estimator is the exact gradient of the plain cost."""
    expected = expectation(estimator, plain)
    mean = exact.moments(estimator, closure, max_outcomes=MAX_OUTCOMES, frozen=False, variance=False).mean
    tolerance = max(TOLERANCE, getattr(estimator, "oracle", exact.Oracle(accuracy=0.0)).accuracy)
    for name, exactly in expected.items():
        assert_close(name, mean[name], exactly, tolerance if exactly.dtype == torch.float64 else 1e-5)


def assert_close(name: str, value: Tensor, exactly: Tensor, tolerance: float) -> None:
    error = (value - exactly).abs()
    if not bool((error <= tolerance * exactly.abs().clamp(min=1.0)).all()):
        raise AssertionError(f"d/d {name} has expectation {value.tolist()}, the exact gradient is {exactly.tolist()}")


def assert_equal_calls(one: Any, other: Any, closure_of: ClosureOf) -> None:
    """Raise unless two estimators, each on its own model, give the same gradient by the same seed."""
    gradients: list[list[Tensor]] = []
    for estimator in (one, other):
        torch.manual_seed(2)
        loss = estimator(closure_of(estimator.model))
        gradients.append(list(exact.parameter_gradients(loss, exact.trainable(estimator.model).values())))
    if not all(torch.equal(a, b) for a, b in zip(*gradients, strict=True)):
        raise AssertionError(f"by the same seed one gives {gradients[0]}, the other {gradients[1]}")
