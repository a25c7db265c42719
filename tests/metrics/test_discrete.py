"""Small discrete spaces against sums written out, scipy, and the theorem that denoising chains rest on."""

import itertools
import math

import pytest
import scipy.stats
import torch

from dither.metrics import all_states, conditional, kl, stationary, transition_matrix


def random_rows(rows, states, seed=0):
    return torch.rand(rows, states, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).log_softmax(1)


@pytest.mark.parametrize(("units", "values"), [(1, 1), (1, 2), (3, 2), (2, 5), (4, 3)])
def test_all_states(units, values):
    expected = list(itertools.product(range(values), repeat=units))
    assert all_states(units, values=values).tolist() == [list(state) for state in expected]
    assert all_states(units, values=values).dtype == torch.int64


@pytest.mark.parametrize(("units", "values"), [(0, 2), (2, 0), (21, 2), (7, 8), (10**9, 2)])
def test_no_or_too_many_states(units, values):
    with pytest.raises(ValueError, match=f"units={units}, values={values}"):
        all_states(units, values=values)


def test_the_maximum_number_of_states():
    assert len(all_states(20)) == 1 << 20


def test_transition_matrix_is_the_sum_over_corruptions():
    corruption, reconstruction = random_rows(4, 3), random_rows(3, 4, seed=1)
    matrix = transition_matrix(corruption, reconstruction)
    for x, y in itertools.product(range(4), repeat=2):
        terms = [math.exp(corruption[x, c]) * math.exp(reconstruction[c, y]) for c in range(3)]
        assert float(matrix[x, y]) == pytest.approx(sum(terms), rel=1e-14)
    assert matrix.dtype == torch.float64
    assert (matrix.sum(1) - 1).abs().max() < 1e-14


def test_the_true_posterior_makes_the_data_stationary():
    """Theorem 1 of generalized denoising auto-encoders, on 4 binary units with salt-and-pepper corruption."""
    states = all_states(4)
    p = torch.rand(16, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    p /= p.sum()
    flips = (states.unsqueeze(1) != states).sum(-1).double()
    corruption = flips * math.log(0.2) + (4 - flips) * math.log(0.8)
    posterior = (p.log().unsqueeze(1) + corruption).log_softmax(0).T
    limit = stationary(transition_matrix(corruption, posterior))
    assert (limit - p).abs().sum() < 1e-14
    assert kl(p, limit) < 1e-14


def test_what_cannot_be_stays_zero():
    identity = torch.eye(3).log()
    assert torch.equal(transition_matrix(identity, identity), torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("corruption", "reconstruction", "message"),
    [
        (random_rows(4, 3), random_rows(4, 3), r"\(4, 3\) and log_reconstruction \(4, 3\).*transpose"),
        (random_rows(4, 3), random_rows(3, 5), "log_corruption has shape"),
        (random_rows(4, 3)[0], random_rows(3, 4), r"log_corruption has shape \(3,\)"),
        (random_rows(4, 3)[:0], random_rows(3, 4), "log_corruption has shape"),
        (random_rows(4, 3) * torch.nan, random_rows(3, 4), r"exp\(log_corruption\) holds nan"),
        (random_rows(4, 3), random_rows(3, 4) * -torch.inf, r"exp\(log_reconstruction\) holds inf"),
        (random_rows(4, 3) + 2e-9, random_rows(3, 4), r"exp\(log_corruption\) sums to 1\.000000002 in row"),
        (random_rows(4, 3), random_rows(3, 4) - 2e-9, r"exp\(log_reconstruction\) sums to 0\.999999998 in row"),
    ],
)
def test_bad_chain(corruption, reconstruction, message):
    with pytest.raises(ValueError, match=message):
        transition_matrix(corruption, reconstruction)


def test_the_row_at_fault_is_named():
    corruption = random_rows(4, 3)
    corruption[2, 0] += 1
    with pytest.raises(ValueError, match="in row 2"):
        transition_matrix(corruption, random_rows(3, 4))


def test_kl():
    p, q = random_rows(1, 9)[0].exp(), random_rows(1, 9, seed=1)[0].exp()
    assert kl(p, q) == pytest.approx(float(scipy.stats.entropy(p, q)), rel=1e-12)
    assert kl(q, p) == pytest.approx(float(scipy.stats.entropy(q, p)), rel=1e-12)
    assert kl(p, p) == 0
    assert kl(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])) == pytest.approx(math.log(2), rel=1e-15)


