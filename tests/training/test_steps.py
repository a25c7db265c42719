"""The loop that counts steps: when it records, saves and ends, and what it does in which order."""

import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dither import noise
from dither.training import checkpoint, steps
from dither.training.batches import Batches
from dither.training.interrupt import Interrupted
from dither.training.run_folder import RunFolder
from dither.training.steps import Loop, Plan, Task

PLAN = Plan(seed=3, steps=20, record_every=8, save_every=8, keep=100)


class Clock:
    """Seconds that pass where the test says so."""

    now = 0.0

    def perf_counter(self):
        return self.now

    monotonic = perf_counter


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(steps, "time", SimpleNamespace(perf_counter=clock.perf_counter, monotonic=clock.monotonic))
    return clock


def loop(plan=PLAN, run=None, clock=None, stop_at=None, events=None, **hooks):
    """A linear model; every step takes a second, and one of them sends a signal."""
    torch.manual_seed(0)
    model, events = nn.Linear(2, 1), [] if events is None else events
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    x = torch.arange(40.0).reshape(20, 2) / 40
    batches = Batches(20, 3, plan.seed)

    def update(ids):
        events.append(("update", torch.initial_seed(), ids.tolist()))
        optimizer.zero_grad()
        loss = (model(x[ids]) + torch.randn(()) / 10).square().mean()
        loss.backward()
        optimizer.step()
        if clock:
            clock.now += 1
        if sum(event[0] == "update" for event in events) == stop_at:
            signal.raise_signal(signal.SIGTERM)
        return loss.detach()

    task = Task(batches, update, lambda step, loss: {"step": step, "loss": loss}, **hooks)
    parts = {"optimizer": optimizer, "scheduler": None, "estimator": lambda closure: closure()}
    return Loop(model, parts, task, plan, run, resume=run is not None, identity=batches.identity)


def test_steps_are_seeded_by_their_number_and_records_are_means_of_their_examples():
    events = []
    training = loop(events=events)
    records = training.train()
    assert [record["step"] for record in records] == [8, 16, 20] and training.step == 20
    assert [seed for _, seed, _ in events] == [noise.step_seed(3, step) for step in range(20)]
    assert [len(ids) for _, _, ids in events[:7]] == [3] * 6 + [2]  # the last batch of an epoch has what is left


def test_hooks_are_called_in_order(clock):
    events = []
    hooks = {
        "before": lambda step: events.append(("before", step)),
        "on_record": lambda record, seconds: events.append(("record", record["step"], seconds)),
        "progress": lambda step, loss: events.append(("progress", step)),
    }
    loop(clock=clock, events=events, **hooks).train()
    own = [event for event in events if event[0] != "update"]
    assert [event[1] for event in own if event[0] == "before"] == list(range(20))
    assert [event for event in own if event[0] == "record"] == [("record", 8, 8.0), ("record", 16, 8.0), ("record", 20, 4.0)]
    assert own.index(("before", 7)) < own.index(("progress", 8)) < own.index(("record", 8, 8.0)) < own.index(("before", 8))


@pytest.mark.parametrize("stop_at", [1, 7, 8, 19, 20])
def test_an_interruption_changes_no_record_no_weight_and_loses_no_second(tmp_path, clock, stop_at):
    with RunFolder.of(tmp_path / "whole", {}) as run:
        whole = loop(run=run, clock=clock)
        whole.train()
    with RunFolder.of(tmp_path / "parts", {}) as run:
        with pytest.raises(Interrupted, match=f"after step {stop_at}, which is saved"):
            loop(run=run, clock=clock, stop_at=stop_at).train()
        again = loop(run=run, clock=clock)
        assert (again.step, again.seconds) == (stop_at, stop_at)
        assert again.train() == whole.records == run.records()
        assert [row["seconds"] for row in run.curve()] == [8, 16, 20]
        assert sum(row["steps"] for row in run.timings()) == sum(row["seconds"] for row in run.timings()) == 20
        numbers = [row["record"] for row in run.timings()]
        assert numbers == sorted(numbers) and set(numbers) == {1, 2, 3}  # a record that was cut has two lines
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor)


def test_minutes_end_it_with_a_record_and_a_checkpoint_and_for_good(tmp_path, clock):
    plan = replace(PLAN, minutes=5.5 / 60)
    with RunFolder.of(tmp_path, {}) as run:
        assert [record["step"] for record in loop(plan, run, clock).train()] == [6]
        assert checkpoint.steps(run.checkpoints) == [6]
        assert [record["step"] for record in loop(plan, run, clock).train()] == [6]  # its time is used up
        longer = replace(PLAN, minutes=9.5 / 60)
        assert [record["step"] for record in loop(longer, run, clock).train()] == [6, 8, 10]


def test_records_and_checkpoints_take_no_time_of_training(tmp_path, clock):
    plan = replace(PLAN, minutes=19.5 / 60)

    def slow(record, seconds):
        clock.now += 100

    with RunFolder.of(tmp_path, {}) as run:
        training = loop(plan, run, clock, on_record=slow)
        training.train()
    assert training.step == 20 and training.seconds == 20


@pytest.mark.parametrize(
    ("plan", "saved"),
    [
        (PLAN, [8, 16, 20]),
        (replace(PLAN, save_every=3), [3, 6, 9, 12, 15, 18, 20]),
        (replace(PLAN, save_every=3, save_seconds=5), [6, 12, 18, 20]),
        (replace(PLAN, save_every=100), [20]),
        (replace(PLAN, save_every=3, keep=2), [18, 20]),
        (replace(PLAN, steps=0), []),
    ],
)
def test_when_it_saves(tmp_path, clock, plan, saved):
    with RunFolder.of(tmp_path, {}) as run:
        loop(plan, run, clock).train()
        assert checkpoint.steps(run.checkpoints) == saved


def test_a_plan_that_ends_before_the_checkpoint_is_refused(tmp_path):
    with RunFolder.of(tmp_path, {}) as run:
        loop(run=run).train()
        with pytest.raises(ValueError, match=r"ends at step 10, but .* has done 20; ask for more epochs or steps"):
            loop(replace(PLAN, steps=10), run)


def test_batches_are_permutations_and_any_step_can_be_asked_for():
    batches, other = Batches(10, 4, seed=1), Batches(10, 4, seed=1, drop_last=True)
    assert (batches.per_epoch, other.per_epoch) == (3, 2)
    first = torch.cat([batches(step) for step in range(3)])
    assert sorted(first.tolist()) == list(range(10)) and first.tolist() != list(range(10))
    assert torch.equal(torch.cat([other(step) for step in range(2)]), first[:8])
    assert torch.equal(batches(7), Batches(10, 4, seed=1)(7)) and not torch.equal(batches(3), batches(0))
    with pytest.raises(ValueError, match="10 examples for batches of 11"):
        Batches(10, 11, seed=1, drop_last=True)
