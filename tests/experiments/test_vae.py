"""The experiments on autoencoders, a few steps long: what they return, and that an interruption changes nothing."""

import contextlib
import itertools
import json
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dither import noise
from dither.experiments import _vae, binary_vae, categorical_vae
from dither.training.interrupt import Interrupted

BINARY = binary_vae.Config(
    data="digits", methods=("straight-through", "score-optimal"), seeds=(0,), steps=20, examples=230, hidden=(12,), latents=5,
    batch_size=50, record_every=8, variance_at=(0, 10), variance_draws=4, variance_warmup=2, bound_samples=3,
)  # fmt: skip
CATEGORICAL = categorical_vae.Config(
    data="digits", methods=("straight-through",), seeds=(0,), lrs=(1e-3, 1e-2), units=3, categories=4, hidden=(12,), steps=20,
    examples=230, batch_size=50, record_every=8,
)  # fmt: skip
EXPERIMENTS = [(binary_vae, BINARY), (categorical_vae, CATEGORICAL)]


def timeless(rows):
    """Rows without what the clock decides."""
    clock = ("seconds", "ms_per_step", "train_elbo_at_equal_time")
    return [{key: value for key, value in row.items() if key not in clock} for row in rows]


def test_rows_and_curves_of_the_binary_one(tmp_path):
    result = binary_vae.run(BINARY, tmp_path, lambda text: None)
    assert [row["method"] for row in result["rows"]] == list(BINARY.methods)  # the reference is trained, but no row of it
    assert [(row["method"], row["step"]) for row in result["curves"]] == [(m, s) for m in BINARY.methods for s in (8, 16, 20)]
    for row in result["rows"]:
        assert {f"{own}variance_{step}" for own in ("", "own_") for step in (0, 10)} <= row.keys()
        assert row["train_elbo"] == pytest.approx(
            next(r for r in result["curves"][2::3] if r["method"] == row["method"])["train_elbo"], abs=1e-3
        )
    first = {(v["method"], v["trajectory"]): v["variance"] for v in result["variances"] if v["step"] == 0}
    assert first["score-optimal", "common"] == first["score-optimal", "own"]  # all start from the same network
    assert first["score-optimal", "common"] > 10 * first["straight-through", "common"]
    later = {v["trajectory"]: v["variance"] for v in result["variances"] if v["step"] == 10 and "straight" in v["method"]}
    assert len({first["straight-through", "common"], later["common"], later["own"]}) == 3  # three networks
    assert json.loads((tmp_path / "leave-one-out-2-0" / "config.json").read_text())["method"] == "leave-one-out-2"


def test_rows_and_curves_of_the_categorical_one(tmp_path):
    result = categorical_vae.run(CATEGORICAL, tmp_path, lambda text: None)
    (row,) = result["rows"]
    means = {lr: row[f"nelbo_lr_{lr:g}"] for lr in CATEGORICAL.lrs}
    assert row["train_nelbo"] == min(means.values()) == means[row["lr"]]
    assert {r["lr"] for r in result["curves"]} == {row["lr"]} and [r["step"] for r in result["curves"]] == [8, 16, 20]


@pytest.mark.parametrize(("module", "config"), EXPERIMENTS)
def test_finished_runs_are_not_repeated_and_other_settings_are_refused(tmp_path, monkeypatch, module, config):
    first = module.run(config, tmp_path, lambda text: None)
    monkeypatch.setattr(_vae, "train", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(_vae, "gradient_variance", lambda *_: pytest.fail("measured again"))
    assert module.run(config, tmp_path, lambda text: None) == first
    with pytest.raises(ValueError, match=r"other batch_size: choose another folder with --out"):
        module.run(replace(config, batch_size=40), tmp_path, lambda text: None)
    with pytest.raises(ValueError, match="no method typo; choose among straight-through"):
        module.run(replace(config, methods=("typo",)), tmp_path, lambda text: None)


@pytest.mark.parametrize(("module", "config"), EXPERIMENTS)
@pytest.mark.parametrize("at", [3, 11])
def test_an_interrupted_run_goes_on_to_the_same_numbers(tmp_path, monkeypatch, module, config, at):
    whole = module.run(config, tmp_path / "whole", lambda text: None)
    step, calls = _vae._step, []

    def stops(*arguments):
        calls.append(arguments)
        if len(calls) == at:
            signal.raise_signal(signal.SIGINT)
        return step(*arguments)

    monkeypatch.setattr(_vae, "_step", stops)
    with pytest.raises(Interrupted, match=f"after step {at}"):
        module.run(config, tmp_path / "parts", lambda text: None)
    again = module.run(config, tmp_path / "parts", lambda text: None)
    trainings = len(list((tmp_path / "whole").glob("*/result.json")))
    assert len(calls) == 20 * trainings  # no step is made twice
    assert timeless(again["rows"]) == timeless(whole["rows"]) and timeless(again["curves"]) == timeless(whole["curves"])


@pytest.mark.parametrize("stop", [None, 8, 11])
def test_records_are_means_and_seconds_of_their_own_steps(tmp_path, monkeypatch, stop):
    """With a clock that ticks once a step, and losses that are noted as they come."""
    ticks, step, losses, weights = itertools.count(), _vae._step, [], []
    monkeypatch.setattr(_vae, "time", SimpleNamespace(perf_counter=lambda: next(ticks), monotonic=time.monotonic))

    def noted(training, x, seed, number):
        weights.append(training.model.decoder[0].weight.detach().clone())
        losses.append(step(training, x, seed, number))
        if len(losses) == stop:
            signal.raise_signal(signal.SIGINT)
        return losses[-1]

    monkeypatch.setattr(_vae, "_step", noted)
    x = torch.rand(230, 64)
    plan = _vae.Plan(steps=20, batch_size=50, seed=0, binarise=True, record_every=8, snapshots=(0, 10, 20))
    for _ in range(1 if stop is None else 2):
        training = categorical_vae.make_training(CATEGORICAL, "straight-through", 1e-2, 0, 64)
        with _vae.open_run(tmp_path / "run", {"a": 1}) as run, contextlib.suppress(Interrupted):
            records = _vae.train(run, training, x, plan)
    assert [(r["step"], r["seconds"]) for r in records] == [(8, 8), (16, 16), (20, 20)]
    means = [-torch.stack(losses[a:b]).mean().item() for a, b in ((0, 8), (8, 16), (16, 20))]
    assert [r["train_elbo"] for r in records] == pytest.approx(means)
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)  # the cosine has come to its end
    final = training.model.decoder[0].weight.detach().clone()
    for at, weight in ((0, weights[0]), (10, weights[10]), (20, final)):
        assert _vae.recall(tmp_path / "run", at, training.model)
        assert torch.equal(training.model.decoder[0].weight, weight)
    assert not _vae.recall(tmp_path / "run", 5, training.model)


