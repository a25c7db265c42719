"""Every estimator with every kind of node at every shape of logits: equal to the same units laid out in another shape, which
the conformance suite proves, and by enumeration where there is no dimension of units at all."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dither import SPSA, Bernoulli, Categorical, NoisyReLU, ScoreFunction, StochasticPool2d, estimators, testing
from dither.nodes import Node

F64 = torch.float64
CLASSES = [c for c in vars(estimators).values() if isinstance(c, type) and issubclass(c, estimators.Estimator)]
CONFIGURED = {
    name: build
    for c in CLASSES
    if not inspect.isabstract(c) and c is not estimators.PerNode
    for name, build in c.configurations().items()
}
ROWS = CONFIGURED | {
    "SPSA": SPSA,
    "FiniteDifference": estimators.FiniteDifference,
    "PerNode": partial(estimators.PerNode, estimators={"*": partial(ScoreFunction, baseline="optimal")}),
}
NODES: dict[str, Callable[[], Node]] = {
    "binary": Bernoulli,
    "signed": partial(Bernoulli, values=(-1, 1)),
    "categorical": Categorical,
}
# shape of the logits -> the same units in another shape
UNITS = {(3,): (3, 1), (1,): (1, 1), (2, 2, 2): (2, 4), (2, 1, 3): (2, 3), (2, 2, 1, 2): (2, 4), (1, 2): (1, 1, 2)}


class Shaped(nn.Module):
    """Logits that are parameters -> [NoisyReLU ->] node [-> node]; a cost of all units, in one term or in two."""

    def __init__(self, node: Callable[[], Node], logits: Tensor, *, rectified: bool = False, layers: int = 1) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())
        self.rectifier = NoisyReLU() if rectified else None
        self.nodes = nn.ModuleList(node() for _ in range(layers))

    def forward(self) -> Tensor:
        a = self.logits if self.rectifier is None else self.rectifier(self.logits) - 0.5
        h = self.nodes[0](a)
        for node in self.nodes[1:]:
            h = node(0.8 * h - 0.3 * self.logits)
        return h

    def cost(self, local: bool = False) -> Tensor:
        h = self()
        h = h.flatten(1) if h.dim() > 1 else h.unsqueeze(1)
        z = h @ torch.linspace(0.3, 1.7, h.shape[1], dtype=F64) + torch.linspace(0, 0.5, len(h), dtype=F64)
        total = torch.sin(1.3 * z) + 0.2 * z**3
        return torch.stack((total, (h[:, :1] - 0.3).square().sum(1)), 1) if local else total


def logits_of(kind: str, shape: tuple[int, ...]) -> Tensor:
    shape = (*shape, 3) if kind == "categorical" else shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=F64)


def applies(row: str, model: nn.Module) -> bool:
    try:
        ROWS[row](model)
    except TypeError:
        return False
    return True


def two_calls(row: str, model: Shaped, local: bool) -> Tensor:
    """Loss and gradient of two calls: the second has what the first has learned."""
    torch.manual_seed(5)
    estimator, results = ROWS[row](model), []
    for _ in range(2):
        loss = estimator(lambda: model.cost(local))
        gradients = torch.autograd.grad(loss, model.logits, allow_unused=True, materialize_grads=True)
        results += [loss.detach().reshape(1), gradients[0].flatten()]
    return torch.cat(results)


WAYS: dict[str, dict[str, Any]] = {"": {}, "rectified": {"rectified": True}, "layers": {"layers": 2}, "local": {}}


# Each configuration runs a part of the table, with each kind of node another one; together they run all of it.
TABLE = list(product(UNITS, WAYS))


@pytest.mark.parametrize("kind", NODES)
@pytest.mark.parametrize("row", ROWS)
def test_units_in_another_shape_have_the_same_gradient(row: str, kind: str) -> None:
    if not applies(row, Shaped(NODES[kind], logits_of(kind, (2, 1)))):
        pytest.skip("the estimator does not take this node")
    start = list(ROWS).index(row) + list(NODES).index(kind)
    for shape, way in [*TABLE[start % 12 :: 12], ((3,), ""), ((1,), "layers")]:
        if row == "Exact" and way == "rectified":
            continue  # the quadrature of all units together is too large
        logits = logits_of(kind, shape)
        same = logits.reshape(UNITS[shape] if kind != "categorical" else (*UNITS[shape], 3))
        own, other = (two_calls(row, Shaped(NODES[kind], a, **WAYS[way]), way == "local") for a in (logits, same))
        assert torch.allclose(own, other, rtol=1e-9, atol=1e-11), (shape, way)
        assert own.isfinite().all()


@pytest.mark.parametrize("kind", NODES)
@pytest.mark.parametrize("row", [row for row in CONFIGURED if row.endswith(("-1", "-2")) or "-" not in row])
def test_without_a_unit_dimension_the_mean_is_the_exact_gradient(row: str, kind: str) -> None:
    model = Shaped(NODES[kind], logits_of(kind, (1,))[..., :2])
    if not applies(row, model):
        pytest.skip("the estimator does not take this node")
    estimator = ROWS[row](model)
    if estimator.unbiased:
        testing.assert_unbiased(estimator, model, model.cost)


@pytest.mark.parametrize("kind", NODES)
@pytest.mark.parametrize("row", ROWS)
def test_no_units_have_an_empty_gradient(row: str, kind: str) -> None:
    model = Shaped(NODES[kind], logits_of(kind, (2, 0)))
    if row in ("Exact", "SPSA", "FiniteDifference") or not applies(row, model):
        pytest.skip("the estimator does not take this node")
    loss = ROWS[row](model)(model.cost)
    assert torch.allclose(loss, Shaped(NODES[kind], logits_of(kind, (2, 0))).cost().mean())
    (gradient,) = torch.autograd.grad(loss, model.logits, allow_unused=True, materialize_grads=True)
    assert gradient.shape == model.logits.shape


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (2, 1, 2, 2), (1, 2, 2, 2), (1, 1, 2, 4)])
def test_pooling_of_images_of_every_shape(row: str, shape: tuple[int, ...]) -> None:
    class Pooled(Shaped):
        def forward(self) -> Tensor:
            return self.nodes[0](self.logits.square())

    model = Pooled(partial(StochasticPool2d, 2), logits_of("binary", shape))
    if not applies(row, model):
        pytest.skip("the estimator does not take this node")
    estimator = ROWS[row](model)
    if estimator.unbiased and estimator.samples < 3:
        testing.assert_unbiased(estimator, model, model.cost)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 2, 1)])
def test_one_category_is_an_error_that_says_so(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"at least two categories is needed\. For one binary unit use Bernoulli"):
        Categorical()(torch.zeros(shape))
