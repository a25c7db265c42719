"""One node that is called many times in a run is credited as as many nodes that are called once each."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dither

X = torch.linspace(-2, 2, 12, dtype=torch.float64).sin().view(4, 3)


def gradients(build: Any, one: bool, units: tuple[int, ...], terms: bool) -> list[Tensor]:
    torch.manual_seed(0)
    linear, last = nn.Linear(3, 6).double(), nn.Linear(6, 3).double()
    nodes: Any = [dither.Bernoulli()] * 4 if one else [dither.Bernoulli() for _ in range(4)]
    net = nn.ModuleList([linear, last, *nodes])

    def cost() -> Tensor:
        h, costs = X, []
        for node in nodes:
            h = last(node(linear(h).view(4, *units)).flatten(1)).tanh()
            costs.append(h.square().sum(1))
        return torch.stack(costs, 1) if terms else sum(costs[1:], costs[0])

    estimator = build(net)
    results = []
    for _ in range(2):
        loss = estimator(cost)
        results += [loss.detach(), *torch.autograd.grad(loss, [linear.weight, linear.bias, last.weight])]
    return results


@pytest.mark.parametrize("terms", [False, True])
@pytest.mark.parametrize("units", [(6,), (2, 3)])
@pytest.mark.parametrize(
    "build",
    [
        dither.ScoreFunction,
        partial(dither.ScoreFunction, baseline="leave-one-out", samples=3),
        partial(dither.ScoreFunction, baseline="leave-one-out", samples=3, vectorize=False),
        partial(dither.ScoreFunction, baseline="optimal"),
        partial(dither.ScoreFunction, any_order=True),
    ],
    ids=["none", "leave-one-out", "loop", "optimal", "any order"],
)
def test_one_node_of_many_calls_is_many_nodes_of_one(build: Any, units: tuple[int, ...], terms: bool) -> None:
    many = gradients(build, False, units, terms)
    assert all(bool(g.any()) for g in many)
    for one, other in zip(gradients(build, True, units, terms), many, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
