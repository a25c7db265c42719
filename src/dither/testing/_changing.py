"""Positions of closures: that change in place what an estimator keeps, and that do something else from call to call."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from dither.exact import parameter_gradients
from dither.testing._subject import Closure, Subject, warm
from dither.testing._tiny import Tiny, terms


# --- memory -------------------------------------------------------------------------------------------------------------
def output_in_place(s: Subject) -> None:
    s.check(partial(_through, _residual_in_place), partial(_through, _residual))


def logits_in_place(s: Subject) -> None:
    s.check(partial(_through, _changes_logits), _cost)


def before_the_cost(s: Subject) -> None:
    s.check(_sum_changed_in_place, _sum_changed)


def _cost(model: Tiny) -> Closure:
    return model.cost


def _through(after: Callable[[Tensor, Tensor], Tensor], model: Tiny) -> Closure:
    return lambda: terms(model(after=after)).sum(1)


def _residual_in_place(h: Tensor, logits: Tensor) -> Tensor:
    h *= 1.5
    h += 0.4 * logits
    return h


def _residual(h: Tensor, logits: Tensor) -> Tensor:
    return 1.5 * h + 0.4 * logits


def _changes_logits(h: Tensor, logits: Tensor) -> Tensor:
    logits.mul_(-2.0)
    return h


def _sum_changed_in_place(model: Tiny) -> Closure:
    def cost() -> Tensor:
        numbers = model()
        numbers.add_(0.1)
        parts = terms(numbers)
        total = parts.sum(1)
        parts.mul_(3.0)
        return total.mul_(1.5)

    return cost


def _sum_changed(model: Tiny) -> Closure:
    return lambda: 1.5 * terms(model() + 0.1).sum(1)


# --- from call to call --------------------------------------------------------------------------------------------------
def alternating(s: Subject) -> None:
    s.check_in_turn([partial(_connected, *pair) for pair in ((0, 1), (1, 0)) * 2])


def random_windows(s: Subject) -> None:
    s.check_in_turn([partial(_window, start) for start in (0, 1, 1, 0)])
    estimator = s.estimator(1000, separate=True)
    if estimator.oracle.enumerates:
        return  # it runs the closure on every outcome, each with a window of its own
    seen: list[int] = []
    closure, before = _moving_window(seen, estimator.model), random.getstate()
    random.seed(0)
    try:
        warm(estimator, closure)
        for _ in range(4):
            seen.clear()
            loss = estimator(closure)
            s.assert_drawn(estimator, parameter_gradients(loss, estimator.model.parameters()), partial(_window, seen[0]))
    finally:
        random.setstate(before)


def _parts(first: Tensor, second: Tensor) -> Tensor:
    """Two terms, (rows, 2), of one number each."""
    return torch.stack((torch.sin(1.3 * first - 0.6), 0.5 * (second + 0.3).square() + second), 1)


def _connected(first: int, second: int, model: Tiny) -> Closure:
    def cost() -> Tensor:
        u = model.units()
        return _parts(u[:, first % u.shape[1]], u[:, second % u.shape[1]])

    return cost


def _window(start: int, model: Tiny) -> Closure:
    def cost() -> Tensor:
        u = model.units()
        window = u[:, start % u.shape[1] :][:, :1].squeeze(1)
        return _parts(window, window)

    return cost


def _moving_window(seen: list[int], model: Tiny) -> Closure:
    """Where it starts is chosen inside; the first of `seen` is that of the latest call."""

    def cost() -> Tensor:
        seen.append(random.randrange(2))
        return _window(seen[-1], model)()

    return cost
