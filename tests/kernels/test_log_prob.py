"""The log-probability of grey values under Bernoulli distributions, on every path, against float64."""

import math

import pytest
import torch

from dither import kernels
from dither.kernels import _library, _native

LIBRARY = _library.LIBRARY
NAMES = ("avx512", "avx2", "neon", "portable")
PATHS = [name for name in NAMES if LIBRARY is not None and LIBRARY.dither_set_path(name.encode())]
if PATHS:
    LIBRARY.dither_set_path(PATHS[0].encode())
SHAPES = [(1, 1), (5, 7), (3, 16), (3, 17), (2, 784), (4, 3, 50), (90, 784)]  # the last by two threads


@pytest.fixture(params=[*PATHS, "torch"])
def path(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(_library, "LIBRARY", None)
    else:
        assert LIBRARY.dither_set_path(request.param.encode())
    yield request.param
    if PATHS:
        LIBRARY.dither_set_path(PATHS[0].encode())


def example(shape, dtype=torch.float32, shared=False):
    """Logits on both sides of where probabilities round to 0 and 1; grey values, 0 and 1 among them."""
    generator = torch.Generator().manual_seed(sum(shape))
    a = (torch.randn(shape, generator=generator) * 20).to(dtype)
    x = torch.rand(shape, generator=generator).to(dtype)
    x = torch.where(torch.rand(shape, generator=generator) < 0.5, x.round(), x)
    return a, x[..., :1, :].expand(shape) if shared else x


def exact(a, x):
    a, x = a.double(), x.double()
    return (x * torch.nn.functional.logsigmoid(a) + (1 - x) * torch.nn.functional.logsigmoid(-a)).sum(-1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shared", [False, True])
def test_value_and_gradient(path, shape, shared):
    a, x = example(shape, shared=shared)
    a.requires_grad_()
    value, want = kernels.bernoulli_log_prob(a, x), exact(a, x)
    torch.testing.assert_close(value.double(), want, rtol=1e-6, atol=1e-6)
    weight = torch.linspace(-1, 2, value.numel()).view(value.shape)
    ours, theirs = (torch.autograd.grad((weight * v).sum(), a)[0] for v in (value, want))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_infinite_logits(path):
    inf = math.inf
    a, x = torch.tensor([[inf, -inf, 2], [inf, 1, 2], [3, -inf, 2]]), torch.tensor([[1, 0, 1], [0.5, 1, 1], [1, 0.25, 1]])
    value = kernels.bernoulli_log_prob(a, x)
    assert value.tolist() == [pytest.approx(math.log(1 / (1 + math.exp(-2)))), -inf, -inf]


@pytest.mark.parametrize("place", ["a", "x"])
def test_nan_stays_visible(path, place):
    a, x = example((3, 20))
    (a if place == "a" else x)[1, 3] = math.nan
    assert kernels.bernoulli_log_prob(a, x).isnan().tolist() == [False, True, False]


def test_derivatives_of_every_order():
    a, x = example((2, 5), torch.float64)
    a, x = (a / 10).requires_grad_(), x.requires_grad_()
    assert torch.autograd.gradcheck(kernels.bernoulli_log_prob, (a, x))
    assert torch.autograd.gradgradcheck(lambda a: kernels.bernoulli_log_prob(a, x.detach()), (a,))
    single = a.detach().float().requires_grad_()  # a second derivative through the native path
    (first,) = torch.autograd.grad(kernels.bernoulli_log_prob(single, x.detach().float()).sum(), single, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), single)
    p = torch.sigmoid(single.detach())
    torch.testing.assert_close(second, -p * (1 - p))


@pytest.mark.skipif(not PATHS, reason="no native library")
def test_paths_agree_to_the_last_bit():
    a, x = example((40, 100))
    results = []
    for name in PATHS:
        assert LIBRARY.dither_set_path(name.encode())
        value = _native.log_prob(a, x, 1)
        results.append((value, _native.log_prob_gradient(value, a, x, 1)))
    LIBRARY.dither_set_path(PATHS[0].encode())
    assert all(torch.equal(one, other) for pair in results[1:] for one, other in zip(results[0], pair, strict=True))


def test_transforms_and_no_examples():
    a, x = example((4, 6))
    want = exact(a, x).float()
    torch.testing.assert_close(torch.func.vmap(kernels.bernoulli_log_prob)(a.unsqueeze(1), x.unsqueeze(1)).squeeze(1), want)
    torch.testing.assert_close(torch.compile(kernels.bernoulli_log_prob, backend="eager")(a, x), want)
    assert kernels.bernoulli_log_prob(a[:0], x[:0]).shape == (0,)
