"""Chains of models: going on, thinning, seeds, clamped units, the stationary distribution."""

import itertools

import pytest
import torch
from torch import nn

from dither import chains, corruption
from dither.models.gsn import GSN
from small_gsn import random_gsn, random_images


def test_going_on_is_one_long_run():
    model, x = random_gsn((5, 4, 3)), random_images(rows=2).round()
    whole, first = chains.run(model, x, 7, seed=1), chains.run(model, x, 3, seed=1)
    assert torch.equal(torch.cat((first.x, chains.run(model, first.state, 4, seed=1).x)), whole.x)


def test_the_chain_carries_its_hidden_layers():
    model, x = random_gsn((5, 4, 3)), random_images(rows=2).round()
    samples = chains.run(model, x, 6, seed=1)
    again = chains.run(model, samples.state, 1, seed=2)
    fresh = chains.run(model, samples.x[-1], 1, seed=2)
    assert samples.state.hidden[1].shape == (2, 3)
    assert not torch.equal(again.mean, fresh.mean)


def test_chains_converge_to_the_stationary_distribution_of_the_exact_matrix():
    """One hidden layer without noise: the chain over x is finite, and its matrix is known."""
    model = random_gsn((3, 4), hidden=[nn.Sigmoid()], corruption=corruption.SaltAndPepper(0.5))
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)
    pairs = [a.flatten(0, 1) for a in torch.broadcast_tensors(states[:, None], states[None])]
    corrupt = model.corruption.log_prob(pairs[1], pairs[0]).view(8, 8).exp()
    outputs, _ = model.reconstruct(states)
    rebuild = model.reconstruction.log_prob(outputs.repeat_interleave(8, 0), states.repeat(8, 1)).view(8, 8).exp()
    matrix = corrupt @ rebuild
    stationary = torch.linalg.matrix_power(matrix, 200)[0]
    samples = chains.run(model, states.repeat(500, 1), 30, burn_in=20, thin=10, seed=0).x
    index = (samples * torch.tensor([4, 2, 1])).sum(-1).long().flatten()
    counts = torch.bincount(index, minlength=8).double()
    # thinned by 10 steps of a chain whose second eigenvalue is far below 1: the counts are as good as independent
    assert torch.linalg.eigvals(matrix).abs().sort().values[-2] ** 10 < 1e-3
    chi_square = ((counts - len(index) * stationary).square() / (len(index) * stationary)).sum()
    assert chi_square < 41.0  # 7 degrees of freedom, p = 1e-6


def test_clamped_units_stay():
    model, x = random_gsn((5, 4, 3)), random_images(rows=4).round()
    for clamp in (torch.tensor([True, False, True, False, False]), torch.rand(4, 5) < 0.4):
        samples = chains.run(model, x, 5, clamp=clamp, seed=0).x
        assert torch.equal(torch.where(clamp, samples, 0), torch.where(clamp, x, 0).expand(5, 4, 5))
        assert not torch.equal(samples[-1], x)


def test_clamped_units_may_stay_clean():
    model, x, inputs = random_gsn((5, 4)), random_images(rows=3).round(), []
    reconstruct, clamp = model.reconstruct, torch.tensor([True, False, True, True, False])
    model.reconstruct = lambda corrupted, *rest: inputs.append(corrupted) or reconstruct(corrupted, *rest)
    model.corrupt_clamped = False
    chains.run(model, x, 20, clamp=clamp, seed=0)
    inputs = torch.stack(inputs)
    assert torch.equal(inputs[..., clamp], x[:, clamp].expand(20, 3, 3)) and inputs[..., ~clamp].std(0).min() > 0


def test_runs_depend_on_their_seed_alone():
    model, x = random_gsn((5, 4, 3)), random_images(rows=2).round()
    torch.manual_seed(5)
    a, state = chains.run(model, x, 4, seed=1).x, torch.get_rng_state()
    torch.manual_seed(6)
    assert torch.equal(a, chains.run(model, x, 4, seed=1).x)
    torch.manual_seed(5)
    assert torch.equal(state, torch.get_rng_state())  # nothing was drawn from the user's generator


def test_thinning_records_every_other():
    model, x = random_gsn((5, 4)), random_images(rows=2).round()
    every = chains.run(model, x, 9, seed=1).x
    assert torch.equal(chains.run(model, x, 6, burn_in=3, thin=2, seed=1).x, every[4::2])


def test_a_chain_in_a_higher_representation():
    above = random_gsn((3, 4), hidden=[nn.Tanh()])
    encode, decode = (lambda x: (x[:, :3] > 0.5).to(x.dtype)), (lambda h: torch.cat((h, 1 - h[:, :2]), -1))
    projected = chains.Projected(above, encode, decode)
    samples = chains.run(projected, random_images(), 3, seed=0)
    assert torch.equal(samples.x[..., 3:], 1 - samples.x[..., :2])
    with pytest.raises(ValueError, match="in a representation"):
        chains.run(projected, random_images(), 3, clamp=torch.tensor([True, *[False] * 4]))


@pytest.mark.parametrize(
    ("clamp", "text"),
    [
        (torch.ones(5, dtype=torch.bool), "none is left to sample"),
        (torch.tensor([[True] * 5, [False] * 5]), "none is left to sample"),
        (torch.ones(4, dtype=torch.bool), "shape"),
        (torch.zeros(3, 5, dtype=torch.bool), "shape"),
        (torch.zeros(5), "bool mask"),
    ],
)
def test_bad_clamps_are_refused(clamp, text):
    with pytest.raises(ValueError, match=text):
        chains.run(GSN((5, 4)), torch.zeros(2, 5), 1, clamp=clamp)


def test_runs_that_record_nothing_are_refused():
    with pytest.raises(ValueError, match="no step is recorded"):
        chains.run(GSN((5, 4)), torch.zeros(2, 5), 2, thin=3)
