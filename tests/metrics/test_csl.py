"""CSL against torch's Bernoulli, and by enumeration of a tiny model: its expectation is a bound that rises."""

import itertools
import math

import pytest
import torch

from dither.metrics import all_states, csl
from largest_tensor import LargestTensor


def chain(n=50, units=12, seed=0):
    return 2 * torch.randn(n, units, generator=torch.Generator().manual_seed(seed))


def binary(m=20, units=12, seed=1):
    return torch.randint(0, 2, (m, units), generator=torch.Generator().manual_seed(seed)).float()


def oracle(logits, test):
    bernoulli = torch.distributions.Bernoulli(logits=logits.double().unsqueeze(1))
    return torch.logsumexp(bernoulli.log_prob(test.double()).sum(-1), 0) - math.log(len(logits))


@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_against_bernoulli(chunk):
    logits, test = chain(), binary()
    rows = csl(logits, test, counts=[1, 10, 50], chunk=chunk)
    assert [row["samples"] for row in rows] == [1, 10, 50]
    for row in rows:
        expected = oracle(logits[: row["samples"]], test)
        assert row["csl"] == pytest.approx(float(expected.mean()), rel=1e-12)
        assert row["standard_error"] == pytest.approx(float(expected.std() / 20**0.5), rel=1e-10)


def test_no_digits_lost_where_units_are_certain():
    logits = torch.tensor([[800.0, -800.0, 30.0]])
    rows = csl(logits, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]))
    certain = -math.log1p(math.exp(-30))
    assert rows[0]["csl"] == pytest.approx((certain + certain - 800) / 2, rel=1e-12)


def test_a_bound_in_expectation_that_rises_with_the_samples():
    prior = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    logits = chain(3, 4).double()
    test = all_states(4)
    likelihood = torch.distributions.Bernoulli(logits=logits.unsqueeze(1)).log_prob(test.double()).sum(-1).exp()
    truth = float((prior @ likelihood).log().mean())
    expectations = []
    for n in range(1, 6):
        total = 0.0
        for states in itertools.product(range(3), repeat=n):  # every chain of n independent draws of h
            total += float(prior[list(states)].prod()) * csl(logits[list(states)], test, counts=[n])[0]["csl"]
        expectations.append(total)
    assert all(a < b for a, b in itertools.pairwise(expectations))
    assert expectations[-1] < truth
    assert truth - expectations[-1] < (truth - expectations[0]) / 3
    many = torch.multinomial(prior, 20_000, replacement=True, generator=torch.Generator().manual_seed(0))
    assert csl(logits[many], test)[-1]["csl"] == pytest.approx(truth, abs=0.01)


def test_default_counts():
    test = binary(3)
    assert [row["samples"] for row in csl(chain(50), test)] == [50]
    assert [row["samples"] for row in csl(chain(100), test)] == [100]
    assert [row["samples"] for row in csl(chain(1001), test)] == [100, 1000, 1001]


def test_integers_and_booleans_are_binary():
    logits, test = chain(), binary()
    assert csl(logits, test.bool()) == csl(logits, test.to(torch.uint8)) == csl(logits, test)


def test_chunk_bounds_the_largest_tensor():
    logits, test = chain(500), binary(400)
    with LargestTensor() as seen:
        csl(logits, test, counts=[100, 500], chunk=15)
    assert seen.bytes == max(15 * 400 * 8, 400 * 12 * 8)


@pytest.mark.parametrize(
    ("logits", "test", "message"),
    [
        (chain() * torch.nan, binary(), "logits holds NaN"),
        (chain() * torch.inf, binary(), "logits holds NaN or infinity"),
        (chain(), binary() * torch.nan, "test holds NaN"),
        (chain(), binary() / 4, r"test holds 0.25.*binarise"),
        (chain(), binary() * 2 - 1, r"test holds -1.*binarise"),
        (chain()[:0], binary(), "logits has shape"),
        (chain(), binary()[:0], "test has shape"),
        (chain(), binary()[:1], "test holds 1 example"),
        (chain(), binary(units=11), "logits has 12 units and test has 11"),
        (chain()[0], binary(), "logits has shape"),
    ],
)
def test_bad_input(logits, test, message):
    with pytest.raises(ValueError, match=message):
        csl(logits, test)


@pytest.mark.parametrize("counts", [[], [0], [51], [10, 10], [20, 10], [1.0], [True]])
def test_bad_counts(counts):
    with pytest.raises(ValueError, match="counts is"):
        csl(chain(), binary(), counts=counts)
