"""Where vmap cannot take a closure it is run in a loop: from the state before, told once and remembered."""

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dither

X = torch.linspace(-2, 2, 12).sin().view(4, 3)


def make_net(*behind: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), dither.Bernoulli(), *behind, nn.Linear(5, 1))


def estimator_of(net: nn.Module, vectorize: Any = "auto", kind: Any = dither.ScoreFunction) -> Any:
    options: Any = {"baseline": "leave-one-out"} if kind is dither.ScoreFunction else {}
    estimator = kind(net, samples=3, vectorize=vectorize, **options)
    estimator.examples = "separate"
    return estimator


def told(call: Callable[[], Any]) -> list[Any]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [warning for warning in caught if "one after the other" in str(warning.message)]


def test_a_closure_is_told_of_once_and_run_in_a_loop_at_once_from_then_on() -> None:
    net, runs = make_net(nn.BatchNorm1d(5)), []
    estimator, other = estimator_of(net), estimator_of(net)

    def closure() -> Tensor:
        runs.append(1)
        return net(X).squeeze(1)

    assert len(told(lambda: estimator(closure))) == 1 and len(runs) == 4
    assert not told(lambda: [estimator(closure) for _ in range(2)]) and len(runs) == 10
    assert len(told(lambda: estimator(lambda: net(X).square().squeeze(1)))) == 1, "of another closure it is news"
    assert not told(lambda: pickle.loads(pickle.dumps(copy.deepcopy(estimator))))
    net.eval()
    assert not told(lambda: estimator(closure)) and len(runs) == 11, "in evaluation batch norm is mapped"
    (warning,) = told(lambda: other(lambda: net.train()(X).squeeze(1)))
    assert warning.filename == __file__ and "in BatchNorm1d at `(warning,) = told(" in str(warning.message)


def test_random_numbers_and_buffers_are_those_of_a_loop() -> None:
    """What the run that failed has changed is put back: numbers of torch and numpy, statistics before and behind the node."""

    def run(vectorize: Any) -> list[Tensor]:
        net, before = make_net(nn.BatchNorm1d(5)), nn.BatchNorm1d(3)
        torch.manual_seed(3)
        np.random.seed(3)

        def closure() -> Tensor:
            return net(before(X) * torch.rand(()) * float(np.random.rand())).squeeze(1)

        estimator, results = estimator_of(net, vectorize), []
        for _ in range(3):
            loss = estimator(closure)
            results += [loss.detach(), *torch.autograd.grad(loss, list(net.parameters())), torch.rand(())]
        return [*results, *(b.clone() for m in (net, before) for b in m.buffers()), torch.tensor(np.random.rand())]

    looped = run(False)
    with pytest.warns(UserWarning, match="one after the other"):
        actual = run("auto")
    for one, other in zip(actual, looped, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_closure_that_was_mapped_and_cannot_be_any_more() -> None:
    """The mode of one layer is no part of what a closure is remembered by."""
    results = []
    for vectorize in ("auto", False):
        net, before = make_net(nn.BatchNorm1d(5)), nn.BatchNorm1d(3)
        net[2].eval()
        estimator = estimator_of(net, vectorize)

        def closure(net: nn.Module = net, before: nn.Module = before) -> Tensor:
            return net(before(X)).squeeze(1)

        assert not told(lambda e=estimator, c=closure: e(c))
        before.reset_running_stats()
        net[2].train()
        assert len(told(lambda e=estimator, c=closure: e(c))) == (vectorize == "auto")
        results.append([*before.buffers(), *net[2].buffers()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [dither.ScoreFunction, dither.DoubleCV, dither.StraightThrough])
def test_an_error_of_the_closure_is_its_own(kind: Any) -> None:
    net, runs = make_net(), []

    def wrong() -> Tensor:
        runs.append(1)
        return net(X) @ torch.ones(7)

    estimator = estimator_of(net, kind=kind)
    warned = []
    for _ in range(2):
        with pytest.raises(RuntimeError) as caught:
            warned += told(lambda: estimator(wrong))
        assert "vmap" not in str(caught.value) and caught.value.__context__ is None
    assert not warned
    torch.testing.assert_close(estimator(lambda: net(X).squeeze(1)).detach().isfinite(), torch.tensor(True))


def test_what_no_closure_may_do_is_not_tried_again() -> None:
    net, runs = make_net(), []

    def uncovered() -> Tensor:
        runs.append(1)
        return dither.Bernoulli()(net(X)).squeeze(1)

    with pytest.raises(RuntimeError, match="does not cover it"):
        estimator_of(net)(uncovered)
    assert len(runs) == 1


def test_exact_walks_where_a_vmap_cannot() -> None:
    net = make_net()
    losses = []
    for walks, scale in ((True, lambda h: 2 if h.sum().item() > 1 else 1), (False, lambda h: torch.where(h.sum() > 1, 2, 1))):

        def closure(scale: Any = scale) -> Tensor:
            h = net[1](net[0](torch.ones(1, 3)))
            return (net[2](h) * scale(h)).squeeze(1)

        assert len(told(lambda c=closure: losses.append(dither.Exact(net)(c)))) == walks
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("vectorize", [None, "vmap", 1, "rows"])
def test_other_words_are_refused(vectorize: Any) -> None:
    with pytest.raises(ValueError, match='must be "auto"'):
        dither.DisARM(make_net(), vectorize=vectorize)
