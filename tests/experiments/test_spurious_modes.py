"""Spurious modes: the exact map has none, the measures see planted ones, and the experiment runs."""

import pytest
import torch

from dither.experiments import spurious_modes as m

SMALL = m.Config(
    methods=("plain-batch-x5", "walkback-5"), seeds=2, examples=100, updates=20, batch=8, points=6, iterations=50, chains=20
)


def test_the_experiment_runs():
    found = m.run(SMALL, None, lambda _: None)
    assert [row["method"] for row in found["rows"]] == ["plain-batch-x5", "walkback-5"]
    assert len(found["curves"]) == 4 and [name for name, _ in found["figures"]] == ["field-0.03"]


def test_the_exact_map_has_no_spurious_attractor_and_a_planted_one_is_seen():
    config = m.Config(seeds=2, points=10, iterations=400)
    model = m.learn(config, "exact", 0.03, m.data(config, 0))
    _, spurious, _ = m.settle(config, model)
    assert not spurious.any()
    exact, place = model.network.forward, torch.tensor([1.4, 1.4])

    def planted(x):
        corner = x.unflatten(1, (-1, 2)).min(-1, True).values > 1
        return torch.where(corner, place, exact(x).unflatten(1, (-1, 2))).flatten(1)

    model.network.forward = planted
    ends, spurious, still = m.settle(config, model)
    assert spurious.float().mean() == pytest.approx(4 / 100) and still.equal(spurious)
    assert len(m.distinct(ends[still[:, 0], 0])) == 1


def test_levels_learn_from_several_strengths_and_move_by_the_weakest():
    x = m.data(SMALL, 0)
    plain, levels = (m.learn(SMALL, method, 0.03, x) for method in ("plain-batch-x5", "levels-x5"))
    assert levels.corruption.scale == plain.corruption.scale == 0.03
    assert all((a != b).any() for a, b in zip(plain.network.parameters(), levels.network.parameters(), strict=True))


def test_distances_are_to_the_curve():
    points = m.curve()
    along = points[1001] - points[999]
    away = points[1000] + 0.05 * torch.stack((-along[1], along[0])) / along.norm()
    found, _ = m.distance(torch.stack((points[500], away)).float().repeat(1, 2), 2)
    assert found[0].max() < 2e-3 and found[1].tolist() == pytest.approx([0.05, 0.05], abs=1e-3)
    far, _ = m.distance(torch.full((1, 4), torch.nan), 2)
    assert far.min() > 50


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="walkback-5"):
        m.run(m.Config(methods=("walk",)), None, print)
