from __future__ import annotations

import pytest
import torch
from torch import nn

from dither import Bernoulli, FiringRate, NoisyReLU, ScoreFunction


def test_dead_and_always_on_units_are_brought_back_to_the_target() -> None:
    layer = FiringRate(NoisyReLU(), units=20, target=0.2, step_size=0.1)
    offsets = torch.linspace(-6, 6, 20)
    torch.manual_seed(0)
    for _ in range(30):
        layer(offsets.expand(64, 20))
    assert layer.report()["dead"] == 0, "the average starts at the target: nothing is known yet"
    frozen = FiringRate(NoisyReLU(), units=20, target=0.2, step_size=1e-9, decay=0.5)
    for _ in range(30):
        frozen(offsets.expand(64, 20))
    assert frozen.report()["dead"] >= 5 and frozen.report()["always_on"] >= 5
    for _ in range(3000):
        layer(offsets.expand(64, 20))
    # in equilibrium P(active) = Phi(a + bias) = target: the bias undoes the offset, up to a constant
    expected = torch.special.ndtri(torch.tensor(0.2)) - offsets
    assert torch.allclose(layer.bias, expected, atol=0.25)
    report = layer.report()
    assert report["dead"] == report["always_on"] == 0 and abs(report["rate_mean"] - 0.2) < 0.01


def test_update_follows_the_stated_rule() -> None:
    layer = FiringRate(Bernoulli(), units=2, target=0.25, step_size=0.5, decay=0.9)
    layer(torch.tensor([[torch.inf, -torch.inf]] * 4))
    assert torch.equal(layer.bias, torch.zeros(2)), "nothing moves before the next forward"
    layer.update()
    assert torch.allclose(layer.rate, torch.tensor([0.9 * 0.25 + 0.1, 0.9 * 0.25]))
    assert torch.allclose(layer.bias, 0.5 * (0.25 - layer.rate))
    before = layer.bias.clone()
    layer.update()
    assert torch.equal(layer.bias, before), "the same observations count once"


def test_signed_units_are_active_when_not_at_their_off_value() -> None:
    layer = FiringRate(Bernoulli(values=(-1, 1)), units=2)
    layer(torch.tensor([[torch.inf, -torch.inf]] * 3))
    assert layer.active.tolist() == [3, 0] and float(layer.seen) == 3


def test_evaluation_observes_nothing_and_state_is_saved() -> None:
    layer = FiringRate(Bernoulli(), units=3)
    layer.eval()
    layer(torch.zeros(5, 3))
    assert float(layer.seen) == 0
    layer.train()
    layer(torch.zeros(5, 3))
    copy = FiringRate(Bernoulli(), units=3)
    copy.load_state_dict(layer.state_dict())
    layer.update()
    copy.update()
    assert torch.equal(copy.bias, layer.bias) and float(copy.rate.mean()) != 0.1


def test_all_samples_of_an_estimator_are_counted() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), FiringRate(Bernoulli(), 4), nn.Linear(4, 4), FiringRate(Bernoulli(), 4))
    x = torch.randn(7, 3)
    counts = []
    for vectorize in (True, False):
        for layer in (model[1], model[3]):
            layer.load_state_dict(FiringRate(Bernoulli(), 4).state_dict())
        torch.manual_seed(1)
        ScoreFunction(model, baseline="leave-one-out", samples=5, vectorize=vectorize)(lambda: model(x).sum(1))
        counts.append([(layer.active.tolist(), float(layer.seen)) for layer in (model[1], model[3])])
    assert counts[0][0][1] == 35 and counts[0][1][1] == 35
    assert 0 < sum(counts[0][1][0]) < 140


@pytest.mark.parametrize("arguments", [{"target": 0}, {"target": 1}, {"step_size": 0}, {"decay": 1}])
def test_impossible_settings_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match="|".join(arguments)):
        FiringRate(Bernoulli(), 2, **arguments)


def test_wrong_width_names_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"units=\(5,\)"):
        FiringRate(Bernoulli(), 2)(torch.zeros(1, 5))
