"""Counts, kernels and their chains against enumeration, quadrature and sums written out."""

import math

import pytest
import torch
from scipy import stats

from dither import corruption, noise
from dither.chains._nonparametric import Counts, Denoiser, Kernel

STATES = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
COUNTS = torch.tensor([[5.0, 1.0, 0.0, 2.0], [0.0, 3.0, 3.0, 0.0], [1.0, 1.0, 1.0, 5.0], [0.0, 0.0, 0.0, 4.0]])
NAN = math.nan


def exact_conditional(data: torch.Tensor, corrupt: corruption.Corruption, states: torch.Tensor) -> torch.Tensor:
    forward = torch.stack([corrupt.log_prob(states, x.expand_as(states)).exp() for x in states])
    joint = (data[:, None] * forward).T
    return joint / joint.sum(1, keepdim=True)


def chi_square(drawn: torch.Tensor, probabilities: torch.Tensor) -> float:
    """p-value that rows of STATES came with these probabilities."""
    found = torch.bincount((drawn * torch.tensor([2.0, 1.0])).sum(1).long(), minlength=4).double()
    possible = probabilities > 0
    assert not found[~possible].any()
    if possible.sum() == 1:
        return 1.0
    return float(stats.chisquare(found[possible], (probabilities * len(drawn))[possible]).pvalue)


# --- counts -------------------------------------------------------------------------------------------------------------
def test_counting_is_counting():
    x, corrupted = torch.tensor([0, 0, 3, 3, 3, 1]), torch.tensor([0, 1, 1, 3, 3, 2])
    table = torch.zeros(4, 4, dtype=torch.float64)
    for a, b in zip(x, corrupted, strict=True):
        table[b, a] += 1
    found = Counts.fit(x, corrupted, STATES).conditional()
    torch.testing.assert_close(found, table / table.sum(1, keepdim=True))
    found = Counts.fit(x, corrupted, STATES, 0.5).conditional()
    torch.testing.assert_close(found, (table + 0.5) / (table + 0.5).sum(1, keepdim=True))
    assert found.dtype == torch.float64


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


def test_draws_follow_the_table_and_the_seed():
    learned = Counts(COUNTS, STATES)
    for i in range(4):
        torch.manual_seed(i)
        drawn = learned.sample(STATES[i].expand(20_000, 2))
        assert chi_square(drawn, learned.conditional()[i]) > 1e-3
        torch.manual_seed(i)
        assert torch.equal(drawn, learned.sample(STATES[i].expand(20_000, 2)))
    with noise.examples(torch.tensor([7, 5])):
        torch.manual_seed(0)
        first = learned.sample(STATES[[0, 2]])
    with noise.examples(torch.tensor([5, 7])):
        torch.manual_seed(0)
        assert torch.equal(learned.sample(STATES[[2, 0]]), first.flip(0))


