"""Counts, and the chains of any denoiser, against enumeration and sums written out."""

import math

import pytest
import torch
from scipy import stats

from dither import corruption, noise
from dither.chains import Counts, Denoiser

STATES = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
COUNTS = torch.tensor([[5.0, 1.0, 0.0, 2.0], [0.0, 3.0, 3.0, 0.0], [1.0, 1.0, 1.0, 5.0], [0.0, 0.0, 0.0, 4.0]])
NAN = math.nan


def exact_conditional(data: torch.Tensor, corrupt: corruption.Corruption, states: torch.Tensor) -> torch.Tensor:
    forward = torch.stack([corrupt.log_prob(states, x.expand_as(states)).exp() for x in states])
    joint = (data[:, None] * forward).T
    return joint / joint.sum(1, keepdim=True)


def chi_square(samples: torch.Tensor, probabilities: torch.Tensor) -> float:
    """p-value that rows of STATES came with these probabilities."""
    counts = torch.bincount((samples * torch.tensor([2.0, 1.0])).sum(1).long(), minlength=4).double()
    possible = probabilities > 0
    assert not counts[~possible].any()
    if possible.sum() == 1:
        return 1.0
    return float(stats.chisquare(counts[possible], (probabilities * len(samples))[possible]).pvalue)


# --- counts -------------------------------------------------------------------------------------------------------------
def test_counting_is_counting():
    x, corrupted = torch.tensor([0, 0, 3, 3, 3, 1]), torch.tensor([0, 1, 1, 3, 3, 2])
    table = torch.zeros(4, 4, dtype=torch.float64)
    for a, b in zip(x, corrupted, strict=True):
        table[b, a] += 1
    learned = Counts.fit(x, corrupted, STATES).conditional()
    torch.testing.assert_close(learned, table / table.sum(1, keepdim=True))
    learned = Counts.fit(x, corrupted, STATES, 0.5).conditional()
    torch.testing.assert_close(learned, (table + 0.5) / (table + 0.5).sum(1, keepdim=True))
    assert learned.dtype == torch.float64


