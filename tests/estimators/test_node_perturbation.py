"""Node perturbation against the gradient of the smoothed net, by quadrature and by sums over outcomes."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from torch import nn

from dither import Bernoulli, Categorical, NodePerturbation, exact, noise
from dither.estimators.perturbation._node_perturbation import oracle

F64 = torch.float64


def net(seed: int, *sizes: int) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b).double(), Bernoulli())]
    model = nn.Sequential(*layers)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=F64)
    return model


def inputs(batch: int, width: int) -> torch.Tensor:
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(9), dtype=F64)


def smoothed_cost(model: nn.Sequential, x: torch.Tensor, scale: float, cost) -> torch.Tensor:
    """The exact expected cost when the logits carry Gaussian noise: P(h = 1) = E[sigmoid(a + scale xi)], by 64 points."""
    at, weight = (torch.as_tensor(v) for v in np.polynomial.hermite_e.hermegauss(64))
    weight = weight / weight.sum()

    def layer(index: int, h: torch.Tensor, probability: torch.Tensor) -> torch.Tensor:
        if index == len(model):
            return probability * cost(h)
        a = model[index](h)
        p = (torch.sigmoid(a.unsqueeze(-1) + scale * at) * weight).sum(-1)
        total = torch.zeros(len(x), dtype=F64)
        for bits in product((0.0, 1.0), repeat=a.shape[1]):
            b = torch.tensor(bits, dtype=F64)
            total = total + layer(index + 2, b.expand_as(a), probability * torch.where(b > 0, p, 1 - p).prod(1))
        return total

    return layer(0, x, torch.ones(len(x), dtype=F64)).mean()


@pytest.mark.parametrize("sizes", [(2, 1), (2, 1, 1)])
def test_node_perturbation_is_unbiased_for_the_smoothed_net(sizes: tuple[int, ...]) -> None:
    model, x, scale = net(11, *sizes), inputs(1, 2), 0.7
    readout = torch.tensor([1.7], dtype=F64)

    def cost(h: torch.Tensor) -> torch.Tensor:
        return torch.sin(h @ readout + 0.4) + 0.3 * h[:, 0] * model[0].bias.sum()  # and a gradient of the cost itself

    estimator = NodePerturbation(model, scale=scale)
    estimator.oracle = oracle(14)
    moments = exact.moments(estimator, lambda: cost(model(x)), variance=False)
    expected = torch.autograd.grad(smoothed_cost(model, x, scale, cost), list(model.parameters()))
    assert torch.allclose(exact.concatenate(moments.mean), exact.concatenate(expected), rtol=0, atol=1e-9)
    plain = exact.gradient(model, lambda: cost(model(x)))
    assert (exact.concatenate(plain) - exact.concatenate(expected)).abs().max() > 1e-3
    value = exact.expected_cost(model, lambda: cost(model(x))).mean()
    assert torch.allclose(moments.value, value.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("vectorize", [True, False])
def test_node_perturbation_is_the_printed_formula_for_categorical_units(vectorize: bool) -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), requires_grad=True)
    node, worth = Categorical(), torch.tensor([1.0, -2.0, 4.0])
    estimator = NodePerturbation(node, scale=0.9, samples=3, vectorize=vectorize)
    torch.manual_seed(0)
    seed = noise.draw_seed()
    torch.manual_seed(0)
    loss = estimator(lambda: node(logits) @ worth)
    (actual,) = torch.autograd.grad(loss, logits)
    expected, base = torch.zeros_like(actual), []
    for k in range(3):
        u = noise.uniform(seed, 0, torch.tensor(k), (5, 3), logits)
        xi = torch.special.ndtri(noise.uniform(seed, 1 << 32, torch.tensor(k), (5, 3), logits))
        costs = [node.sample(a, u) @ worth for a in (logits, logits + 0.9 * xi)]
        expected += (costs[1] - costs[0]).unsqueeze(1) * xi / 0.9 / 15
        base.append(costs[0])
    assert expected.any() and torch.allclose(actual, expected, rtol=1e-5)
    assert torch.allclose(loss.detach(), torch.stack(base).mean())


def test_local_terms_leave_the_expectation_and_lower_the_variance() -> None:
    model, x = net(12, 2, 2), inputs(1, 2)
    actual = []
    for closure in (lambda: torch.sin(model(x) + 1), lambda: torch.sin(model(x) + 1).sum(1)):
        actual.append(exact.moments(NodePerturbation(model, scale=0.7), closure))
    assert torch.allclose(*(exact.concatenate(m.mean) for m in actual), rtol=0, atol=1e-12)
    local, shared = (exact.concatenate(m.variance) for m in actual)
    assert (local < 0.95 * shared).all()
