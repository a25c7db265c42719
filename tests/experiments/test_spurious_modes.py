"""Spurious modes: the exact map has none, the measures see added ones, and the experiment runs."""

import pytest
import torch

from dither.experiments.spurious_modes.config import Config
from dither.experiments.spurious_modes.evaluation import distance, distinct, iterate
from dither.experiments.spurious_modes.experiment import run
from dither.experiments.spurious_modes.models import curve, data, learn

SMALL = Config(
    methods=("plain-batch-x5", "walkback-5"), seeds=2, examples=100, updates=20, batch=8, points=6, iterations=50, chains=20
)


def test_the_experiment_runs():
    result = run(SMALL, None, lambda _: None)
    assert [row["method"] for row in result["rows"]] == ["plain-batch-x5", "walkback-5"]
    assert len(result["curves"]) == 4 and [name for name, _ in result["figures"]] == ["field-0.03"]


def test_the_exact_map_has_no_spurious_attractor_and_an_added_one_is_seen():
    config = Config(seeds=2, points=10, iterations=400)
    model = learn(config, "exact", 0.03, data(config, 0))
    _, spurious, _ = iterate(config, model)
    assert not spurious.any()
    exact, place = model.network.forward, torch.tensor([1.4, 1.4])

    def with_attractor(x):
        corner = x.unflatten(1, (-1, 2)).min(-1, True).values > 1
        return torch.where(corner, place, exact(x).unflatten(1, (-1, 2))).flatten(1)

    model.network.forward = with_attractor
    ends, spurious, still = iterate(config, model)
    assert spurious.float().mean() == pytest.approx(4 / 100) and still.equal(spurious)
    assert len(distinct(ends[still[:, 0], 0])) == 1


def test_multiscale_learns_from_several_noise_scales_and_moves_by_the_smallest():
    x = data(SMALL, 0)
    plain, multiscale = (learn(SMALL, method, 0.03, x) for method in ("plain-batch-x5", "multiscale-x5"))
    assert multiscale.corruption.scale == plain.corruption.scale == 0.03
    assert all((a != b).any() for a, b in zip(plain.network.parameters(), multiscale.network.parameters(), strict=True))


def test_distances_are_to_the_curve():
    points = curve()
    along = points[1001] - points[999]
    away = points[1000] + 0.05 * torch.stack((-along[1], along[0])) / along.norm()
    away_from, _ = distance(torch.stack((points[500], away)).float().repeat(1, 2), 2)
    assert away_from[0].max() < 2e-3 and away_from[1].tolist() == pytest.approx([0.05, 0.05], abs=1e-3)
    far, _ = distance(torch.full((1, 4), torch.nan), 2)
    assert far.min() > 50


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="walkback-5"):
        run(Config(methods=("walk",)), None, print)