def test_corrupted_states_may_be_others_than_the_states():
    masked = torch.tensor([[NAN, NAN], [-1.0, 1.0], [0.0, -1.0]])[1:]
    learned = Counts.fit(torch.tensor([1, 1, 3]), torch.tensor([1, 0, 0]), STATES, corrupted_states=masked)
    expected = torch.tensor([[0, 0.5, 0, 0.5], [0, 1, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(learned.conditional(), expected)
    assert learned.log_prob(masked, STATES[[3, 1]]).exp().tolist() == pytest.approx([0.5, 1.0])


def test_a_state_that_was_never_seen_is_an_error_unless_asked_otherwise():
    pairs = torch.tensor([0, 3]), torch.tensor([0, 3])
    learned = Counts.fit(*pairs, STATES)
    with pytest.raises(ValueError, match=r"state \[0\.0, 1\.0\] is in no pair"):
        learned.conditional()
    with pytest.raises(ValueError, match=r"state \[1\.0, 0\.0\] is in no pair"):
        learned.sample(STATES[[0, 2]])
    assert learned.sample(STATES[[0, 3]]).tolist() == [[0, 0], [1, 1]]  # the rows that were seen are of use
    uniform = Counts.fit(*pairs, STATES, unseen="uniform").conditional()
    assert uniform[1].tolist() == [0.25] * 4 and uniform[0].tolist() == [1, 0, 0, 0]


def test_samples_follow_the_table_and_the_seed():
    learned = Counts(COUNTS, STATES)
    for i in range(4):
        torch.manual_seed(i)
        samples = learned.sample(STATES[i].expand(20_000, 2))
        assert chi_square(samples, learned.conditional()[i]) > 1e-3
        torch.manual_seed(i)
        assert torch.equal(samples, learned.sample(STATES[i].expand(20_000, 2)))
    with noise.examples(torch.tensor([7, 5])):
        torch.manual_seed(0)
        first = learned.sample(STATES[[0, 2]])
    with noise.examples(torch.tensor([5, 7])):
        torch.manual_seed(0)
        assert torch.equal(learned.sample(STATES[[2, 0]]), first.flip(0))


def test_clamped_samples_follow_the_conditional():
    learned = Counts(COUNTS, STATES)
    clamp = torch.tensor([False, True])
    for value in (0.0, 1.0):
        values = torch.tensor([NAN, value]).expand(20_000, 2)  # what is not clamped is not read
        allowed = learned.conditional()[2] * (STATES[:, 1] == value)
        samples = learned.sample(STATES[2].expand(20_000, 2), clamp, values)
        assert chi_square(samples, allowed / allowed.sum()) > 1e-3
    with pytest.raises(ValueError, match="row 1 was ever seen"):
        learned.sample(STATES[[0, 3]], clamp, torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    each = torch.tensor([[True, False], [False, True]])
    samples = learned.sample(STATES[[0, 1]], each, STATES[[0, 2]])
    assert samples[0, 0] == 0 and samples[1].tolist() == [1, 0]


def test_blocks_change_nothing(monkeypatch):
    learned, clamp = Counts(COUNTS, STATES), torch.tensor([True, False])
    torch.manual_seed(0)
    whole = learned.sample(STATES, clamp, STATES[[0, 2, 3, 3]])
    monkeypatch.setattr("dither.chains._sampling.BUDGET", 8 * STATES.numel() * 3)
    torch.manual_seed(0)
    assert torch.equal(learned.sample(STATES, clamp, STATES[[0, 2, 3, 3]]), whole)


def test_what_counts_refuse():
    with pytest.raises(ValueError, match=r"counts has shape \(4, 3\)"):
        Counts(COUNTS[:, :3], STATES)
    with pytest.raises(ValueError, match="negative"):
        Counts(-COUNTS, STATES)
    with pytest.raises(ValueError, match="pseudo_count is -1"):
        Counts(COUNTS, STATES, pseudo_count=-1)
    with pytest.raises(ValueError, match="listed once"):
        Counts(COUNTS, STATES[[0, 1, 2, 2]])
    with pytest.raises(ValueError, match="unseen is 'zero'"):
        Counts(COUNTS, STATES, unseen="zero")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="x_index runs from 0 to 4"):
        Counts.fit(torch.tensor([0, 4]), torch.tensor([0, 1]), STATES)
    with pytest.raises(ValueError, match=r"\(pairs,\) is needed"):
        Counts.fit(torch.tensor([0, 3]), torch.tensor([0]), STATES)
    with pytest.raises(ValueError, match=r"corrupted holds \[0\.5, 0\.0\]"):
        Counts(COUNTS, STATES).sample(torch.tensor([[0.0, 1.0], [0.5, 0.0]]))
    with pytest.raises(ValueError, match="without values"):
        Counts(COUNTS, STATES).sample(STATES, torch.tensor([True, False]))
    with pytest.raises(ValueError, match=r"values has shape \(3, 2\)"):
        Counts(COUNTS, STATES).sample(STATES, torch.tensor([True, False]), STATES[:3])


# --- the chain ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("clamped", [False, True])
def test_the_chain_of_the_exact_conditional_stays_in_the_data(clamped: bool):
    """60,000 chains that start far from the data, 25 steps: the distribution over chains is the data's."""
    data = torch.tensor([0.5, 0.1, 0.15, 0.25])
    corrupt = corruption.SaltAndPepper(0.6)
    chain = Denoiser(corrupt, Counts(exact_conditional(data, corrupt, STATES), STATES))
    torch.manual_seed(3)
    clamp = torch.tensor([True, False]) if clamped else None
    x = STATES[2].expand(60_000, 2)
    state = chain.start(x)
    for _ in range(25):
        state = chain.step(state, clamp, x if clamped else None)
    expected = data.double() * (STATES[:, 0] == 1) if clamped else data.double()
    assert chi_square(state.x, expected / expected.sum()) > 1e-3


def test_the_chain_corrupts_before_it_samples_and_clamps_a_start_elsewhere():
    seen = []

    class Copy:
        def sample(self, corrupted, clamp=None, values=None):
            seen.append((corrupted, clamp, values))
            return corrupted + 1

    chain = Denoiser(lambda x: 10 * x, Copy())
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    state = chain.start(x)
    assert chain.step(state).x.tolist() == [[11, 21]] and not state.x.requires_grad
    chain.step(state, torch.tensor([True, False]), torch.tensor([[5.0, NAN]]))
    assert seen[1][0].tolist() == [[50, 20]] and seen[1][1] is not None
