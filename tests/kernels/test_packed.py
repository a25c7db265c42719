"""Packed bits: to and from numbers, products, scores, log-probabilities, on every path, against float64."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dither import kernels
from dither.kernels import _library, _native, _reference

NAMES = ("avx512", "avx2", "neon", "portable")
LIBRARY = _library.LIBRARY
PATHS = [name for name in NAMES if LIBRARY is not None and LIBRARY.dither_set_path(name.encode())] or ["torch"]


@pytest.fixture(params=PATHS, autouse=True)
def path(request):
    if LIBRARY is not None:
        LIBRARY.dither_set_path(request.param.encode())
    yield request.param
    if LIBRARY is not None:
        LIBRARY.dither_set_path(PATHS[0].encode())


def bits(rows, units, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(rows, units, generator=generator) < torch.rand(units, generator=generator)).float()


SIZES = st.one_of(st.integers(1, 200), st.sampled_from([63, 64, 65, 127, 128, 500]))


@given(st.integers(0, 9), SIZES, st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
@settings(max_examples=50)
def test_there_and_back(rows, units, dtype):
    h = bits(rows, units).to(dtype)
    packed = kernels.pack(h)
    assert packed.shape == (rows, -(-units // 64)) and packed.dtype == torch.int64
    assert torch.equal(packed, _reference.pack(h))
    assert torch.equal(kernels.unpack(packed, units, dtype), h)
    if LIBRARY is not None:
        assert torch.equal(_native.turn_bits(packed, units), _reference.turn_bits(packed, units))


def test_leading_dimensions_and_minus_zero():
    h = bits(6, 70).view(2, 3, 70)
    assert torch.equal(kernels.unpack(kernels.pack(-h), 70), h)
    for dtype in (torch.float32, torch.bfloat16):
        assert not kernels.pack(torch.full((1, 3), -0.0, dtype=dtype)).any()


@given(st.integers(1, 70), SIZES, SIZES, st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_products(rows, inputs, outputs, seed):
    torch.manual_seed(seed)
    h, w, b, g = bits(rows, inputs, seed), torch.randn(outputs, inputs), torch.randn(outputs), torch.randn(rows, outputs)
    packed = kernels.pack(h)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            near(kernels.packed_linear(packed, w, b), h.double() @ w.double().T + b.double())
            near(kernels.packed_linear(packed, w.T.contiguous().T), h.double() @ w.double().T)
            near(kernels.packed_outer(packed, g, inputs), g.double().T @ h.double())
    finally:
        torch.set_num_threads(before)


def near(actual, expected):
    # Sums of up to 500 numbers: a few units of the last place of the maximum, as for a dense product.
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=2e-6 * (1 + float(expected.abs().max())))


def test_gradients_of_the_layer():
    h = bits(20, 70).double()
    w, b = torch.randn(9, 70, dtype=torch.float64, requires_grad=True), torch.randn(9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, b: kernels.packed_linear(kernels.pack(h), w, b).sin(), (w, b))
    w32, b32 = w.detach().float().requires_grad_(), b.detach().float().requires_grad_()
    loss = kernels.packed_linear(kernels.pack(h), w32, b32).sin().sum()
    dense = torch.nn.functional.linear(h, w, b).sin().sum()
    for actual, expected in zip(torch.autograd.grad(loss, (w32, b32)), torch.autograd.grad(dense, (w, b)), strict=True):
        near(actual, expected)


def test_vmap_over_the_bits():
    h, w = bits(4 * 10, 70).view(4, 10, 70), torch.randn(9, 70)
    output = torch.func.vmap(lambda p: kernels.packed_linear(p, w))(kernels.pack(h))
    near(output, h.double() @ w.double().T)
    many, b = torch.randn(3, 9, 70), torch.randn(3, 9)
    output = torch.func.vmap(lambda w, b: kernels.packed_linear(kernels.pack(h[0]), w, b))(many, b)
    near(output, h[0].double() @ many.double().mT + b.double().unsqueeze(1))


@pytest.mark.parametrize(("rows", "units"), [*itertools.product([1, 5], [1, 64, 100])])
def test_score_and_log_probability(rows, units):
    h, a = bits(rows, units), torch.linspace(-100, 100, rows * units).view(rows, units)
    if units > 3:
        a[0, :2] = torch.tensor([torch.inf, -torch.inf])
        h[0, :2] = torch.tensor([1.0, 0.0])
    packed = kernels.pack(h)
    for advantage in (torch.randn(rows, 1), torch.randn(rows, units), torch.ones(1, 1)):
        expected = (h.double() - torch.sigmoid(a.double())) * advantage.double()
        torch.testing.assert_close(kernels.packed_score(packed, a, advantage).double(), expected, rtol=3e-7, atol=3e-7)
    own = a.clone()
    assert kernels.packed_score(packed, own, torch.ones(1, 1), in_place=True).shape == own.shape
    expected = torch.nn.functional.logsigmoid((2 * h.double() - 1) * a.double()).sum(1)
    torch.testing.assert_close(kernels.packed_log_prob(packed, a).double(), expected, rtol=3e-7, atol=1e-6)


def test_bits_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"65 units take int64 words of shape \(\.\.\., 2\)"):
        kernels.packed_linear(torch.zeros(3, 1, dtype=torch.int64), torch.zeros(4, 65))
    with pytest.raises(ValueError, match=r"make them with dither\.kernels\.pack"):
        kernels.unpack(torch.zeros(3, 2), 65)