def test_kl_is_not_negative_by_rounding():
    for seed in range(50):
        p = random_rows(1, 9, seed)[0].exp()
        q = p * (1 + 1e-15 * random_rows(1, 9, seed + 1)[0])
        assert 0 <= kl(p, q / q.sum()) < 1e-15


def test_kl_is_infinite_where_q_rules_out_what_p_allows():
    half, sure = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])
    assert kl(half, sure) == math.inf
    assert kl(sure, sure) == 0


def test_kl_of_very_unlikely_states():
    tiny = torch.tensor([1 - 1e-300, 1e-300], dtype=torch.float64)
    assert kl(torch.tensor([0.5, 0.5]), tiny) == pytest.approx(math.log(0.5) + 150 * math.log(10), rel=1e-12)


HALF = torch.tensor([0.5, 0.5])


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (torch.tensor([0.5, 0.6]), "p sums to 1.1.*: prob"),
        (torch.tensor([1.5, -0.5]), "p holds -0.5"),
        (torch.tensor([torch.nan, 1.0]), "p holds nan"),
        (torch.tensor([torch.inf, 0.0]), "p holds inf"),
        (torch.zeros(0), "p has shape"),
        (HALF.view(1, 2), "p has shape"),
        (torch.tensor([0.1, 0.9]).float(), "p sums to .*float64"),
        (torch.tensor([0.25, 0.25, 0.5]), "p has 3 states and q has 2"),
    ],
)
def test_no_distribution(p, message):
    with pytest.raises(ValueError, match=message):
        kl(p, HALF)
    with pytest.raises(ValueError, match=message.replace("p ", "q ", 1) if "and" not in message else "p has 2 states"):
        kl(HALF, p)


def test_conditional_by_hand():
    states, p = all_states(3), random_rows(1, 8)[0].exp()
    mask, values = torch.tensor([True, False, True]), torch.tensor([1, 7, 0])  # the 7 is not read
    exact = conditional(p, states, mask, values)
    agree = [0b100, 0b110]
    for i in range(8):
        assert float(exact[i]) == pytest.approx(float(p[i] / p[agree].sum()) if i in agree else 0, rel=1e-14)


def test_conditional_on_nothing_and_on_all():
    states, p = all_states(2, values=3), random_rows(1, 9)[0].exp()
    free, everything = torch.zeros(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool)
    torch.testing.assert_close(conditional(p, states, free, states[0]), p, rtol=1e-14, atol=0)
    assert torch.equal(conditional(p, states, everything, states[5]), torch.eye(9, dtype=torch.float64)[5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": torch.tensor([2, 0])}, r"values \[2\] of units \[0\] have probability 0"),
        ({"p": torch.tensor([0.5, 0.5, 0.0, 0.0])}, r"values \[1\] of units \[0\]"),
        ({"p": torch.tensor([0.5, 0.5])}, "states has shape"),
        ({"p": torch.tensor([0.5, 0.5, 0.5, 0.5])}, "p sums to 2"),
        ({"clamp_mask": torch.tensor([True])}, r"clamp_mask has shape \(1,\)"),
        ({"clamp_mask": torch.tensor([1, 0])}, r"clamp_mask is torch.int64"),
        ({"values": torch.tensor([1])}, r"values has shape \(1,\)"),
    ],
)
def test_bad_condition(changes, message):
    usual = {"p": torch.full((4,), 0.25), "states": all_states(2), "clamp_mask": torch.tensor([True, False])}
    with pytest.raises(ValueError, match=message):
        conditional(**{**usual, "values": torch.tensor([1, 0]), **changes})
