"""Cells, the ground of every exact sum: their weights add up to 1, and each one's noise gives the outcome it stands for."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import dither
from dither import exact

INF = float("inf")
SATURATED = [0.0, 0.3, -2.0, 15.0, -15.0, 50.0, -50.0]


def total(log_weight):
    return log_weight.exp().sum(0)


def expectation(node, logits, cost=lambda h: h):
    """E cost(output), and its derivative in the logits, by the node's own cells."""
    logits = logits.detach().requires_grad_()
    noise, log_weight = node.partition(logits)
    outputs = torch.stack([node.propagate(logits, n) for n in noise.unbind()])
    value = (log_weight.exp().view(*log_weight.shape, *[1] * (outputs.dim() - log_weight.dim())) * cost(outputs)).sum(0)
    return value.detach(), torch.autograd.grad(value.sum(), logits)[0]


# --- discrete -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("values", [(0, 1), (-1, 1), (2.5, -3.0)])
def test_bernoulli(dtype, values):
    node = dither.Bernoulli(values=values)
    logits = torch.tensor([SATURATED], dtype=dtype)
    noise, log_weight = node.partition(logits)
    close = {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 1e-6}
    torch.testing.assert_close(total(log_weight), torch.ones_like(log_weight[0]), **close)
    for outcome in (0, 1):
        drawn = node.sample(logits, noise[outcome])
        assert drawn.eq(outcome).all()
        assert node.output(logits, drawn).eq(values[outcome]).all()
        torch.testing.assert_close(log_weight[outcome], node.log_prob(logits, drawn))
    if dtype == torch.float64:
        torch.testing.assert_close(expectation(node, logits)[0], node.mean(logits), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "row", [[0.0, 0, 0], [1, -2, 0.5], [50, 0, -50], [-50, 50, 50], [0, -INF, 1], [INF, 0, 0], [INF, 1, INF]]
)
def test_categorical(dtype, row):
    node = dither.Categorical()
    logits = torch.tensor([[row]], dtype=dtype)
    noise, log_weight = node.partition(logits)
    close = {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 1e-6}
    torch.testing.assert_close(total(log_weight), torch.ones_like(log_weight[0]), **close)
    mean = torch.zeros_like(logits)
    for k in range(3):
        if log_weight[k].item() > -INF:
            drawn = node.sample(logits, noise[k])
            assert drawn.flatten().tolist() == [float(j == k) for j in range(3)]
            torch.testing.assert_close(log_weight[k], node.log_prob(logits, drawn))
            mean += log_weight[k].exp() * drawn
    torch.testing.assert_close(mean.to(dtype), node.mean(logits), rtol=0, atol=1e-12 if dtype == torch.float64 else 4e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_stochastic_pooling(dtype):
    node = dither.StochasticPool2d(2, stride=1)
    x = torch.tensor([[0.0, 1, 0, 0], [2, 5, 0, 0], [1e-3, 0.5, 40, 0]], dtype=dtype).view(1, 1, 3, 4)
    noise, log_weight = node.partition(x)
    close = {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 1e-6}
    torch.testing.assert_close(total(log_weight), torch.ones_like(log_weight[0]), **close)
    for k in range(4):
        possible = log_weight[k] > -INF
        drawn = node.sample(x, noise[k])
        assert drawn[possible].eq(k).all()
        torch.testing.assert_close(log_weight[k][possible], node.log_prob(x, drawn)[possible])
    torch.testing.assert_close(expectation(node, x)[0], node.mean(x), **close)


def test_exact_gradient_where_activations_are_zero():
    # Behind a rectifier zeros are the rule. Their weight has no finite logarithm; the gradient must still be a number.
    layer = torch.nn.Linear(3, 16, dtype=torch.float64)
    net = torch.nn.Sequential(layer, torch.nn.ReLU(), torch.nn.Unflatten(1, (1, 4, 4)), dither.StochasticPool2d(2))
    x = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    assert (torch.relu(layer(x)) == 0).any()

    def closure():
        return (net(x).flatten(1) - 0.3).square().sum(1)

    gradient = exact.gradient(net, closure)["0.weight"]
    # The expectation written out: windows are independent, the cost is a sum over them.
    pixels = torch.nn.functional.unfold(torch.relu(layer(x)).view(1, 1, 4, 4), 2, stride=2)
    by_hand = (pixels / pixels.sum(1, keepdim=True) * (pixels - 0.3).square()).nan_to_num(0.09 / 4).sum()
    torch.testing.assert_close(gradient, torch.autograd.grad(by_hand, layer.weight)[0], rtol=1e-12, atol=1e-14)


# --- continuous ---------------------------------------------------------------------------------------------------------
COSTS = {
    "squared": (lambda h: (h - 0.4) ** 2, lambda h: 2 * (h - 0.4)),
    "exponential": (lambda h: np.exp(-h) if isinstance(h, float) else torch.exp(-h), lambda h: -math.exp(-h)),
    "bounded": (lambda h: h * h / (1 + h * h), lambda h: 2 * h / (1 + h * h) ** 2),
}


def quadrature(f, kink=None):
    points = [kink] if kink is not None and -11 < kink < 11 else None
    return integrate.quad(lambda z: f(z) * stats.norm.pdf(z), -12, 12, points=points, epsabs=1e-13, limit=400)[0]


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_noisy_relu(cost, scale):
    node, (f, slope) = dither.NoisyReLU(scale=scale), COSTS[cost]
    logits = torch.tensor([[-3.0, -1.0, 0.0, 0.2, 1.3, 2.5]], dtype=torch.float64)
    value, gradient = expectation(node, logits, f)
    for i, a in enumerate(logits[0].tolist()):
        kink = -a / scale
        expected = quadrature(lambda z, a=a: f(max(0.0, a + scale * z)), kink)
        derivative = quadrature(lambda z, a=a: slope(a + scale * z) * (a + scale * z > 0), kink)
        assert abs(value[0, i].item() - expected) < 1e-8
        assert abs(gradient[0, i].item() - derivative) < 1e-8


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize(("before", "after"), [(0.3, 0.0), (1.0, 0.0), (2.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_noisy_tanh(cost, before, after):
    # 40 Gauss-Hermite points, the usual choice, are off by 1e-6 at before = 1 and by 1e-3 at 2: tanh has poles.
    node, (f, slope) = dither.NoisyTanh(before=before, after=after), COSTS[cost]
    if (cost, after) == ("bounded", 1.0):
        return  # a pole of the cost itself lies too near for noise that no tanh bounds
    limit = 2e-5 if cost == "bounded" else 1e-8  # its poles, at tanh = i, are half as far as those of tanh
    logits = torch.tensor([[-2.0, -0.5, 0.0, 0.3, 1.5]], dtype=torch.float64)
    value, gradient = expectation(node, logits, f)
    for i, a in enumerate(logits[0].tolist()):

        def output(z, a=a):
            return math.tanh(a + before * z) + after * z

        def derivative(z, a=a):
            return slope(output(z)) * (1 - math.tanh(a + before * z) ** 2)

        assert abs(value[0, i].item() - quadrature(lambda z: f(output(z)))) < limit
        assert abs(gradient[0, i].item() - quadrature(derivative)) < limit


def test_noisy_tanh_with_both_noises():
    node = dither.NoisyTanh(before=0.5, after=0.3)
    logits = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    value, _ = expectation(node, logits, torch.square)
    for i, a in enumerate(logits[0].tolist()):
        assert abs(value[0, i].item() - quadrature(lambda z, a=a: math.tanh(a + 0.5 * z) ** 2) - 0.09) < 1e-8


@pytest.mark.parametrize(
    "node",
    [
        dither.NoisyReLU(),
        dither.NoisyReLU(scale=0.1),
        dither.NoisyTanh(before=0.7, after=0.2),
        dither.NoisyTanh(before=0, after=0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_weights_of_continuous_cells(node, dtype):
    logits = torch.tensor([[*SATURATED, 9.5, -9.5, 3e38, -3e38]], dtype=dtype).requires_grad_()
    _, log_weight = node.partition(logits)
    ones = torch.ones_like(log_weight[0])
    torch.testing.assert_close(total(log_weight), ones, rtol=0, atol=1e-12 if dtype == torch.float64 else 2e-5)
    _, gradient = expectation(node, logits, torch.sin)
    assert gradient.isfinite().all()


def test_mean_of_noisy_relu_is_exact_everywhere():
    node = dither.NoisyReLU(scale=0.7)
    logits = torch.tensor([[-8.0, -5.0, -2.0, -0.1, 0.0, 0.4, 3.0, 30.0]], dtype=torch.float64).requires_grad_()
    mean = node.mean(logits)
    torch.testing.assert_close(expectation(node, logits)[0], mean.detach(), rtol=1e-9, atol=1e-13)
    gradient = torch.autograd.grad(mean.sum(), logits)[0]
    torch.testing.assert_close(gradient[0], torch.tensor(stats.norm.cdf(logits.detach()[0] / 0.7)))
    for dtype, error in ((torch.float32, 1e-3), (torch.bfloat16, 1e-2)):
        narrow = logits.detach().to(dtype)
        torch.testing.assert_close(node.mean(narrow).double(), node.mean(narrow.double()), rtol=error, atol=1e-30)
    ends = torch.tensor([[-INF, -3e38, 3e38, INF]]).requires_grad_()
    mean = node.mean(ends)
    assert mean.tolist() == [[0, 0, pytest.approx(3e38), INF]]
    assert torch.autograd.grad(mean.sum(), ends)[0].tolist() == [[0, 0, 1, 1]]


def test_a_node_without_cells_says_so():
    with pytest.raises(NotImplementedError, match="use a long average"):
        dither.NoisyMaxPool2d(2).partition(torch.zeros(1, 1, 2, 2))
