"""Positions of programs: the ambient state of torch, copies, threads, other estimators, and ways of running."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dither import noise
from dither.estimators import PerNode, ScoreFunction
from dither.testing._subject import DRAWS, Closure, Subject, assert_close, assert_enumerated, assert_equal_calls, warm
from dither.testing._threads import Company
from dither.testing._tiny import Tiny, terms


def _cost(model: Tiny) -> Closure:
    return model.cost


def plain(s: Subject) -> None:
    s.check(_cost)
    s.draw(_cost)


# --- the ambient state of torch -----------------------------------------------------------------------------------------
def under_default(default: torch.dtype, dtype: torch.dtype, s: Subject) -> None:
    with _default_dtype(default):
        s.check(_cost, dtype=dtype)
        s.draw(_cost, dtype=dtype)


def default_device(s: Subject) -> None:
    with torch.device("meta"):
        s.check(_cost)
        s.draw(_cost)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()  # ambient: put back
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# --- copies, threads, other estimators ------------------------------------------------------------------------------------
def duplicated(duplicate: Callable[[Any], Any], s: Subject) -> None:
    original = s.estimator(depth=s.enumerable)
    warm(original, original.model.cost)
    twin = duplicate(original)
    assert_equal_calls(original, twin, _cost)
    for estimator in (twin, original):
        assert_enumerated(estimator, estimator.model.cost, estimator.model.cost)


def threads(s: Subject) -> None:
    estimator = s.estimator(depth=s.enumerable)
    model: Tiny = estimator.model
    warm(estimator, model.cost)

    def cost() -> Tensor:
        company.work()
        return model.cost()

    for leaves_early in (False, True):
        with Company(s, model, leaves_early) as company:
            assert_enumerated(estimator, cost, model.cost)


def inside_per_node(s: Subject) -> None:
    other = partial(ScoreFunction, samples=s.estimator().samples)
    for first, second in ((s.build, other), (other, s.build)):
        within = partial(PerNode, estimators={"nodes.0": first, "nodes.1": second})
        Subject(within, s.make, 2, 2).check(_cost)


# --- ways of running ----------------------------------------------------------------------------------------------------------
def vectorized(vectorize: bool, s: Subject) -> None:
    s.draw(_cost, prepare=partial(_set, vectorize))


def compiled_model(s: Subject) -> None:
    torch._dynamo.reset()
    try:
        s.draw(_compiled, _cost)
    finally:
        torch._dynamo.reset()


def checkpointed(vectorize: bool, s: Subject) -> None:
    """In a vmap no region outlives the call: then the runs are made one after the other, with a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* one after the other, .* activation checkpoint")
        s.draw(_checkpointed, _cost, partial(_set, vectorize))


def no_unit_dimension(s: Subject) -> None:
    for rows in (1, 2):
        Subject(s.build, s.make, 1, 1).check(_cost, rows=rows, units=())


def accumulation(s: Subject) -> None:
    """A window of micro-batches is one call of the concatenated batch, example by example with the same noise; if the estimator
    says that it learns from one micro-batch for the next, their gradient has the exact one as its mean at least."""
    if getattr(s.estimator(), "moves_in_windows", False):
        return _accumulated_draws(s)
    rows = torch.arange(12, dtype=torch.int64, device="cpu")
    whole, parts = s.estimator(len(rows)), s.estimator(len(rows))
    for estimator in (whole, parts):
        warm(estimator, estimator.model.cost)
    for step in range(2):
        gradients = []
        for estimator, window in ((whole, [rows]), (parts, rows.split([1, 8, 3]))):
            model = estimator.model
            model.zero_grad()
            for micro in window:
                torch.manual_seed(step)
                with noise.examples(micro):
                    (estimator(partial(model.cost, micro)) * (len(micro) / len(rows))).backward()
            gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
            torch.optim.SGD(model.parameters(), 0.3).step()
        for name, exactly in gradients[0].items():
            assert_close(name, gradients[1][name], exactly, 1e-12)


def _accumulated_draws(s: Subject) -> None:
    estimator = s.estimator(DRAWS, separate=True)
    model: Tiny = estimator.model
    warm(estimator, model.cost)
    for micro in torch.arange(DRAWS, dtype=torch.int64, device="cpu").split(DRAWS // 2):
        (estimator(partial(model.cost, micro)) / 2).backward()
    s.assert_drawn(estimator, [p.grad for p in model.parameters() if p.grad is not None], _cost)


def _set(vectorize: bool, estimator: Any) -> None:
    estimator.vectorize = vectorize


def _compiled(model: Tiny) -> Closure:
    run = torch.compile(model, backend="eager")
    return lambda: terms(run()).sum(1)


def _checkpointed(model: Tiny) -> Closure:
    return lambda: terms(checkpoint(model, use_reentrant=False, preserve_rng_state=False)).sum(1)
