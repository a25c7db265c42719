"""Batches of no example: every estimator with every kind of node gives a loss of 0 and gradients of 0, and learns nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from dither import SPSA, Bernoulli, Categorical, NoisyReLU, ScoreFunction, StochasticPool2d, estimators
from dither.nodes import Node

CLASSES = [c for c in vars(estimators).values() if isinstance(c, type) and issubclass(c, estimators.Estimator)]
ROWS = {
    name: build
    for c in CLASSES
    if not inspect.isabstract(c) and c is not estimators.PerNode
    for name, build in c.configurations().items()
} | {
    "SPSA": SPSA,
    "FiniteDifference": partial(estimators.FiniteDifference, max_parameters=100),
    "PerNode": partial(estimators.PerNode, estimators={"*": partial(ScoreFunction, baseline="optimal")}),
}
NODES: dict[str, Callable[[], Node]] = {
    "binary": Bernoulli,
    "signed": partial(Bernoulli, values=(-1, 1)),
    "categorical": Categorical,
}


class Net(nn.Module):
    """examples (batch, 2) -> Linear -> [NoisyReLU ->] node, of units in any shape -> cost per example."""

    def __init__(self, node: Callable[[], Node], units: tuple[int, ...], rectified: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(2, torch.Size(units).numel()).double()
        self.rectifier = NoisyReLU() if rectified else nn.Identity()
        self.node, self.units = node(), units

    def forward(self, x: Tensor) -> Tensor:
        a = self.rectifier(self.linear(x)).view(len(x), *self.units)
        h = self.node(a.relu() if isinstance(self.node, StochasticPool2d) else a)
        return h.flatten(1) if h.dim() > 1 else h.unsqueeze(1)

    def cost(self, x: Tensor, terms: bool) -> Tensor:
        each = (self(x) - 0.3).square()
        return torch.stack((each.sum(1), each[:, 0]), 1) if terms else each.sum(1)


def check(row: str, node: Callable[[], Node], units: tuple[int, ...], rectified: bool, terms: bool) -> None:
    torch.manual_seed(0)
    net = Net(node, units, rectified)
    try:
        estimator = ROWS[row](net)
    except (TypeError, ValueError):
        pytest.skip("the estimator does not take this model")
    full, empty = torch.ones(2, 2, dtype=torch.float64), torch.ones(0, 2, dtype=torch.float64)
    estimator(lambda: net.cost(full, terms))
    before = {name: tensor.clone() for name, tensor in estimator.state_dict().items()}
    loss = estimator(lambda: net.cost(empty, terms))
    assert loss == 0 and loss.shape == () and not torch.signbit(loss)
    gradients = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, materialize_grads=True)
    assert not any(g.any() for g in gradients)  # NaN would be true
    assert all(t.isfinite().all() for t in estimator.state_dict().values()) and estimator.state_dict().keys() == before.keys()
    with torch.no_grad():
        assert estimator(lambda: net.cost(empty, terms)) == 0


@pytest.mark.parametrize("kind", NODES)
@pytest.mark.parametrize("row", ROWS)
def test_the_loss_and_the_gradient_of_no_example_are_zero(row: str, kind: str) -> None:
    number = list(ROWS).index(row) + list(NODES).index(kind)
    units = [(), (2,), (1, 2)][number % 3]
    if row.startswith("PathSample"):
        units = (2,)
    check(row, NODES[kind], (*units, 3) if kind == "categorical" else units, number % 2 == 1 and row != "Exact", number % 4 > 1)


@pytest.mark.parametrize("row", ["Exact", "PerNode", "SPSA", *(n for n in ROWS if n.startswith(("ScoreF", "NVIL", "VIMCO")))])
def test_pooling_of_no_image(row: str) -> None:
    check(row, partial(StochasticPool2d, 2), (1, 2, 2), False, False)


@pytest.mark.parametrize("baseline", ["mean", "optimal"])
def test_a_moving_baseline_is_what_it_was(baseline: str) -> None:
    net, x = Net(Bernoulli, (2,), False), torch.ones(3, 2, dtype=torch.float64)
    torch.manual_seed(0)
    estimator = ScoreFunction(net, baseline=baseline)
    values = []
    for examples in (x, x[:0]):
        estimator(lambda x=examples: net.cost(x, False))
        state = estimator.state_dict()
        values.append(state["baseline.node.numerator"] / state["baseline.node.denominator"])
    assert torch.allclose(*values, rtol=1e-14)


@pytest.mark.parametrize("build", [ScoreFunction, estimators.Exact, estimators.DisARM])
def test_no_cost_for_examples_that_were_sampled_is_an_error(build) -> None:
    net = Net(Bernoulli, (2,), False)
    with pytest.raises(ValueError, match=r"got logits .* but the closure returned a cost for 0"):
        build(net)(lambda: net.cost(torch.ones(2, 2, dtype=torch.float64), False)[:0])
