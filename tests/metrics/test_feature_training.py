"""Training of feature nets: what it learns, what the seed governs, and the augmentation."""

from __future__ import annotations

import pytest
import torch

from dither import data, metrics
from dither.metrics import _feature_training


def test_training_learns_and_the_seed_governs_it() -> None:
    digits = data.digits()

    def train(count: int, epochs: int, seed: int) -> metrics.FeatureNet:
        part = digits.train.x[:count], digits.train.y[:count]
        return metrics.train_feature_net(*part, digits.shape, 10, seed=seed, epochs=epochs, batch_size=32)

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = metrics.hash(train(200, 1, 3))
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left as it was"
    torch.manual_seed(6)
    assert metrics.hash(train(200, 1, 3)) == first != metrics.hash(train(200, 1, 4))
    net = train(1197, 15, 0)
    assert float((net.classify(digits.test.x) == digits.test.y).double().mean()) > 0.92  # untrained: .1
    assert not net.training and all(torch.equal(weight, weight.half().float()) for weight in net.parameters())
    assert float(net.features(digits.train.x).square().mean()) == pytest.approx(1, abs=1e-3), "up to half precision"
    assert int((net.features(digits.train.x).std(0) < 1e-2).sum()) == 0, "no feature is dead"


@pytest.mark.parametrize(("side", "strength"), [(20, 1.0), (9, 0.5)])
def test_augmentation_shifts_blurs_and_stays_in_range(monkeypatch: pytest.MonkeyPatch, side: int, strength: float) -> None:
    point = torch.zeros(40, 1, side, side)
    point[:, :, 4, 4] = 1
    monkeypatch.setattr(_feature_training, "NOISE", 0.0)
    torch.manual_seed(0)
    shifts, shares = [], []
    for _ in range(200):
        changed = _feature_training.augmented(point)
        assert torch.allclose(changed.sum((1, 2, 3)), torch.ones(40)), "a mean of 3 x 3 keeps what lies inside"
        rows, columns = (changed.sum(axis).squeeze(1) @ torch.arange(side, dtype=torch.float32) for axis in (3, 2))
        assert float(rows.std()) < 1e-5 and float(columns.std()) < 1e-5, "a batch is shifted as one"
        shifts.append((round(float(rows[0])) - 4, round(float(columns[0])) - 4))
        shares.append(9 / 8 * (1 - changed.amax((1, 2, 3))))
    assert set(shifts) == {(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    still = shifts.count((0, 0)) / 200
    assert still == pytest.approx(1 - strength + strength / 9, abs=0.11)
    share = torch.cat(shares)
    assert float(share.mean()) == pytest.approx(strength / 2, abs=0.01) and float(share.max()) <= strength + 1e-6
    monkeypatch.undo()
    noisy = _feature_training.augmented(torch.full((4000, 1, side, side), 0.5))[:, :, 2:-2, 2:-2]
    assert float(noisy.min()) >= 0 and float(noisy.max()) <= 1
    assert float((noisy - 0.5).square().mean()) == pytest.approx(0.2**2 / 3, rel=0.06)
