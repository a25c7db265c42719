"""Copies against real images: what the memorisation ratio must tell apart, and by how much."""

import math

import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from dither.data import digits
from dither.metrics import memorisation
from largest_tensor import LargestTensor

IMAGES = torch.cat((digits().train.x, digits().valid.x, digits().test.x))
IMAGES = IMAGES[torch.randperm(len(IMAGES), generator=torch.Generator().manual_seed(0))]
TRAIN, HELD_OUT, FRESH = IMAGES[:600], IMAGES[600:1200], IMAGES[1200:]


def noise(x, size):
    return x + size * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))


def test_real_images_are_no_copies():
    measured = memorisation(FRESH, TRAIN, HELD_OUT)
    assert measured.ratio == pytest.approx(1, abs=0.03)
    assert measured.lower_quartile < measured.ratio < measured.upper_quartile
    assert measured.nearer_to_train == pytest.approx(0.5, abs=0.06)  # 2.9 standard errors
    assert measured.copies < 0.01
    assert measured.compared == 600


def test_copies_are_seen():
    measured = memorisation(noise(TRAIN, 0.02), TRAIN, HELD_OUT)
    assert measured.upper_quartile < 0.2
    assert measured.nearer_to_train > 0.99 and measured.copies > 0.97


def test_copies_of_held_out_images_turn_it_round():
    measured = memorisation(noise(HELD_OUT, 0.02), TRAIN, HELD_OUT)
    assert measured.lower_quartile > 5 and measured.copies == 0


def test_against_sklearn():
    def distance(x):
        return torch.from_numpy(NearestNeighbors(algorithm="brute").fit(x.double().numpy()).kneighbors(FRESH, 1)[0][:, 0])

    to_train, to_held_out = distance(TRAIN), distance(HELD_OUT)
    measured = memorisation(FRESH, TRAIN, HELD_OUT)
    ratio = (to_train / to_held_out).sort().values
    assert measured.ratio == pytest.approx(float(ratio.median()), rel=1e-6)
    assert measured.lower_quartile == pytest.approx(float(ratio[int(0.25 * (len(ratio) - 1))]), rel=1e-6)
    assert measured.upper_quartile == pytest.approx(float(ratio[int(0.75 * (len(ratio) - 1))]), rel=1e-6)
    assert measured.nearer_to_train == pytest.approx(float((to_train < to_held_out).double().mean()))
    assert measured.copies == pytest.approx(float((to_train < to_held_out / 2).double().mean()))


@pytest.mark.parametrize("swap", [False, True])
def test_sets_of_different_size_are_compared_at_the_smaller(swap):
    """Ten times as many neighbours are nearer by .8 in these data: with all of them the ratio would be off by as much."""
    sides = (IMAGES[:1000], IMAGES[1000:1100])
    results = [memorisation(IMAGES[1100:], *(sides[::-1] if swap else sides), seed=seed) for seed in range(8)]
    assert {f.compared for f in results} == {100}
    assert len({f.ratio for f in results}) == 8, "the cut depends on the seed"
    assert sum(f.ratio for f in results) / 8 == pytest.approx(1, abs=0.05)


def test_copies_of_images_that_were_cut_away_are_counted():
    measured = memorisation(noise(IMAGES[:1000], 0.02), IMAGES[:1000], IMAGES[1000:1100])
    assert measured.ratio > 0.9, "nine of ten originals are out of sight of the ratio"
    assert measured.copies > 0.99
    assert memorisation(IMAGES[1100:], IMAGES[:1000], IMAGES[1000:1100]).copies < 0.1


def test_images_of_both_sets_and_of_one():
    train, held_out = torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([[0.0], [3.0], [8.0]])
    both = memorisation(torch.tensor([[0.0]]), train, held_out)
    assert (both.ratio, both.nearer_to_train, both.copies) == (1, 0.5, 0)
    one = memorisation(torch.tensor([[3.0]]), train, held_out)
    assert (one.ratio, one.nearer_to_train, one.copies) == (math.inf, 0, 0)
    copy = memorisation(torch.tensor([[1.0]]), train, held_out)
    assert (copy.ratio, copy.nearer_to_train, copy.copies) == (0, 1, 1)
    mixed = memorisation(torch.tensor([[3.0], [1.0]]), train, held_out)
    assert (mixed.lower_quartile, mixed.ratio, mixed.upper_quartile) == (0, 0, 0), "no number lies between 0 and infinity"


def test_the_seed_alone_decides():
    sides = IMAGES[1100:], IMAGES[:1000], IMAGES[1000:1100]
    assert memorisation(*sides, seed=4) == memorisation(*sides, seed=4)
    assert memorisation(*sides, seed=4, chunk=13) == memorisation(*sides, seed=4)


def test_chunk_bounds_the_largest_tensor():
    samples = FRESH.repeat(4, 1)[:, :10]
    with LargestTensor() as seen:
        memorisation(samples, TRAIN[:, :10], HELD_OUT[:, :10], chunk=20)
    assert seen.bytes == max(20 * 600 * 8, len(samples) * 10 * 4)


@pytest.mark.parametrize("name", ["samples", "train", "held_out"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x * torch.nan, "holds NaN"),
        (lambda x: x[:0], "has shape"),
        (lambda x: x.view(-1, 8, 8), "has shape"),
        (lambda x: x[:, 1:], "units"),
    ],
)
def test_bad_input(name, spoil, message):
    inputs = {"samples": FRESH, "train": TRAIN, "held_out": HELD_OUT}
    with pytest.raises(ValueError, match=message if message == "units" else f"{name} {message}"):
        memorisation(**{**inputs, name: spoil(inputs[name])})
