"""The look at a closure's first call: it changes nothing that training sees, tells nothing false, and is not made again."""

from __future__ import annotations

import copy
import itertools
import pickle
import random
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither import Bernoulli, Categorical, DisARM, NoisyReLU, ScoreFunction

NEWS = "what is sampled for some examples"
X = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))


def make_net(*behind: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), Bernoulli(), nn.Linear(4, 2), *behind).to(dtype)


def mixed(h: Tensor) -> Tensor:
    return (h - h.mean(0)).square().sum(1)


def gradients(net: nn.Module, estimator: ScoreFunction, closure: Callable[[], Tensor]) -> list[Tensor]:
    net.zero_grad()
    estimator(closure).backward()
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


class Replaced(nn.Module):
    """Keeps statistics by a new tensor each time."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, h: Tensor) -> Tensor:
        self.seen = self.seen + 1 + h.detach().mean()
        return h


@pytest.mark.parametrize("build", [partial(ScoreFunction, baseline="mean"), partial(DisARM, vectorize=False)])
@pytest.mark.parametrize("terms", [False, True])
def test_a_seeded_run_is_the_same_with_and_without(build: Callable[..., ScoreFunction], terms: bool) -> None:
    """Gradients, the random numbers of all who draw, and running statistics, of the model's modules and of others. With terms
    also beside a closure that is not followed: the gradients are others then, and the numbers the same."""
    results = []
    for examples in ("separate", "checked", "whole"):
        net, head = make_net(Replaced()), nn.Sequential(nn.Linear(2, 2), Replaced())
        aside = nn.BatchNorm1d(3)
        estimator = build(net)
        estimator.examples = "separate" if examples == "whole" else examples
        torch.manual_seed(1), np.random.seed(1), random.seed(1)

        def closure(
            net: nn.Module = net, head: nn.Module = head, aside: nn.Module = aside, local: bool = terms and examples != "whole"
        ) -> Tensor:
            scale = torch.rand(()) + float(np.random.rand()) + random.random()
            cost = head(net(aside(X) * scale)).square()
            return cost if local else cost.sum(1)

        steps = [gradients(net, estimator, closure) for _ in range(3)]
        buffers = [b.clone() for m in (net, head, aside) for b in m.buffers()]
        results.append((steps, buffers, torch.rand(3), np.random.rand(3).tolist(), random.random()))
    checked, whole = zip(*results[:2], strict=True), zip(*(r[1:] for r in results[::2]), strict=True)
    for one, other in (*checked, *whole):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def separate_closures() -> dict[str, tuple[nn.Module, Callable[[], Tensor]]]:
    net, turn = make_net(), itertools.count()
    half, categorical = make_net(dtype=torch.bfloat16), nn.Sequential(nn.Linear(3, 4), Categorical())
    rectifier = nn.Sequential(nn.Linear(3, 4), NoisyReLU(), Bernoulli())
    evaluated, own = make_net(nn.BatchNorm1d(2)).eval(), torch.Generator().manual_seed(0)
    grouped = make_net(nn.LayerNorm(2))
    data = iter([torch.randn(32, 3, generator=own) for _ in range(40)])
    return {
        "batch norm before": (net, lambda: net(X).square().sum(1)),
        "bfloat16": (half, lambda: half(X.bfloat16()).square().sum(1)),
        "large costs": (net, lambda: net(X).square().sum(1) * 1e6 + 1e8),
        "categorical": (categorical, lambda: categorical(X).square().sum(1)),
        "rectifier": (rectifier, lambda: rectifier(X).sum(1)),
        "eval": (evaluated, lambda: evaluated(X).sum(1)),
        "layer norm": (grouped, lambda: grouped(X).square().sum(1)),
        "own generator": (net, lambda: net(X).sum(1) * torch.rand((), generator=own)),
        "alternating": (rectifier, lambda: rectifier(X).sum(1) * (1 + next(turn) % 2)),
        "next batch": (net, lambda: net(next(data)).sum(1)),
        "time behind the batch": (net[3], lambda: net[3](X.unsqueeze(1).expand(32, 32, 3)).sum((1, 2))),
    }


@pytest.mark.parametrize("name", separate_closures())
def test_nothing_false_is_told(name: str) -> None:
    net, closure = separate_closures()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            ScoreFunction(net)(closure)


@pytest.mark.parametrize("batch", [2, 3, 8, 9, 16, 64])
def test_any_two_halves_of_a_batch_that_depend_on_each_other_are_seen(batch: int) -> None:
    """Partners one place, two, half a batch apart, in reverse order."""
    node = Bernoulli()
    for order in (*((torch.arange(batch) + s) % batch for s in (1, 2, batch // 2)), torch.arange(batch - 1, -1, -1)):
        if bool((order == torch.arange(batch)).all()):
            continue
        estimator = ScoreFunction(node)
        with pytest.warns(UserWarning, match=NEWS):
            for _ in range(3):  # few units: the first samples may all be the same
                estimator(lambda order=order: node(X.new_zeros(batch, 4))[order].sum(1))


def test_how_often_a_closure_runs() -> None:
    net, runs = make_net(), 0

    def closure(rows: int = 32) -> Tensor:
        nonlocal runs
        runs += 1
        return net[3:](X[:rows].repeat(1, 2)[:, :4]).square().sum(1)

    def of(estimator: ScoreFunction, *batches: int) -> list[int]:
        nonlocal runs
        counts = []
        for rows in batches:
            runs = 0
            estimator(partial(closure, rows))
            counts.append(runs)
        return counts

    assert of(ScoreFunction(net), 32, 32, 16) == [4, 1, 1]
    assert of(ScoreFunction(net), 1, 1, 32, 32, 32) == [2, 1, 1, 4, 1], "one example: seen to be several after a call"
    evaluated = ScoreFunction(net)
    of(evaluated, 32)
    net.eval()
    assert of(evaluated, 32, 32) == [4, 1], "in another mode anew"
    with torch.no_grad():
        assert of(ScoreFunction(net), 32) == [1], "nothing is credited"
    estimator = ScoreFunction(net)
    estimator.examples = "separate"
    assert of(estimator, 32) == [1]


def test_a_loss_that_a_closure_was_made_with_is_part_of_it() -> None:
    net = make_net()
    estimator = ScoreFunction(net)

    def made(loss: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        return lambda: loss(net(X))

    estimator(made(lambda h: h.square().sum(1)))
    with pytest.warns(UserWarning, match=NEWS):
        estimator(made(mixed))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator(made(mixed))  # told once


def test_the_warning_stands_where_the_estimator_was_called_and_names_the_ways_out() -> None:
    net = make_net(nn.BatchNorm1d(2))
    with pytest.warns(UserWarning) as told:
        ScoreFunction(net)(lambda: net(X).square().sum(1))
    assert told[0].filename == __file__
    for part in ("ScoreFunction", "transpose(0, 1)", ".eval()", "examples = 'mixed'", "'separate'"):
        assert part in str(told[0].message)
    estimator = ScoreFunction(net)
    estimator.examples = "both"  # type: ignore[assignment]
    with pytest.raises(ValueError, match="examples is 'both': it must be 'checked', 'separate' or 'mixed'"):
        estimator(lambda: net(X).sum(1))


def test_copies_and_pickles_know_their_examples() -> None:
    net = make_net()
    estimator = ScoreFunction(net)
    closure = lambda: mixed(net(X))  # noqa: E731
    with pytest.warns(UserWarning, match=NEWS):
        estimator(closure)
    torch.manual_seed(5)
    right = gradients(net, estimator, closure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = copy.deepcopy((net, estimator))
        assert again[1].mixing._known == estimator.mixing._known
        pickle.loads(pickle.dumps(estimator))
    torch.manual_seed(5)
    torch.testing.assert_close(gradients(net, estimator, closure), right, rtol=0, atol=0)


def test_a_vmap_around_and_compiled_code_step_aside() -> None:
    net = nn.Sequential(nn.Linear(3, 4), Bernoulli())
    estimator = ScoreFunction(net)

    def loss(x: Tensor) -> Tensor:
        return estimator(lambda: F.mse_loss(net(x), torch.zeros(4, 4), reduction="none").sum(1))

    assert torch.func.vmap(loss, randomness="different")(torch.randn(2, 4, 3)).shape == (2,)
    assert estimator.mixing._known == {}