def test_clamped_draws_follow_the_conditional():
    learned = Counts(COUNTS, STATES)
    clamp = torch.tensor([False, True])
    for value in (0.0, 1.0):
        values = torch.tensor([NAN, value]).expand(20_000, 2)  # what is not clamped is not looked at
        allowed = learned.conditional()[2] * (STATES[:, 1] == value)
        drawn = learned.sample(STATES[2].expand(20_000, 2), clamp, values)
        assert chi_square(drawn, allowed / allowed.sum()) > 1e-3
    with pytest.raises(ValueError, match="row 1 was ever seen"):
        learned.sample(STATES[[0, 3]], clamp, torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    each = torch.tensor([[True, False], [False, True]])
    drawn = learned.sample(STATES[[0, 1]], each, STATES[[0, 2]])
    assert drawn[0, 0] == 0 and drawn[1].tolist() == [1, 0]


def test_blocks_change_nothing(monkeypatch):
    learned, clamp = Counts(COUNTS, STATES), torch.tensor([True, False])
    torch.manual_seed(0)
    whole = learned.sample(STATES, clamp, STATES[[0, 2, 3, 3]])
    monkeypatch.setattr("dither.chains._draws.BUDGET", 8 * STATES.numel() * 3)
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


def test_the_chain_corrupts_before_it_draws_and_clamps_a_start_elsewhere():
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


# --- kernels ------------------------------------------------------------------------------------------------------------
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
    kernel = Kernel(*pairs, bandwidth_corrupted=0.8, bandwidth_x=0.5)
    corrupted = torch.tensor([2.5, -39.0])
    weights = brute(pairs, corrupted, 0.8)
    for x in (torch.tensor([3.0, -40.0]), torch.tensor([1.0, -41.5])):
        density = sum(
            w * math.prod(stats.norm.pdf(float(x[j]), float(c[j]), 0.5) for j in (0, 1))
            for w, c in zip(weights, pairs[0], strict=True)
        )
        assert float(kernel.log_prob(corrupted[None], x[None])) == pytest.approx(math.log(density), rel=1e-9)
    axis = torch.linspace(-6, 6, 241, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis) + torch.tensor([3.0, -40.0])
    mass = kernel.log_prob(corrupted.expand(len(grid), 2), grid).exp().sum() * 0.05**2
    assert float(mass) == pytest.approx(1, abs=1e-6)


def test_kernel_draws_have_its_moments(pairs):
    kernel = Kernel(*pairs, bandwidth_corrupted=0.8, bandwidth_x=0.5)
    corrupted = torch.tensor([2.5, -39.0])
    weights = torch.tensor(brute(pairs, corrupted, 0.8))
    torch.manual_seed(0)
    drawn = kernel.sample(corrupted.expand(40_000, 2))
    mean = weights @ pairs[0]
    spread = (weights[:, None] * (pairs[0] - mean)).T @ (pairs[0] - mean) + 0.25 * torch.eye(2)
    assert (drawn.mean(0) - mean).abs().max() < 4 * float(spread.diagonal().max() / 40_000) ** 0.5
    torch.testing.assert_close(drawn.T.cov(), spread, rtol=0.05, atol=0.02)


def test_clamped_kernel_draws_follow_the_exact_conditional(pairs):
    """P(x_1 | x~, x_2) is a mixture with its own weights: its distribution function, against the draws."""
    kernel = Kernel(*pairs, bandwidth_corrupted=0.8, bandwidth_x=0.3)
    corrupted, value = torch.tensor([2.5, -39.0]), -39.5
    weights = brute(pairs, corrupted, 0.8)
    weights = [w * stats.norm.pdf(value, float(c[1]), 0.3) for w, c in zip(weights, pairs[0], strict=True)]
    torch.manual_seed(0)
    values = torch.tensor([NAN, value]).expand(5000, 2)
    drawn = kernel.sample(corrupted.expand(5000, 2), torch.tensor([False, True]), values)
    assert (drawn[:, 1] == value).all()

    def cdf(v):
        return sum(w * stats.norm.cdf(v, float(c[0]), 0.3) for w, c in zip(weights, pairs[0], strict=True)) / sum(weights)

    assert stats.kstest(drawn[:, 0].numpy(), cdf).pvalue > 1e-3
    without = kernel.sample(corrupted.expand(5000, 2))  # the test would see it if the clamped value did not count
    assert stats.kstest(without[:, 0].numpy(), cdf).pvalue < 1e-6


def test_chunks_change_no_draw_and_no_density(pairs):
    whole, parts = (Kernel(*pairs, 0.8, 0.5, chunk=chunk) for chunk in (None, 3))
    corrupted, values = pairs[1][[0, 1, 2, 3, 4, 5, 0]], pairs[0][[1, 1, 2, 3, 4, 5, 0]]
    clamp = torch.zeros(7, 2, dtype=torch.bool)
    clamp[:5, 1] = True
    torch.testing.assert_close(whole.log_prob(corrupted, values), parts.log_prob(corrupted, values))
    drawn = []
    for kernel in (whole, parts):
        torch.manual_seed(0)
        drawn.append(kernel.sample(corrupted, clamp, values))
    torch.testing.assert_close(*drawn)
    assert drawn[0].dtype == torch.float32 and torch.equal(drawn[0][:5, 1], values[:5, 1])


def test_the_clamped_kernel_chain_keeps_its_units(pairs):
    chain = Denoiser(corruption.Gaussian(1.0), Kernel(*pairs, 0.8, 0.5))
    state = chain.start(pairs[0])
    for _ in range(3):
        state = chain.step(state, torch.tensor([True, False]), pairs[0])
    assert torch.equal(state.x[:, 0], pairs[0][:, 0]) and not torch.equal(state.x, pairs[0])


def test_far_from_every_pair_the_nearest_counts(pairs):
    kernel = Kernel(*pairs, bandwidth_corrupted=0.01, bandwidth_x=1e-4)
    drawn = kernel.sample(torch.full((50, 2), 1e3))
    nearest = (pairs[1] - 1e3).square().sum(1).argmin()
    torch.testing.assert_close(drawn, pairs[0][nearest].expand(50, 2), rtol=0, atol=1e-3)


def test_what_kernels_refuse(pairs):
    x, corrupted = pairs
    with pytest.raises(ValueError, match=r"corrupted \(5, 2\)"):
        Kernel(x, corrupted[:5], 1.0, 1.0)
    with pytest.raises(ValueError, match="bandwidth_x is 0"):
        Kernel(x, corrupted, 1.0, 0.0)
    with pytest.raises(ValueError, match="infinity or NaN"):
        Kernel(x, corrupted.masked_fill(torch.eye(6, 2, dtype=torch.bool), NAN), 1.0, 1.0)
    with pytest.raises(ValueError, match=r"\(batch, 2\) is needed"):
        Kernel(x, corrupted, 1.0, 1.0).sample(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="they must be the same"):
        Kernel(x, corrupted, 1.0, 1.0).log_prob(x, x[:3])
    with pytest.raises(ValueError, match="chunk is 0"):
        Kernel(x, corrupted, 1.0, 1.0, chunk=0).sample(x)
