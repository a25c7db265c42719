"""The kernel density conditional against its formula, quadrature and sums written out."""

import math

import pytest
import torch
from scipy import stats

from dither import corruption
from dither.chains import Denoiser, KernelConditional

NAN = math.nan


@pytest.fixture
def pairs():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 2, generator=generator) + torch.tensor([3.0, -40.0])
    return x, x + torch.randn(6, 2, generator=generator)


def brute(pairs: tuple[torch.Tensor, torch.Tensor], corrupted: torch.Tensor, s: float) -> list[float]:
    """w_i, by the definition."""
    weights = [
        math.exp(-sum((float(a) - float(b)) ** 2 for a, b in zip(corrupted, c, strict=True)) / (2 * s * s)) for c in pairs[1]
    ]
    return [w / sum(weights) for w in weights]


def test_the_kernel_density_is_its_formula_and_integrates_to_one(pairs):
    learned = KernelConditional(*pairs, bandwidth_corrupted=0.8, bandwidth_x=0.5)
    corrupted = torch.tensor([2.5, -39.0])
    weights = brute(pairs, corrupted, 0.8)
    for x in (torch.tensor([3.0, -40.0]), torch.tensor([1.0, -41.5])):
        density = sum(
            w * math.prod(stats.norm.pdf(float(x[j]), float(c[j]), 0.5) for j in (0, 1))
            for w, c in zip(weights, pairs[0], strict=True)
        )
        assert float(learned.log_prob(corrupted[None], x[None])) == pytest.approx(math.log(density), rel=1e-9)
    axis = torch.linspace(-6, 6, 241, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis) + torch.tensor([3.0, -40.0])
    mass = learned.log_prob(corrupted.expand(len(grid), 2), grid).exp().sum() * 0.05**2
    assert float(mass) == pytest.approx(1, abs=1e-6)


def test_samples_have_the_moments_of_the_density(pairs):
    learned = KernelConditional(*pairs, bandwidth_corrupted=0.8, bandwidth_x=0.5)
    corrupted = torch.tensor([2.5, -39.0])
    weights = torch.tensor(brute(pairs, corrupted, 0.8))
    torch.manual_seed(0)
    samples = learned.sample(corrupted.expand(40_000, 2))
    mean = weights @ pairs[0]
    spread = (weights[:, None] * (pairs[0] - mean)).T @ (pairs[0] - mean) + 0.25 * torch.eye(2)
    assert (samples.mean(0) - mean).abs().max() < 4 * float(spread.diagonal().max() / 40_000) ** 0.5
    torch.testing.assert_close(samples.T.cov(), spread, rtol=0.05, atol=0.02)


def test_clamped_samples_follow_the_exact_conditional(pairs):
    """P(x_1 | x~, x_2) is a mixture with its own weights: its distribution function, against the samples."""
    learned = KernelConditional(*pairs, bandwidth_corrupted=0.8, bandwidth_x=0.3)
    corrupted, value = torch.tensor([2.5, -39.0]), -39.5
    weights = brute(pairs, corrupted, 0.8)
    weights = [w * stats.norm.pdf(value, float(c[1]), 0.3) for w, c in zip(weights, pairs[0], strict=True)]
    torch.manual_seed(0)
    values = torch.tensor([NAN, value]).expand(5000, 2)
    samples = learned.sample(corrupted.expand(5000, 2), torch.tensor([False, True]), values)
    assert (samples[:, 1] == value).all()

    def cdf(v):
        return sum(w * stats.norm.cdf(v, float(c[0]), 0.3) for w, c in zip(weights, pairs[0], strict=True)) / sum(weights)

    assert stats.kstest(samples[:, 0].numpy(), cdf).pvalue > 1e-3
    without = learned.sample(corrupted.expand(5000, 2))  # the test would see it if the clamped value did not count
    assert stats.kstest(without[:, 0].numpy(), cdf).pvalue < 1e-6


def test_chunks_change_no_sample_and_no_density(pairs):
    whole, parts = (KernelConditional(*pairs, 0.8, 0.5, chunk=chunk) for chunk in (None, 3))
    corrupted, values = pairs[1][[0, 1, 2, 3, 4, 5, 0]], pairs[0][[1, 1, 2, 3, 4, 5, 0]]
    clamp = torch.zeros(7, 2, dtype=torch.bool)
    clamp[:5, 1] = True
    torch.testing.assert_close(whole.log_prob(corrupted, values), parts.log_prob(corrupted, values))
    samples = []
    for learned in (whole, parts):
        torch.manual_seed(0)
        samples.append(learned.sample(corrupted, clamp, values))
    torch.testing.assert_close(*samples)
    assert samples[0].dtype == torch.float32 and torch.equal(samples[0][:5, 1], values[:5, 1])


def test_the_clamped_chain_keeps_its_units(pairs):
    chain = Denoiser(corruption.Gaussian(1.0), KernelConditional(*pairs, 0.8, 0.5))
    state = chain.start(pairs[0])
    for _ in range(3):
        state = chain.step(state, torch.tensor([True, False]), pairs[0])
    assert torch.equal(state.x[:, 0], pairs[0][:, 0]) and not torch.equal(state.x, pairs[0])


def test_far_from_every_pair_the_nearest_counts(pairs):
    learned = KernelConditional(*pairs, bandwidth_corrupted=0.01, bandwidth_x=1e-4)
    samples = learned.sample(torch.full((50, 2), 1e3))
    nearest = (pairs[1] - 1e3).square().sum(1).argmin()
    torch.testing.assert_close(samples, pairs[0][nearest].expand(50, 2), rtol=0, atol=1e-3)


def test_what_is_refused(pairs):
    x, corrupted = pairs
    with pytest.raises(ValueError, match=r"corrupted \(5, 2\)"):
        KernelConditional(x, corrupted[:5], 1.0, 1.0)
    with pytest.raises(ValueError, match="bandwidth_x is 0"):
        KernelConditional(x, corrupted, 1.0, 0.0)
    with pytest.raises(ValueError, match="infinity or NaN"):
        KernelConditional(x, corrupted.masked_fill(torch.eye(6, 2, dtype=torch.bool), NAN), 1.0, 1.0)
    with pytest.raises(ValueError, match=r"\(batch, 2\) is needed"):
        KernelConditional(x, corrupted, 1.0, 1.0).sample(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="they must be the same"):
        KernelConditional(x, corrupted, 1.0, 1.0).log_prob(x, x[:3])
    with pytest.raises(ValueError, match="chunk is 0"):
        KernelConditional(x, corrupted, 1.0, 1.0, chunk=0).sample(x)
