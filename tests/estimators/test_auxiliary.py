"""What a closure returns besides its cost, for every estimator that the library exports."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dither
from dither import estimators, testing
from every_configuration import ROWS

ROWS = ROWS | {"SPSA": partial(dither.SPSA, samples=2, scale=1e-3), "FiniteDifference": dither.FiniteDifference}


class Problem:
    """A net of one Bernoulli or Categorical layer, and a closure that returns its cost and what led to it."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(3)
        one_hot = "CARMS" in name or "Unordered" in name
        node = dither.Categorical() if one_hot else dither.Bernoulli()
        shape = nn.Unflatten(1, (1, 4)) if one_hot else nn.Identity()
        layers = {"a": nn.Linear(3, 4), "shape": shape, "node": node, "flat": nn.Flatten(), "b": nn.Linear(4, 2)}
        self.net = nn.Sequential()
        for key, layer in layers.items():
            self.net.add_module(key, layer)
        self.net.double()
        self.x = torch.randn(5, 3, dtype=torch.float64)

    def __call__(self) -> tuple[Tensor, dict[str, object]]:
        out = self.net(self.x)
        cost = out.tanh().square().sum(1)
        return cost, {"out": out, "cost": cost, "parts": [out[:, 0], "a word"]}


def built(name: str, problem: Problem) -> estimators.Estimator:
    try:
        return ROWS[name](problem.net)
    except (TypeError, ValueError):  # built for other nodes, by names that this net does not have
        pytest.skip("takes no such net")


@pytest.mark.parametrize("name", ROWS)
def test_auxiliary_outputs_are_those_of_the_runs_that_the_loss_is_the_mean_of(name: str) -> None:
    problem = Problem(name)
    estimator = built(name, problem)
    torch.manual_seed(0)
    plain = estimator(lambda: problem()[0])
    torch.manual_seed(0)
    estimator = built(name, problem)
    loss, aux = estimator(problem, has_aux=True)
    assert torch.equal(loss, plain)
    cost = aux["cost"]
    assert aux["out"].shape == (*cost.shape, 2)
    assert torch.equal(aux["out"].tanh().square().sum(-1), cost)
    assert torch.equal(aux["parts"][0], aux["out"][..., 0])
    assert aux["parts"][1] == "a word"
    assert not any(tensor.requires_grad for tensor in (cost, aux["out"]))
    if not estimator.multi_sample and estimator.keeps_graph and name not in ("SPSA", "FiniteDifference"):
        torch.testing.assert_close(cost.mean(), loss.detach(), rtol=1e-12, atol=0)
    if estimator.credits_examples and cost.dim() > 1:
        looped = built(name, problem)
        looped.vectorize = False
        torch.manual_seed(0)
        torch.testing.assert_close(looped(problem, has_aux=True)[1]["out"], aux["out"], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("name", ["ScoreFunction-leave-one-out-3", "DisARM", "MuProp-2", "StraightThrough-sigmoid", "VIMCO-2"])
def test_gradients_flow_through_auxiliary_outputs_where_they_are_asked_for(name: str, vectorize: bool) -> None:
    name = next((row for row in ROWS if row.startswith(name)), name)
    problem = Problem(name)
    estimator = built(name, problem)
    estimator.vectorize = vectorize
    behind = list(problem.net.get_submodule("b").parameters())
    loss, aux = estimator(problem, has_aux=True, detach=False)
    if not estimator.multi_sample:  # behind the node the loss's gradient is that of the mean of these costs
        of_loss = torch.autograd.grad(loss, behind, retain_graph=True)
        of_aux = torch.autograd.grad(aux["cost"].mean(), behind)
        torch.testing.assert_close(of_loss, of_aux, rtol=1e-10, atol=1e-14)
    else:
        assert aux["cost"].requires_grad


def test_a_net_that_stops_early_gives_what_each_of_its_runs_gave() -> None:
    node = dither.Bernoulli()
    logits = torch.zeros(1, 1, requires_grad=True)

    def walk() -> tuple[Tensor, Tensor]:
        steps = 1
        while steps < 20 and node(logits).item() > 0:
            steps += 1
        return torch.full((1,), float(steps)), torch.arange(steps)

    estimator = dither.ScoreFunction(node, baseline="leave-one-out", samples=4, vectorize=False)
    loss, aux = estimator(walk, has_aux=True)
    lengths = [len(a) for a in aux]
    assert loss.item() == sum(lengths) / 4


def test_what_hides_its_tensors_is_refused_and_arrays_are_lists() -> None:
    problem = Problem("")
    estimator = dither.ScoreFunction(problem.net, baseline="leave-one-out", samples=2)

    def hidden() -> tuple[Tensor, object]:
        cost, _ = problem()
        return cost, torch.distributions.Bernoulli(logits=problem.net[0](problem.x))

    with pytest.raises(TypeError, match="aux holds a Bernoulli, whose attribute"):
        estimator(hidden, has_aux=True)
    looped = dither.ScoreFunction(problem.net, baseline="leave-one-out", samples=2, vectorize=False)
    _, aux = looped(lambda: (problem()[0], {"numbers": np.arange(3)}), has_aux=True)
    assert [list(numbers) for numbers in aux["numbers"]] == [[0, 1, 2], [0, 1, 2]]


def test_a_pair_is_taken_as_one_and_anything_else_refused() -> None:
    problem = Problem("")
    estimator = dither.ScoreFunction(problem.net)
    loss, aux = estimator(problem)
    assert aux["cost"].shape == (5,)
    assert loss.requires_grad
    with pytest.raises(TypeError, match=r"has_aux=True it must return \(cost, aux\)"):
        estimator(lambda: problem()[0], has_aux=True)
    with pytest.raises(TypeError, match="returned tuple"):
        estimator(problem, has_aux=False)
    with pytest.raises(TypeError, match="a tuple of 3"):
        estimator(lambda: (*problem(), 1))
    with pytest.raises(ValueError, match="detach is False, but SPSA"):
        dither.SPSA(problem.net)(problem, detach=False)
    with pytest.raises(TypeError, match="closure is Tensor"):
        estimator(problem()[0])


def test_auxiliary_outputs_are_not_kept() -> None:
    problem = Problem("")
    estimator = dither.ScoreFunction(problem.net, baseline="leave-one-out", samples=2)
    assert estimator(problem)[1]["out"].shape == (2, 5, 2)
    assert isinstance(estimator(lambda: problem()[0]), Tensor)


def test_what_proves_and_audits_estimators_takes_the_same_closure() -> None:
    problem = Problem("")
    problem.x = problem.x[:2]
    testing.assert_unbiased(dither.ScoreFunction, problem.net, problem)
    testing.assert_examples_separate(problem.net, problem)
    report = dither.audit(problem.net, problem, [dither.ScoreFunction, dither.Exact], draws=4)
    assert len(report.to_dicts()) > 0
