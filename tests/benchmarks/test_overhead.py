"""The hand-written steps do the work that they are compared for: from the same noise they make dither's gradient."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dither.benchmarks.by_hand import HAND, Hand, keyed_uniform
from dither.benchmarks.overhead import BY_HAND, OWN_NOISE, Config, built, problem, run

SMALL = Config(samples=4, batch_size=5, pixels=12, latents=6, repeats=2, peers=False)


@pytest.mark.parametrize("method", HAND)
def test_from_the_same_noise_the_gradient_is_the_same(method: str) -> None:
    model, x = problem(SMALL)
    estimator = built(method, model, SMALL.samples)
    hand = Hand(model, x, SMALL.samples, keyed_uniform(x, SMALL.latents))
    gradients = []
    for loss in (lambda: estimator(lambda: model.cost(x)), lambda: HAND[method](hand)):
        torch.manual_seed(1)
        for _ in range(2):  # DisARM learns the layout, the running mean its first cost
            gradients.append(torch.autograd.grad(loss(), list(model.parameters())))
    for ours, theirs in zip(gradients[1], gradients[3], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_row_for_every_method_and_implementation() -> None:
    rows = run(SMALL, Path(), lambda text: None)["rows"]
    names = [(row["method"], row["implementation"]) for row in rows]
    assert names == [(method, name) for method in HAND for name in ("dither", BY_HAND, OWN_NOISE)]
    assert all(row["times_hand"] == 1 for row in rows if row["implementation"] == BY_HAND)


def test_peers_that_are_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pyro", "storch"):
        monkeypatch.setitem(sys.modules, name, None)
    notes: list[str] = []
    rows = run(replace(SMALL, methods=("score-function:mean",), peers=True), Path(), notes.append)["rows"]
    assert len(rows) == 3 and ["left out" in note for note in notes] == [False, True, True]


def test_unknown_methods_and_odd_samples_are_named() -> None:
    with pytest.raises(ValueError, match="there are those of score-function:leave-one-out"):
        run(replace(SMALL, methods=("magic",)), Path())
    with pytest.raises(ValueError, match="samples is 3"):
        run(replace(SMALL, samples=3), Path())
