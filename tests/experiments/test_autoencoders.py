"""The experiments on autoencoders, a few steps long: what they return, and that an interruption changes nothing."""

import contextlib
import json
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import dither
from dither import noise
from dither.experiments.autoencoders import binary, categorical, training, variance
from dither.experiments.autoencoders.training import Images, Training, load_snapshot, train
from dither.training import steps
from dither.training.interrupt import Interrupted
from dither.training.run_folder import RunFolder
from dither.training.state import stateful

OPTIMAL, LEAVE_ONE_OUT = "score-function:optimal", "score-function:leave-one-out,samples=2"
BINARY = binary.Config(
    data="digits", methods=("straight-through", OPTIMAL), seeds=(0,), steps=20, examples=230, hidden=(12,), latents=5,
    batch_size=50, record_every=8, variance_at=(0, 10), variance_draws=4, variance_warmup=2, bound_samples=3,
)  # fmt: skip
CATEGORICAL = categorical.Config(
    data="digits", methods=("straight-through",), seeds=(0,), lrs=(1e-3, 1e-2), units=3, categories=4, hidden=(12,), steps=20,
    examples=230, batch_size=50, record_every=8,
)  # fmt: skip
EXPERIMENTS = [(binary, BINARY), (categorical, CATEGORICAL)]


def timeless(rows):
    """Rows without what the clock decides."""
    clock = ("seconds", "ms_per_step", "train_elbo_at_equal_time", "train_elbo_at_equal_time_sd")
    return [{key: value for key, value in row.items() if key not in clock} for row in rows]


def test_rows_and_curves_of_the_binary_one(tmp_path):
    result = binary.run(BINARY, tmp_path, lambda text: None)
    assert [row["method"] for row in result["rows"]] == list(BINARY.methods)  # the reference is trained, but no row of it
    assert [(row["method"], row["step"]) for row in result["curves"]] == [(m, s) for m in BINARY.methods for s in (8, 16, 20)]
    for row in result["rows"]:
        assert {f"{own}variance_{step}" for own in ("", "own_") for step in (0, 10)} <= row.keys()
        assert row["train_elbo"] == pytest.approx(
            next(r for r in result["curves"][2::3] if r["method"] == row["method"])["train_elbo"], abs=1e-3
        )
    first = {(v["method"], v["trajectory"]): v["variance"] for v in result["variances"] if v["step"] == 0}
    assert first[OPTIMAL, "common"] == first[OPTIMAL, "own"]  # all start from the same network
    assert first[OPTIMAL, "common"] > 10 * first["straight-through", "common"]
    later = {v["trajectory"]: v["variance"] for v in result["variances"] if v["step"] == 10 and "straight" in v["method"]}
    assert len({first["straight-through", "common"], later["common"], later["own"]}) == 3  # three networks
    assert (
        json.loads((tmp_path / "score-function-leave-one-out-samples-2-0" / "config.json").read_text())["method"]
        == LEAVE_ONE_OUT
    )


def test_rows_and_curves_of_the_categorical_one(tmp_path):
    result = categorical.run(CATEGORICAL, tmp_path, lambda text: None)
    (row,) = result["rows"]
    means = {lr: row[f"nelbo_lr_{lr:g}"] for lr in CATEGORICAL.lrs}
    assert row["train_nelbo"] == min(means.values()) == means[row["lr"]]
    assert {r["lr"] for r in result["curves"]} == {row["lr"]} and [r["step"] for r in result["curves"]] == [8, 16, 20]


@pytest.mark.parametrize(("module", "config"), EXPERIMENTS)
def test_finished_runs_are_not_repeated_and_other_settings_are_refused(tmp_path, monkeypatch, module, config):
    first = module.run(config, tmp_path, lambda text: None)
    monkeypatch.setattr(module, "train", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(binary, "gradient_variance", lambda *_: pytest.fail("measured again"))
    assert module.run(config, tmp_path, lambda text: None) == first
    with pytest.raises(ValueError, match=r"other batch_size: choose another folder with --out"):
        module.run(replace(config, batch_size=40), tmp_path, lambda text: None)
    with pytest.raises(ValueError, match=r"no estimator 'typo'; known are .*straight-through"):
        module.run(replace(config, methods=("typo",)), tmp_path, lambda text: None)


@pytest.mark.parametrize(("module", "config"), EXPERIMENTS)
@pytest.mark.parametrize("at", [3, 11])
def test_an_interrupted_run_goes_on_to_the_same_numbers(tmp_path, monkeypatch, module, config, at):
    whole = module.run(config, tmp_path / "whole", lambda text: None)
    update, calls = Training.update, []

    def stops(*arguments):
        calls.append(arguments)
        if len(calls) == at:
            signal.raise_signal(signal.SIGINT)
        return update(*arguments)

    monkeypatch.setattr(Training, "update", stops)
    with pytest.raises(Interrupted, match=f"after step {at}"):
        module.run(config, tmp_path / "parts", lambda text: None)
    again = module.run(config, tmp_path / "parts", lambda text: None)
    trainings = len(list((tmp_path / "whole").glob("*/result.json")))
    assert len(calls) == 20 * trainings  # no step is made twice
    assert timeless(again["rows"]) == timeless(whole["rows"]) and timeless(again["curves"]) == timeless(whole["curves"])


@pytest.mark.parametrize("stop", [None, 8, 11])
def test_records_are_means_and_seconds_of_their_own_steps(tmp_path, monkeypatch, stop):
    """With a clock that ticks once a step, and losses that are noted as they come."""
    update, losses, weights = Training.update, [], []
    monkeypatch.setattr(steps, "time", SimpleNamespace(perf_counter=lambda: len(losses), monotonic=time.monotonic))

    def noted(parts, x):
        weights.append(parts.model.decoder[0].weight.detach().clone())
        losses.append(update(parts, x))
        if len(losses) == stop:
            signal.raise_signal(signal.SIGINT)
        return losses[-1]

    monkeypatch.setattr(Training, "update", noted)
    images = Images(torch.rand(230, 64), batch_size=50, seed=0, binarised=True)
    for _ in range(1 if stop is None else 2):
        parts = categorical.make_training(CATEGORICAL, "straight-through", 1e-2, 0, 64)
        with RunFolder.of(tmp_path / "run", {"a": 1}) as run, contextlib.suppress(Interrupted):
            records = train(run, parts, images, steps=20, record_every=8, snapshots=(0, 10, 20))
    assert [(r["step"], r["seconds"]) for r in records] == [(8, 8), (16, 16), (20, 20)]
    means = [-torch.stack(losses[a:b]).mean().item() for a, b in ((0, 8), (8, 16), (16, 20))]
    assert [r["train_elbo"] for r in records] == pytest.approx(means)
    assert parts.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)  # the cosine has come to its end
    final = parts.model.decoder[0].weight.detach().clone()
    for at, weight in ((0, weights[0]), (10, weights[10]), (20, final)):
        assert load_snapshot(tmp_path / "run", at, parts.model)
        assert torch.equal(parts.model.decoder[0].weight, weight)
    assert not load_snapshot(tmp_path / "run", 5, parts.model)