def test_minutes_end_a_training(tmp_path):
    config = replace(BINARY, steps=10**6, minutes=1e-9, variance_at=(), methods=("straight-through",))
    result = binary_vae.run(config, tmp_path, lambda text: None)
    assert [row["step"] for row in result["curves"]] == [1]


def test_training_improves_the_bound(tmp_path):
    config = replace(BINARY, steps=300, record_every=100, variance_at=(), methods=("leave-one-out-2",), lr=3e-3)
    elbo = [row["train_elbo"] for row in binary_vae.run(config, tmp_path, lambda text: None)["curves"]]
    assert elbo[0] + 2 < elbo[-1] < 0


def test_batches_are_permutations_of_the_data_and_pixels_follow_their_greys():
    x = (torch.arange(10.0) / 10).view(10, 1).repeat(1, 3)
    plan = _vae.Plan(steps=9, batch_size=3, seed=4, binarise=False, record_every=1)
    batches = _vae.Batches(x, plan)
    epochs = [torch.cat([batches(3 * e + i) for i in range(3)])[:, 0] for e in range(2)]
    assert all(len(epoch.unique()) == 9 for epoch in epochs) and not torch.equal(*epochs)
    assert torch.equal(_vae.Batches(x, plan)(4), batches(4))  # any step, in any order
    drawn = _vae.Batches(x, replace(plan, binarise=True))
    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))
    many = torch.stack([_vae.binarise(x, seed) for seed in range(4000)])
    assert set(many.unique().tolist()) == {0.0, 1.0}
    assert (many.mean((0, 2)) - x[:, 0]).abs().max() < 5 * 0.5 / 12000**0.5
    with pytest.raises(ValueError, match="10 examples for batches of 11"):
        _vae.Batches(x, replace(plan, batch_size=11))


class Known:
    """An estimator with a gradient of known mean and variance: (1, 2) + uniform noise on one coordinate."""

    def frozen(self):
        return torch.enable_grad()

    def __call__(self, closure):
        a, b = closure()
        return a * (1 + torch.rand(())) + 2 * b


class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = (torch.nn.Parameter(torch.zeros(())) for _ in "ab")

    def cost(self, x):
        return self.a, self.b


def test_the_variance_is_that_of_the_draws():
    model = Two()
    found = _vae.gradient_variance(model, Known(), model.parameters(), None, draws=4000, seed=0)
    assert found["variance_total"] == pytest.approx(1 / 12, rel=0.05)
    assert found["variance"] == pytest.approx(1 / 24, rel=0.05)
    assert found["signal"] == pytest.approx(1.5**2 + 2**2, rel=0.01)
    twice = _vae.gradient_variance(model, Known(), model.parameters(), None, draws=2, seed=0)
    one, other = two_draws()
    assert twice["variance_total"] == pytest.approx((one - other) ** 2 / 2, rel=1e-4)
    signal_left = (1 + (one + other) / 2) ** 2 + 2**2 - (one - other) ** 2 / 4
    assert twice["signal"] == pytest.approx(signal_left, rel=1e-5)
    with pytest.raises(ValueError, match="draws is 1"):
        _vae.gradient_variance(model, Known(), model.parameters(), None, draws=1, seed=0)


def two_draws():
    seeds = [noise.step_seed(0, k) for k in (0, 1)]
    return [torch.rand((), generator=torch.Generator().manual_seed(seed)).item() for seed in seeds]


def test_the_estimators_own_parameters_get_an_optimizer_of_their_own(monkeypatch):
    import dither

    torch.manual_seed(0)
    baseline = torch.nn.Linear(5, 1)
    monkeypatch.setitem(binary_vae.METHODS, "learned", lambda model: dither.ScoreFunction(model, baseline))
    training = binary_vae.make_training(BINARY, "learned", 0, torch.rand(3, 64))
    assert {"model", "estimator", "optimizer", "estimator_optimizer"} == training.parts.keys()
    before = baseline.weight.detach().clone()
    _vae._step(training, torch.rand(3, 64).round(), 0, 0)
    assert ((baseline.weight - before).abs() > 5e-4).any()
    before, model = baseline.weight.detach().clone(), {k: v.clone() for k, v in training.model.state_dict().items()}
    plan = _vae.Plan(steps=1, batch_size=3, seed=0, binarise=True, record_every=1)
    _vae.warm_up(training, _vae.Batches(torch.rand(3, 64), plan), 3, 0)
    assert not torch.equal(baseline.weight, before)
    assert all(torch.equal(v, model[k]) for k, v in training.model.state_dict().items())
