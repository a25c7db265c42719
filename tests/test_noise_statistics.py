"""Whether the noise is as random as it says.

Seeds are fixed, so a test is green for good or red for good. LIMIT is the two-sided z of the library's policy: a suite of
1,000 such comparisons of true statements would be red for one seed in 10^6; P_VALUE is the same for tests with a p-value.
"""

import math

import pytest
import torch
from scipy import stats

from dither import functional, kernels, noise

LIMIT = 6.1
P_VALUE = 1e-9
LIKE = torch.zeros(1)


def draw(kind, *shape, seed=20, site=0, sample=0):
    return kind(torch.tensor(seed), site, torch.tensor(sample), shape, LIKE)


@pytest.fixture(scope="module")
def uniforms():
    return draw(noise.uniform, 1024, 4096)


@pytest.mark.parametrize("p", [1e-6, 1e-3, 0.5, 1 - 1e-3, 1 - 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rate_of_events(uniforms, p, dtype):
    # 4.2M draws: 1e-6 is 4 events expected, so its Poisson p-value is taken instead of z.
    logit = torch.tensor(math.log(p / (1 - p)), dtype=dtype)
    hits = int(functional.bernoulli_sample(logit.expand(uniforms.shape), uniforms).sum())
    assert stats.binomtest(hits, uniforms.numel(), p).pvalue > P_VALUE


@pytest.mark.parametrize("logit", [-6.90625, 8.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rates_in_half_precision(logit, dtype):
    # Both logits are exact. In bfloat16 noise below .001 would come 3 times too often, and sigmoid(8) would be 1.
    drawn = draw(noise.uniform, 512, 4096)
    hits = int(functional.bernoulli_sample(torch.tensor(logit, dtype=dtype).expand(512, 4096), drawn).float().sum())
    assert stats.binomtest(hits, 512 * 4096, 1 / (1 + math.exp(-logit))).pvalue > P_VALUE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rates_of_the_fused_decision(dtype):
    """Chi-square over probabilities from 1e-6 to 1 - 1e-6, 2^23 decisions each, of the operator that nodes sample with."""
    total, n = 0.0, 1 << 23
    logits = [-13.8155, -9.21, -6.90625, -4.0, -2.0, -0.5, 0.0, 0.5, 2.0, 4.0, 6.90625, 9.21, 13.8155]
    for site, logit in enumerate(torch.tensor(logits, dtype=dtype)):
        key = noise.Keyed("uniform", torch.tensor(20), site, torch.tensor(0), (2048, 4096), torch.device("cpu")).key
        hits = float(kernels.bernoulli(logit.expand(2048, 4096), key).float().sum(dtype=torch.float64))
        p = 1 / (1 + math.exp(-float(logit)))
        total += (hits - n * p) ** 2 / (n * p * (1 - p))
    assert P_VALUE < stats.chi2(len(logits)).sf(total) < 1 - P_VALUE


def test_decisions_of_units_that_share_words_are_independent():
    key = noise.Keyed("uniform", torch.tensor(21), 0, torch.tensor(0), (2048, 4096), torch.device("cpu")).key
    h = kernels.bernoulli(torch.zeros(2048, 4096), key).view(2048, -1, 2, 64) - 0.5
    assert abs(float((h[:, :, 0] * h[:, :, 1]).double().mean() * 4 * math.sqrt(h.numel() / 2))) < LIMIT


def test_smallest_uniforms_have_their_rate(uniforms):
    # Resolution 2^-32 near 0: of n uniforms, the least are about k / n.
    least = uniforms.flatten().double().kthvalue(50).values
    assert stats.beta(50, uniforms.numel() - 49).cdf(float(least)) == pytest.approx(0.5, abs=0.5 - P_VALUE)
    assert len(uniforms.flatten().double().sort().values[:50].unique()) >= 49


def test_uniformity(uniforms):
    counts = torch.histc(uniforms, 1000, 0, 1)
    assert stats.chisquare(counts.double().numpy()).pvalue > P_VALUE


def test_pairs_of_neighbours_fill_the_square(uniforms):
    cells = (uniforms[:, :-1] * 32).long() * 32 + (uniforms[:, 1:] * 32).long()
    counts = torch.bincount(cells[:, ::2].flatten(), minlength=1024)
    assert stats.chisquare(counts.numpy()).pvalue > P_VALUE


def correlation(a, b):
    return float(((a - 0.5) * (b - 0.5)).double().mean() * 12 * math.sqrt(a.numel()))  # standard normal if independent


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5, 8, 16, 64, 128])  # at 64 two units share their words
def test_units_and_examples_are_uncorrelated(uniforms, lag):
    assert abs(correlation(uniforms[:, :-lag], uniforms[:, lag:])) < LIMIT
    assert abs(correlation(uniforms[:-lag], uniforms[lag:])) < LIMIT


@pytest.mark.parametrize("other", [{"seed": 21}, {"seed": 20 + 2**32}, {"site": 1}, {"sample": 1}])
def test_streams_are_uncorrelated(uniforms, other):
    assert abs(correlation(uniforms[:256], draw(noise.uniform, 256, 4096, **other))) < LIMIT


def test_seeds_of_steps_are_uniform():
    seeds = torch.tensor([noise.step_seed(3, step) for step in range(4000)], dtype=torch.float64) / 2**63
    assert stats.kstest(seeds.numpy(), "uniform").pvalue > P_VALUE


@pytest.fixture(scope="module")
def normals():
    return draw(noise.normal, 1024, 2048)


def test_normals(normals):
    assert stats.kstest(normals[:200].flatten().double().numpy(), "norm").pvalue > P_VALUE
    assert abs(float(normals.double().mean())) * math.sqrt(normals.numel()) < LIMIT
    assert abs(float(normals.double().var()) - 1) * math.sqrt(normals.numel() / 2) < LIMIT


@pytest.mark.parametrize("bound", [2.0, 3.0, 4.0, 4.75])
def test_tails_of_normals(normals, bound):
    for tail in (normals > bound, normals < -bound):
        assert stats.binomtest(int(tail.sum()), normals.numel(), stats.norm.sf(bound)).pvalue > P_VALUE


def test_the_two_normals_of_a_pair_are_independent(normals):
    even, odd = normals[:, ::2].double(), normals[:, 1::2].double()
    for a, b in ((even, odd), (even.square() - 1, odd.square() - 1)):
        assert abs(float((a * b).mean() / (a.std() * b.std()))) * math.sqrt(even.numel()) < LIMIT
