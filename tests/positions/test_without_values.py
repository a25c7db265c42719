"""Tensors without values, on the meta device and under FakeTensorMode: nodes and models tell shapes and dtypes."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import dither
from dither import corruption, functional, reconstruction
from dither.models.dae import DAE
from dither.models.gsn import GSN
from dither.models.mlp import StochasticMLP
from dither.models.vae import BinaryVAE

UNITS, IMAGE = (4, 6), (2, 1, 4, 4)
NODES = {
    "Bernoulli": (lambda: dither.Bernoulli(), UNITS),
    "Bernoulli, signs": (lambda: dither.Bernoulli(values=(-1, 1)), UNITS),
    "Bernoulli, no units": (lambda: dither.Bernoulli(), (4,)),
    "Bernoulli, identity": (lambda: dither.Bernoulli(sampler=functional.bernoulli_straight_through), UNITS),
    "Bernoulli, reinmax": (lambda: dither.Bernoulli(sampler=functional.bernoulli_reinmax), UNITS),
    "Categorical": (lambda: dither.Categorical(), (4, 2, 3)),
    "Categorical, reinmax": (lambda: dither.Categorical(sampler=functional.reinmax), (4, 2, 3)),
    "NoisyReLU": (lambda: dither.NoisyReLU(), UNITS),
    "NoisyTanh": (lambda: dither.NoisyTanh(), UNITS),
    "NoisyTanh, both": (lambda: dither.NoisyTanh(before=1.0, after=1.0), UNITS),
    "NoisyMaxPool2d": (lambda: dither.NoisyMaxPool2d(2), IMAGE),
    "StochasticPool2d": (lambda: dither.StochasticPool2d(2), IMAGE),
    "SaltAndPepper": (lambda: corruption.SaltAndPepper(), UNITS),
    "Masking": (lambda: corruption.Masking(), UNITS),
    "Gaussian corruption": (lambda: corruption.Gaussian(), UNITS),
    "Resampling": (lambda: corruption.Resampling(0.5, 2), UNITS),
    "Mixture corruption": (lambda: corruption.Mixture([corruption.Masking(), corruption.Gaussian()]), UNITS),
    "Bernoulli reconstruction": (lambda: Sampled(reconstruction.Bernoulli()), UNITS),
    "Gaussian reconstruction": (lambda: Sampled(reconstruction.Gaussian()), UNITS),
    "Mixture reconstruction": (lambda: Sampled(reconstruction.Mixture(reconstruction.Bernoulli(), 2)), (4, 14)),
}
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
MODES = [None, "mean", "mode"]


class Sampled(nn.Module):
    def __init__(self, family):
        super().__init__()
        self.family = family

    def forward(self, outputs):
        return self.family.sample(outputs)


def run(node, x, mode):
    if mode is None:
        return node(x)
    with dither.deterministic(mode):
        return node(x)


def expected(make, shape, dtype, mode):
    return run(make(), torch.rand(shape).to(dtype), mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NODES)
def test_meta(name, dtype, mode):
    make, shape = NODES[name]
    real = expected(make, shape, dtype, mode)
    x = torch.empty(shape, dtype=dtype, device="meta").requires_grad_()
    output = run(make().to("meta"), x, mode)
    assert (output.shape, output.dtype, output.device.type) == (real.shape, real.dtype, "meta")
    if output.requires_grad:
        output.sum().backward()
        assert x.grad.shape == x.shape
    with torch.no_grad():
        assert run(make().to("meta"), x, mode).shape == real.shape


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NODES)
def test_fake(name, dtype, mode):
    make, shape = NODES[name]
    real = expected(make, shape, dtype, mode)
    with FakeTensorMode():
        x = torch.rand(shape).to(dtype).requires_grad_()
        output = run(make(), x, mode)
        assert isinstance(output, FakeTensor)
        assert (output.shape, output.dtype, output.device) == (real.shape, real.dtype, real.device)
        if output.requires_grad:
            output.sum().backward()
            assert x.grad.shape == x.shape


MODELS = {
    "StochasticMLP": lambda: (StochasticMLP((6, 5, 3)), lambda net, x: net(x)),
    "DAE": lambda: (DAE(nn.Linear(6, 6), 6, steps=2), lambda net, x: net.reconstruct(net.corrupted(x))[0]),
    "GSN": lambda: (GSN((6, 5, 4), steps=2), lambda net, x: net.reconstruct(net.corrupted(x))[0]),
    "BinaryVAE": lambda: (BinaryVAE((6, 5, 3)), lambda net, x: net.cost(x)),
}


@pytest.mark.parametrize("kind", ["meta", "fake"])
@pytest.mark.parametrize("name", MODELS)
def test_models(name, kind):
    net, forward = MODELS[name]()
    real = forward(net, torch.rand(4, 6)).shape
    if kind == "meta":
        with torch.device("meta"):
            net, forward = MODELS[name]()
        assert forward(net, torch.empty(4, 6, device="meta")).shape == real
    else:
        with FakeTensorMode():
            net, forward = MODELS[name]()
            assert forward(net, torch.rand(4, 6)).shape == real


def test_real_calls_are_as_before_after_fake_ones():
    """What a mode computed must not stay in a cache."""
    node, x = dither.Bernoulli(), torch.zeros(7, 5)
    torch.manual_seed(0)
    before = node(x)
    with FakeTensorMode():
        dither.Bernoulli()(torch.zeros(7, 5))
        dither.Bernoulli()(torch.zeros(11, 5))
    node(torch.empty(11, 5, device="meta"))
    torch.manual_seed(0)
    assert torch.equal(node(x), before) and type(node(torch.zeros(11, 5))) is torch.Tensor
