"""The Parzen estimate against sums of torch's own Gaussians in float64, against sklearn, and against its integral."""

import math

import pytest
import torch
from sklearn.neighbors import KernelDensity

from dither.metrics import _parzen, choose_sigma, parzen
from largest_tensor import LargestTensor


def images(n, units=64, seed=0):
    return torch.rand(n, units, generator=torch.Generator().manual_seed(seed))


def oracle(samples, test, sigma):
    normal = torch.distributions.Normal(samples.double().unsqueeze(0), sigma)
    return torch.logsumexp(normal.log_prob(test.double().unsqueeze(1)).sum(-1), 1) - math.log(len(samples))


@pytest.mark.parametrize("sigma", [0.01, 0.2, 3.0])
@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_against_gaussians(sigma, chunk):
    samples, test = images(40), images(30, seed=1)
    expected = oracle(samples, test, sigma)
    measured = parzen(samples, test, sigma, chunk=chunk)
    torch.testing.assert_close(measured.log_likelihood, expected, rtol=1e-11, atol=1e-11)
    assert measured.mean == pytest.approx(float(expected.mean()), rel=1e-11)
    assert measured.standard_error == pytest.approx(float(expected.std() / 30**0.5), rel=1e-9)
    assert measured.sigma == sigma


def test_far_from_the_origin():
    samples, test = images(40) + 500, images(30, seed=1) + 500
    torch.testing.assert_close(parzen(samples, test, 0.2).log_likelihood, oracle(samples, test, 0.2), rtol=1e-9, atol=0)


def test_against_sklearn():
    samples, test = images(40).double(), images(30, seed=1).double()
    # A leaf for all points: bounds added and taken away in its tree cost sklearn all digits in many dimensions.
    density = KernelDensity(bandwidth=0.2, leaf_size=len(samples)).fit(samples.numpy())
    expected = torch.from_numpy(density.score_samples(test.numpy()))
    torch.testing.assert_close(parzen(samples, test, 0.2).log_likelihood, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("units", [1, 2])
def test_the_density_integrates_to_one(units):
    samples = images(5, units)
    axis = torch.arange(-1.5, 2.5, 0.05, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * units).view(-1, units)
    total = parzen(samples, grid, 0.2).log_likelihood.exp().sum() * 0.05**units
    assert float(total) == pytest.approx(1, abs=1e-8)


def test_far_points_do_not_underflow():
    measured = parzen(torch.zeros(3, 2), torch.tensor([[100.0, 0.0], [0.0, 100.0]]), 0.1)
    assert measured.mean == pytest.approx(-(1e4) / 0.02 - math.log(2 * math.pi * 0.01), rel=1e-13)
    assert measured.standard_error == 0


def test_the_standard_error_of_ten_thousand_is_a_hundredth():
    measured = parzen(images(3, 2), images(10_000, 2, seed=1), 0.2)
    assert measured.standard_error == pytest.approx(float(measured.log_likelihood.std()) / 100, rel=1e-12)


def test_choose_sigma_takes_the_likeliest():
    samples, validation = images(60, 5), images(50, 5, seed=1)
    means = [parzen(samples, validation, sigma).mean for sigma in _parzen.SIGMAS]
    best = max(range(10), key=means.__getitem__)
    assert 0 < best < 9, "the optimum lies inside the grid, else this test shows little"
    assert choose_sigma(samples, validation) == _parzen.SIGMAS[best]
    assert choose_sigma(samples, validation, chunk=7) == _parzen.SIGMAS[best]


def test_the_default_grid():
    assert len(_parzen.SIGMAS) == 10
    assert _parzen.SIGMAS[0] == pytest.approx(0.1) and _parzen.SIGMAS[-1] == 1
    ratios = [b / a for a, b in zip(_parzen.SIGMAS, _parzen.SIGMAS[1:], strict=False)]
    assert ratios == pytest.approx([10 ** (1 / 9)] * 9)


def test_choose_sigma_computes_distances_once(monkeypatch):
    calls = []
    original = _parzen.squared_distances
    monkeypatch.setattr(_parzen, "squared_distances", lambda *a, **k: calls.append(1) or original(*a, **k))
    choose_sigma(images(5), images(4))
    assert len(calls) == 1


def test_chunk_bounds_the_largest_tensor():
    samples, test = images(900, 5), images(800, 5, seed=1)
    with LargestTensor() as seen:
        parzen(samples, test, 0.2, chunk=10)
    assert seen.bytes == 900 * 10 * 8


@pytest.mark.parametrize("sigma", [0.0, -0.2, math.nan, math.inf, 1e-200])
def test_bad_sigma(sigma):
    with pytest.raises(ValueError, match=r"sigma is .*> 0"):
        parzen(images(3), images(2), sigma)
    with pytest.raises(ValueError, match="sigma is"):
        choose_sigma(images(3), images(2), sigmas=[0.1, sigma])


@pytest.mark.parametrize(
    ("samples", "test", "message"),
    [
        (torch.full((2, 3), torch.nan), torch.zeros(2, 3), "samples holds NaN"),
        (torch.zeros(2, 3), torch.full((2, 3), torch.inf), "test holds NaN or inf"),
        (torch.zeros(0, 3), torch.zeros(2, 3), "samples has shape"),
        (torch.zeros(2, 3), torch.zeros(0, 3), "test has shape"),
        (torch.zeros(2, 1, 3), torch.zeros(2, 3), "samples has shape.*flatten"),
        (torch.zeros(2, 4), torch.zeros(2, 3), "samples has 4 units and test has 3"),
        (torch.zeros(2, 3), torch.zeros(1, 3), "test holds 1 example"),
    ],
)
def test_bad_points(samples, test, message):
    with pytest.raises(ValueError, match=message):
        parzen(samples, test, 0.2)


def test_no_widths():
    with pytest.raises(ValueError, match="sigmas is empty"):
        choose_sigma(images(3), images(2), sigmas=[])


def test_the_tensor_stays_out_of_repr_and_comparison():
    a, b = parzen(images(3), images(2), 0.2), parzen(images(3), images(2), 0.2)
    assert "tensor" not in repr(a) and a == b
