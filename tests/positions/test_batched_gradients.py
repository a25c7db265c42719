"""Gradients of many outputs at once, `is_grads_batched` and `jacobian(vectorize=True)`: those of a loop, in every place."""

import pytest
import torch
from torch import nn

import dither
from dither import corruption, functional, reconstruction
from dither.models.dae import DAE
from dither.models.gsn import GSN
from dither.models.mlp import StochasticMLP

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's own, of some operators

UNITS, IMAGE = (4, 6), (2, 1, 4, 4)
NODES = {
    "Bernoulli": (dither.Bernoulli(), UNITS),
    "Bernoulli, signs": (dither.Bernoulli(values=(-1, 1)), UNITS),
    "Bernoulli, identity": (dither.Bernoulli(sampler=functional.bernoulli_straight_through), UNITS),
    "Bernoulli, clipped": (dither.Bernoulli(sampler=functional.bernoulli_straight_through_clipped), UNITS),
    "Bernoulli, reinmax": (dither.Bernoulli(sampler=functional.bernoulli_reinmax), UNITS),
    "Categorical": (dither.Categorical(), (4, 2, 3)),
    "NoisyReLU": (dither.NoisyReLU(), UNITS),
    "NoisyTanh": (dither.NoisyTanh(), UNITS),
    "NoisyTanh, both": (dither.NoisyTanh(before=1.0, after=1.0), UNITS),
    "NoisyMaxPool2d": (dither.NoisyMaxPool2d(2), IMAGE),
    "StochasticPool2d": (dither.StochasticPool2d(2), IMAGE),
    "SaltAndPepper": (corruption.SaltAndPepper(), UNITS),
    "Masking": (corruption.Masking(), UNITS),
    "GaussianCorruption": (corruption.Gaussian(), UNITS),
    "Bernoulli log_prob": (lambda a: reconstruction.Bernoulli().log_prob(a, torch.full(UNITS, 0.3, dtype=a.dtype)), UNITS),
    "Bernoulli terms": (lambda a: reconstruction.Bernoulli().terms(a, torch.full(UNITS, 0.3, dtype=a.dtype)), UNITS),
    "Gaussian log_prob": (lambda a: reconstruction.Gaussian().log_prob(a, torch.full(UNITS, 0.3, dtype=a.dtype)), UNITS),
    "mean": (lambda a: dither.Bernoulli().mean(a), UNITS),
}
LOSSES = {
    "StraightThrough": dither.StraightThrough,
    "ScoreFunction": dither.ScoreFunction,
    "ScoreFunction, 3": lambda net: dither.ScoreFunction(net, baseline="leave-one-out", samples=3),
    "DisARM": dither.DisARM,
    "ARM": dither.ARM,
    "ReinMax": dither.ReinMax,
    "GumbelSoftmax": dither.GumbelSoftmax,
    "GumbelRao": dither.GumbelRao,
    "REBAR": dither.REBAR,
    "RELAX": dither.RELAX,
    "LocalExpectation": dither.LocalExpectation,
    "MuProp": dither.MuProp,
    "Exact": dither.Exact,
    "SPSA": dither.SPSA,
    "Blend": lambda net: dither.Blend(net),
}
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def both(output, inputs, close=1e-5):
    """The gradients of every entry of the output: all at once, and one after the other."""
    basis = torch.eye(output.numel(), dtype=output.dtype).view(-1, *output.shape)
    batched = torch.autograd.grad(output, inputs, basis, is_grads_batched=True, retain_graph=True, allow_unused=True)
    loop = [torch.autograd.grad(output, inputs, row, retain_graph=True, allow_unused=True) for row in basis]
    for ours, *theirs in zip(batched, *loop, strict=True):
        assert (ours is None) == (theirs[0] is None)
        if ours is not None:
            torch.testing.assert_close(ours, torch.stack(theirs), rtol=close, atol=close)


def input_of(shape, dtype):
    return torch.linspace(0.1, 0.9, torch.Size(shape).numel()).view(shape).to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NODES)
def test_is_grads_batched_through_a_node(name, dtype):
    node, shape = NODES[name]
    x = input_of(shape, dtype)
    both(node(x), [x], close=1e-2 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NODES)
def test_jacobian_vectorized_through_a_node(name, dtype):
    node, shape = NODES[name]
    results = []
    for vectorize in (True, False):
        torch.manual_seed(0)
        results.append(torch.autograd.functional.jacobian(node, input_of(shape, dtype).detach(), vectorize=vectorize))
    close = 1e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(*results, rtol=close, atol=close)


@pytest.mark.parametrize("name", [name for name in NODES if "log_prob" not in name and "Pool" not in name])
def test_second_derivatives_batched(name):
    """create_graph, and then the gradients of the gradient at once."""
    node, shape = NODES[name]
    x = input_of(shape, torch.float64)
    (first,) = torch.autograd.grad(node(x).square().sum(), x, create_graph=True)
    if first.requires_grad:
        both(first, [x])


@pytest.mark.parametrize("name", LOSSES)
def test_is_grads_batched_through_a_loss(name):
    torch.manual_seed(0)
    net = StochasticMLP((5, 3, 2)).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    loss = LOSSES[name](net)(lambda: net(x).square().sum(1))
    scales = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)
    parameters = list(net.parameters())
    one = torch.autograd.grad(loss, parameters, retain_graph=True)
    several = torch.autograd.grad(loss, parameters, scales, is_grads_batched=True)
    for a, b in zip(one, several, strict=True):
        torch.testing.assert_close(b, scales.view(-1, *[1] * a.dim()) * a)


@pytest.mark.parametrize(
    "model", [lambda: DAE(nn.Linear(6, 6), 6, steps=2), lambda: GSN((6, 5, 4), steps=2)], ids=["DAE", "GSN"]
)
def test_costs_of_examples_at_once(model):
    torch.manual_seed(0)
    model = model()
    cost = model.cost(torch.rand(4, 6).round())
    both(cost, list(model.parameters()))
