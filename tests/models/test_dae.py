"""Denoising auto-encoders: exact conditionals give the data back, walkback does the same, energies are log-probabilities."""

import itertools

import pytest
import torch
from torch import nn

from dither import chains, corruption, metrics, reconstruction
from dither.models.dae import DAE, Geometric

STATES = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)
DATA = torch.tensor([5.0, 1, 1, 2, 1, 3, 4, 8], dtype=torch.float64) / 25
NOISE = corruption.SaltAndPepper(0.6)


class Table(nn.Module):
    """Any conditional of three bits: P(state | x~) = softmax of a row of a table, as one one-hot variable of 8 values."""

    def __init__(self, rows=None):
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(8, 8, dtype=torch.float64) if rows is None else rows)

    def forward(self, x):
        return x @ self.rows


def matrix(noise):
    """(from, to) -> C(to | from) over the 8 states."""
    return torch.stack([noise.log_prob(STATES, state.expand(8, 3)).exp() for state in STATES])


class OneHot(corruption.Corruption):
    """Salt and pepper on the three bits behind a one-hot state."""

    def forward(self, x):
        return nn.functional.one_hot((NOISE(x @ STATES) @ torch.tensor([4.0, 2, 1], dtype=x.dtype)).long(), 8).to(x.dtype)

    def log_prob(self, corrupted, x):
        return NOISE.log_prob(corrupted @ STATES, x @ STATES)


def table_dae(steps=1, rows=None):
    return DAE(Table(rows), 8, corruption=OneHot(), reconstruction=reconstruction.Categorical(8), steps=steps)


def exact_rows():
    """log P(x | x~) by Bayes, a row for each x~."""
    joint = DATA.unsqueeze(1) * matrix(NOISE)
    return (joint / joint.sum(0)).T.log()


def test_the_cost_is_minus_the_log_probability():
    model = table_dae(rows=exact_rows())
    x, corrupted = torch.eye(8, dtype=torch.float64)[[1, 4]], torch.eye(8, dtype=torch.float64)[[3, 4]]
    assert model.log_prob(x, corrupted).detach() == pytest.approx(exact_rows()[[3, 4], [1, 4]])


@pytest.mark.parametrize("steps", [1, 3, Geometric(0.5)])
def test_training_recovers_the_distribution_of_the_data(steps):
    """Full batches of the data in their proportions: every minimiser of the expected cost has the data's distribution as the
    stationary one, with walkback or without (GDAE paper, Theorem 1 and Proposition 1)."""
    torch.manual_seed(0)
    model = table_dae(steps)
    x = torch.eye(8, dtype=torch.float64).repeat_interleave((DATA * 25).long() * 40, 0)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    for _ in range(600):
        optimizer.zero_grad()
        model.cost(x).mean().backward()
        optimizer.step()
        schedule.step()
    rebuilt = torch.log_softmax(model.network.rows.detach(), -1)
    stationary = metrics.stationary(metrics.transition_matrix(matrix(NOISE).log(), rebuilt))
    assert metrics.kl(DATA, stationary) < 1e-3 < metrics.kl(DATA, torch.full((8,), 1 / 8, dtype=torch.float64))


def test_energies_are_log_probabilities_up_to_a_constant():
    model, one_hot = table_dae(rows=exact_rows()), torch.eye(8, dtype=torch.float64)
    for corrupted in one_hot:
        energy = model.energy(one_hot, corrupted.expand(8, 8)).detach()
        assert energy - energy[0] == pytest.approx(DATA.log()[0] - DATA.log(), abs=1e-12)


def test_a_gaussian_chain_has_the_known_stationary_distribution():
    """x ~ N(0, 1), noise s: P(x | x~) = N(x~ / (1 + s^2), s^2 / (1 + s^2)). The chain's autocorrelation is 1 / (1 + s^2)."""
    s = 0.8
    network = nn.Linear(1, 1, bias=False).double()
    network.weight.data.fill_(1 / (1 + s * s))
    model = DAE(
        network, 1, corruption=corruption.Gaussian(s), reconstruction=reconstruction.Gaussian((s * s / (1 + s * s)) ** 0.5)
    )
    x = chains.run(model, torch.zeros(4000, 1, dtype=torch.float64), 20, burn_in=30, thin=19, seed=0).x[0]
    # 4,000 independent chains: the variance has a standard error of sqrt(2 / 4000)
    assert abs(float(x.mean())) < 5 / 4000**0.5 and abs(float(x.var()) - 1) < 5 * (2 / 4000) ** 0.5
    steps = chains.run(model, x, 1, seed=1).x[0]
    assert float((x * steps).mean()) == pytest.approx(1 / (1 + s * s), abs=5 / 4000**0.5)


def test_bad_networks_are_refused():
    with pytest.raises(ValueError, match="the network gives"):
        DAE(nn.Linear(5, 4), 5).cost(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="steps is 0"):
        DAE(nn.Linear(5, 5), 5, steps=0)


def test_two_models_share_no_node():
    assert DAE(nn.Linear(5, 5), 5).reconstruction.node is not DAE(nn.Linear(5, 5), 5).reconstruction.node