def test_minutes_end_a_training(tmp_path):
    config = replace(BINARY, steps=10**6, minutes=1e-9, variance_at=(), methods=("straight-through",))
    result = binary.run(config, tmp_path, lambda text: None)
    assert [row["step"] for row in result["curves"]] == [1]


def test_training_improves_the_bound(tmp_path):
    config = replace(BINARY, steps=300, record_every=100, variance_at=(), methods=(LEAVE_ONE_OUT,), lr=3e-3)
    elbo = [row["train_elbo"] for row in binary.run(config, tmp_path, lambda text: None)["curves"]]
    assert elbo[0] + 2 < elbo[-1] < 0


def test_batches_are_permutations_of_the_data_and_pixels_follow_their_greys():
    x = (torch.arange(10.0) / 10).view(10, 1).repeat(1, 3)
    images = Images(x, batch_size=3, seed=4, binarised=False)
    epochs = [torch.cat([images(3 * e + i) for i in range(3)])[:, 0] for e in range(2)]
    assert all(len(epoch.unique()) == 9 for epoch in epochs) and not torch.equal(*epochs)
    assert torch.equal(Images(x, 3, 4, binarised=False)(4), images(4))  # any step, in any order
    pixels = Images(x, 3, 4, binarised=True)
    assert torch.equal(pixels(1), pixels(1)) and not torch.equal(pixels(1), pixels(2))
    many = torch.stack([training.binarise(x, seed) for seed in range(4000)])
    assert set(many.unique().tolist()) == {0.0, 1.0}
    assert (many.mean((0, 2)) - x[:, 0]).abs().max() < 5 * 0.5 / 12000**0.5
    with pytest.raises(ValueError, match="10 examples for batches of 11"):
        Images(x, 11, 4, binarised=True)


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
    measured = variance.gradient_variance(model, Known(), model.parameters(), None, draws=4000, seed=0)
    assert measured["variance_total"] == pytest.approx(1 / 12, rel=0.05)
    assert measured["variance"] == pytest.approx(1 / 24, rel=0.05)
    assert measured["signal"] == pytest.approx(1.5**2 + 2**2, rel=0.01)
    twice = variance.gradient_variance(model, Known(), model.parameters(), None, draws=2, seed=0)
    one, other = two_draws()
    assert twice["variance_total"] == pytest.approx((one - other) ** 2 / 2, rel=1e-4)
    signal_left = (1 + (one + other) / 2) ** 2 + 2**2 - (one - other) ** 2 / 4
    assert twice["signal"] == pytest.approx(signal_left, rel=1e-5)
    with pytest.raises(ValueError, match="draws is 1"):
        variance.gradient_variance(model, Known(), model.parameters(), None, draws=1, seed=0)


def two_draws():
    seeds = [noise.step_seed(0, k) for k in (0, 1)]
    return [torch.rand((), generator=torch.Generator().manual_seed(seed)).item() for seed in seeds]


def test_the_estimators_own_parameters_get_an_optimizer_of_their_own(monkeypatch):
    torch.manual_seed(0)
    baseline = torch.nn.Linear(5, 1)
    monkeypatch.setattr(binary.methods, "build", lambda method, model: dither.ScoreFunction(model, baseline=baseline))
    parts = binary.make_training(BINARY, "score-function", 0, torch.rand(3, 64))
    assert {"estimator", "optimizer", "estimator_optimizer"} == stateful(parts.parts).keys()
    before = baseline.weight.detach().clone()
    parts.update(torch.rand(3, 64).round())
    assert ((baseline.weight - before).abs() > 5e-4).any()
    before, model = baseline.weight.detach().clone(), {k: v.clone() for k, v in parts.model.state_dict().items()}
    variance.warm_up(parts, Images(torch.rand(3, 64), 3, 0, binarised=True), 3, 0)
    assert not torch.equal(baseline.weight, before)
    assert all(torch.equal(v, model[k]) for k, v in parts.model.state_dict().items())
