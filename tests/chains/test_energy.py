"""Energies against the logarithm of a known distribution."""

import pytest
import torch

from dither import corruption
from dither.chains import Counts, energy, relative_energies

STATES = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
DATA = torch.tensor([0.3, 0.05, 0.1, 0.05, 0.2, 0.02, 0.08, 0.2], dtype=torch.float64)


def bayes(corrupt: corruption.Corruption, data: torch.Tensor, states: torch.Tensor) -> Counts:
    forward = torch.stack([corrupt.log_prob(states, x.expand_as(states)).exp() for x in states]).double()
    return Counts((data[:, None] * forward).T, states)


def test_every_corrupted_state_gives_the_same_differences():
    corrupt = corruption.SaltAndPepper(0.4)
    model = bayes(corrupt, DATA, STATES.double())
    for corrupted in STATES.double():
        there = corrupted.expand_as(STATES)
        energies = energy(model.log_prob(there, STATES.double()), corrupt.log_prob(there, STATES.double()))
        torch.testing.assert_close(energies - energies[0], -(DATA / DATA[0]).log(), rtol=0, atol=1e-12)


def test_what_cannot_become_the_corrupted_state_has_no_energy():
    minus, zero = torch.tensor([-torch.inf]), torch.tensor([0.0])
    assert energy(minus, minus).isnan().all() and energy(zero, minus).isnan().all()
    assert energy(minus, zero).tolist() == [torch.inf]
    with pytest.raises(ValueError, match=r"shape \(1,\) and log_corruption \(2,\)"):
        energy(zero, torch.zeros(2))


def test_a_path_through_its_ends_sums_to_the_difference_of_its_ends():
    corrupt = corruption.SaltAndPepper(0.4)
    path = STATES.double()[[0, 1, 3, 7, 6]]
    energies = relative_energies(bayes(corrupt, DATA, STATES.double()).log_prob, corrupt.log_prob, path, through="ends")
    torch.testing.assert_close(energies, -(DATA / DATA[0]).log()[[0, 1, 3, 7, 6]], rtol=0, atol=1e-12)


def gaussian_posterior(corrupted: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """x ~ N(1, 2^2), x~ = x + N(0, .5^2): the exact P(x | x~) is Gaussian."""
    precision = 1 / 4 + 1 / 0.25
    mean = (1 / 4 + corrupted / 0.25) / precision
    return torch.distributions.Normal(mean, precision**-0.5).log_prob(x).sum(-1)


@pytest.mark.parametrize("through", ["midpoint", "ends"])
def test_a_path_of_continuous_points(through):
    path = torch.tensor([[0.0, 1.0], [0.5, 0.8], [1.2, 0.1], [2.0, -0.5]], dtype=torch.float64)
    energies = relative_energies(gaussian_posterior, corruption.Gaussian(0.5).log_prob, path, through=through)
    expected = ((path - 1).square() / 8).sum(1)
    torch.testing.assert_close(energies, expected - expected[0], rtol=0, atol=1e-10)


def test_the_midpoint_is_used_as_such():
    seen = []

    def model(corrupted, x):
        seen.append((corrupted.tolist(), x.tolist()))
        return torch.zeros(len(x))

    relative_energies(model, model, torch.tensor([[0.0], [2.0], [6.0]]))
    assert all(corrupted == [[1.0], [4.0]] for corrupted, _ in seen)
    assert sorted({tuple(x[0]) for _, x in seen}) == [(0.0,), (2.0,)]


def test_what_a_path_may_not_be():
    corrupt = corruption.SaltAndPepper(0.4)
    model = bayes(corrupt, DATA * (torch.arange(8) != 3), STATES)
    with pytest.raises(ValueError, match="step from point 1 to 2"):
        relative_energies(model.log_prob, corrupt.log_prob, STATES[[0, 1, 3, 7]], through="ends")
    with pytest.raises(ValueError, match="at least two points"):
        relative_energies(model.log_prob, corrupt.log_prob, STATES[:1])
    with pytest.raises(ValueError, match="through is 'start'"):
        relative_energies(model.log_prob, corrupt.log_prob, STATES, through="start")  # type: ignore[arg-type]
