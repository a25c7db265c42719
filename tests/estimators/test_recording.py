"""A run that the program makes itself: `with estimator.recording():` and `estimator.loss(cost)`."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import dither
from every_configuration import ROWS

X = torch.tensor([[0.3, -1.2, 0.1], [0.8, 0.5, -0.7], [1.0, 0.0, 2.0]], dtype=torch.float64)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.nodes = nn.ModuleList([dither.Bernoulli(), dither.Bernoulli()])
        self.layers = nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(3, 2)])
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        for layer, node in zip(self.layers, self.nodes, strict=False):
            x = node(layer(x))
        return self.layers[2](x).square().sum(1)


@pytest.mark.parametrize("name", ROWS)
def test_a_recorded_run_has_the_loss_and_the_gradient_of_the_closure(name: str) -> None:
    gradients = []
    for recorded in (False, True):
        net = Net()
        try:
            estimator = ROWS[name](net)
        except (TypeError, ValueError):
            pytest.skip("takes no such net")
        parameters = list(net.parameters())
        for seed in range(3):  # the third uses what two calls have taught it
            torch.manual_seed(seed)
            if recorded:
                try:
                    with estimator.recording():
                        cost = net(X)
                except TypeError as error:
                    assert "of a closure: give it one" in str(error)
                    assert estimator.evaluations > 1 or not estimator.records or estimator.runs_depend_on_layout
                    return
                loss = estimator.loss(cost)
            else:
                loss = estimator(lambda net=net: net(X))
            got = torch.autograd.grad(loss, [*parameters, *estimator.parameters()], allow_unused=True)
        gradients.append([loss, *(g for g in got if g is not None)])
    assert len(gradients[0]) == len(gradients[1]) > 3
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_what_a_recorded_run_is_refused() -> None:
    net = Net()
    estimator = dither.ScoreFunction(net)
    with pytest.raises(RuntimeError, match=r"loss\(\) before a run"):
        estimator.loss(net(X))
    with pytest.raises(RuntimeError, match="no_grad"), torch.no_grad(), estimator.recording():
        pass
    with estimator.recording():
        cost = net(X)
    with pytest.raises(RuntimeError, match=r"again before loss\(\)"):
        estimator.recording()
    with pytest.raises(RuntimeError, match="recorded run"):
        copy.deepcopy(estimator)
    assert estimator.loss(cost).requires_grad
    with pytest.raises(ZeroDivisionError), estimator.recording():
        raise ZeroDivisionError
    with estimator.recording():  # one that failed is forgotten
        cost = net(X[:0])
    assert estimator.loss(cost) == 0
    with estimator.recording():
        cost = net(X)
    with pytest.raises(ValueError, match="scalar cost"):
        estimator.loss(cost.mean())
    with estimator.recording():
        hidden = net.layers[0](X)
        cost = net.nodes[0](hidden).sum(1)
        hidden += 1
    with pytest.raises(RuntimeError, match="changed in place"):
        estimator.loss(cost)
    other = nn.Sequential(nn.Linear(3, 1), dither.Bernoulli()).double()
    with pytest.raises(RuntimeError, match="does not cover it"), estimator.recording():
        other(X)
    with estimator.recording():
        cost = X.sum(1)
    with pytest.raises(ValueError, match="called none of the nodes"):
        estimator.loss(cost)


def test_episodes_refuse_logits_that_change_after_a_decision() -> None:
    policy = nn.Sequential(nn.Linear(3, 2), dither.Bernoulli()).double()
    episodes = dither.Episodes(policy)
    for late in (False, True):
        with pytest.raises(RuntimeError, match="changed in place"):
            with episodes.acting():
                logits = policy[0](X)
                policy[1](logits)
                if not late:
                    logits += 1
            episodes.reward(torch.ones(3))
            logits += 1
            episodes.loss()
        episodes.reset()
