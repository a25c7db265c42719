"""The loop: what a step sees, what is logged, and that an interruption changes nothing."""

import errno
import json
import math
import os
import signal
import threading

import pytest
import torch
from torch import nn

from dither import noise
from dither.training import _progress, checkpoint
from dither.training.checkpoint import CheckpointWarning
from dither.training.interrupt import Interrupted, postponed
from dither.training.loop import fit
from dither.training.metrics_log import CorruptLog
from dither.training.run_folder import RunFolder
from training.kill_sweep import build, digest

PER_EPOCH, LAST = 9, 54


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small nets gain nothing from threads, and on a busy machine they lose much."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Crash(Exception):
    pass


def crash_at(parts, step, stop=None):
    """Let the estimator of `parts` fail (or send a signal) in step number `step`, counted from 0."""
    estimator, begun = parts["estimator"], iter(range(10**9))

    class Crashing(nn.Module):
        state_dict, load_state_dict = estimator.state_dict, estimator.load_state_dict

        def forward(self, closure):
            if next(begun) == step:
                if stop is None:
                    raise Crash
                signal.raise_signal(stop)
            return estimator(closure)

    return {**parts, "estimator": Crashing()}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An uninterrupted run: its records, its digest, and its final weights."""
    path = tmp_path_factory.mktemp("runs") / "reference"
    parts = build()
    with RunFolder.create(path, {}) as run:
        records = fit(**parts, run=run)
    return records, digest(path), parts["model"].state_dict()


# --- what a run is ----------------------------------------------------------------------------------------------------
def test_records_have_one_line_an_epoch_and_no_clock(tmp_path, reference):
    records = reference[0]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert [record["step"] for record in records] == [9, 18, 27, 36, 45, 54]
    assert all(set(record) == {"epoch", "step", "train_loss", "accuracy"} for record in records)
    assert records[-1]["train_loss"] < records[0]["train_loss"]


def test_a_run_folder_changes_no_number(reference):
    parts = build()
    assert fit(**parts) == reference[0]
    for name, tensor in parts["model"].state_dict().items():
        assert torch.equal(tensor, reference[2][name])


def test_seconds_go_to_a_file_of_their_own(tmp_path):
    with RunFolder.create(tmp_path, {}) as run:
        seen = []
        fit(**build(), run=run, on_epoch=lambda record, seconds: seen.append((record["epoch"], seconds)))
        assert [(row["epoch"], row["seconds"]) for row in run.timings()] == seen
        assert [row["steps"] for row in run.timings()] == [PER_EPOCH] * 6
    assert "seconds" not in (tmp_path / "metrics.jsonl").read_text()


def test_every_epoch_sees_every_example_once_in_an_order_of_its_own():
    x = torch.arange(23.0).reshape(23, 1)
    seen = []

    def cost(net, a, b):
        ids = noise.example_ids(len(a), a.device)  # the noise follows the examples
        assert torch.equal(ids, a[:, 0].long()) and torch.equal(b, 2 * a)
        seen.append(ids.tolist())
        return net(a)[:, 0]

    def orders(seed, batch_size):
        seen.clear()
        net = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(net.parameters(), 1e-4)
        train = (x, 2 * x)
        fit(net, lambda c: c().mean(), optimizer, cost, train, epochs=3, batch_size=batch_size, seed=seed)
        assert [len(batch) for batch in seen[: -(-23 // batch_size)]][-1] == 23 % batch_size or batch_size
        flat = [i for batch in seen for i in batch]
        return [flat[i : i + 23] for i in (0, 23, 46)]

    first = orders(0, 5)
    assert all(sorted(order) == list(range(23)) for order in first)
    assert first[0] != first[1] != first[2] != list(range(23))
    assert orders(0, 23) == orders(0, 1) == first  # whatever the batch size
    assert orders(1, 5)[0] != first[0]


def test_each_step_is_seeded_by_its_number():
    states = []
    parts = build()
    estimator = parts["estimator"]

    def spying(closure):
        states.append(torch.initial_seed())
        return estimator(closure)

    fit(**{**parts, "estimator": spying})
    assert states == [noise.step_seed(0, step) for step in range(LAST)]
    assert len(set(states)) == LAST


def test_evaluation_is_seeded_by_its_epoch_whatever_came_before():
    def seeds(**changes):
        seen = []
        parts = build()

        def evaluate():
            seen.append(torch.initial_seed())
            return {}

        fit(**{**parts, **changes, "evaluate": evaluate})
        return seen

    first = seeds()
    assert len(set(first)) == 6
    assert not set(first) & {noise.step_seed(0, step) for step in range(LAST + 1)}
    assert seeds(batch_size=50, scheduler=None) == first
    assert seeds(seed=1) != first


def test_train_loss_is_the_mean_over_the_examples_of_its_epoch():
    x = torch.tensor([0.0, 0.0, 9.0]).reshape(3, 1)
    net = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    calls = iter(range(4))

    def cost(net, a, b):
        epoch = next(calls) // 2 + 1
        return epoch * a[:, 0] + 0 * net(a)[:, 0]

    records = fit(net, lambda c: c().mean(), optimizer, cost, (x, x), epochs=2, batch_size=2, seed=0)
    assert [record["train_loss"] for record in records] == pytest.approx([3.0, 6.0])


def test_progress_ends_at_the_last_step():
    seen = []
    fit(**build(), progress=lambda done, total, text: seen.append((done, total, text)))
    assert seen[-1][:2] == (LAST, LAST)
    assert seen[-1][2].startswith("epoch 6/6  loss 0.")
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_no_epochs_is_no_training(tmp_path):
    assert fit(**{**build(), "epochs": 0}) == []


# --- interruptions ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("every", [None, 1, 4, 9, 1000])
def test_a_crash_at_any_step_and_a_resume_give_the_same_bits(tmp_path, reference, every):
    for step in (9, 30) if every == 1 else (0, 8, 9, 30, 53):
        path = tmp_path / str(step)
        with RunFolder.create(path, {}) as run, pytest.raises(Crash):
            fit(**crash_at(build(), step), run=run, checkpoint_every=every)
        parts = build()
        with RunFolder.open(path) as run:
            assert fit(**parts, run=run, resume=True, checkpoint_every=every) == reference[0]
        assert digest(path) == reference[1]
        for name, tensor in parts["model"].state_dict().items():
            assert torch.equal(tensor, reference[2][name])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [0, 4, 8, 53])
def test_a_signal_ends_the_step_saves_and_raises(tmp_path, reference, signum, step):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with RunFolder.create(tmp_path, {}) as run:
        with pytest.raises(Interrupted, match=f"after step {step + 1}, which is saved; .*--resume") as caught:
            fit(**crash_at(build(), step, signum), run=run)
        assert (caught.value.signum, caught.value.exit_code) == (signum, 128 + signum)
        assert checkpoint.load(run.checkpoints, strict=True).step == step + 1
        assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
        assert fit(**build(), run=run, resume=True) == reference[0]
    assert digest(tmp_path) == reference[1]


def test_a_signal_while_evaluating_or_in_a_callback_is_not_lost(tmp_path):
    parts = build()
    with RunFolder.create(tmp_path / "a", {}) as run, pytest.raises(Interrupted):
        fit(**{**parts, "evaluate": lambda: signal.raise_signal(signal.SIGTERM) or {}}, run=run)

    def last_epoch(record, seconds):
        if record["epoch"] == 6:
            signal.raise_signal(signal.SIGTERM)

    with RunFolder.create(tmp_path / "b", {}) as run, pytest.raises(Interrupted):
        fit(**build(), run=run, on_epoch=last_epoch)


def test_a_second_signal_acts_at_once():
    with pytest.raises(KeyboardInterrupt), postponed() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signum == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_a_run_signals_are_left_alone():
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(**crash_at(build(), 3, signal.SIGINT))
    assert not isinstance(caught.value, Interrupted)


def test_training_works_in_a_thread(tmp_path, reference):
    records = []

    def work():
        with RunFolder.create(tmp_path, {}) as run:
            records.append(fit(**build(), run=run))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert records == [reference[0]]


def test_interrupted_is_not_swallowed_by_except_exception():
    assert issubclass(Interrupted, KeyboardInterrupt) and not issubclass(Interrupted, Exception)


def test_a_finished_run_returns_its_records_at_once(tmp_path, reference):
    with RunFolder.create(tmp_path, {}) as run:
        fit(**build(), run=run)
        before = {p: p.stat().st_mtime_ns for p in run.checkpoints.rglob("*")}
        assert fit(**crash_at(build(), 0), run=run, resume=True) == reference[0]
        assert {p: p.stat().st_mtime_ns for p in run.checkpoints.rglob("*")} == before


def test_more_epochs_continue_a_finished_run(tmp_path, reference):
    with RunFolder.create(tmp_path, {}) as run:
        fit(**{**build(), "epochs": 2}, run=run)
        assert fit(**build(), run=run, resume=True) == reference[0]
    assert digest(tmp_path) == reference[1]


@pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.META, checkpoint.MANIFEST])
def test_a_corrupt_newest_checkpoint_costs_one_interval_and_no_bit(tmp_path, reference, name):
    with RunFolder.create(tmp_path, {}) as run:
        with pytest.raises(Crash):
            fit(**crash_at(build(), 40), run=run)
        path = run.checkpoints / "step-000036" / name
        path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
        with pytest.warns(CheckpointWarning, match="using step-000027 instead"):
            assert fit(**build(), run=run, resume=True) == reference[0]
    assert digest(tmp_path) == reference[1]


def test_lines_are_durable_before_the_checkpoint_that_relies_on_them(tmp_path, monkeypatch):
    events = []
    with RunFolder.create(tmp_path, {}) as run:
        run.metrics.append({"step": 0})
        run.metrics.rewind(-1)
        inode, fsync, save = run.metrics.path.stat().st_ino, os.fsync, checkpoint.save

        def spy(handle):
            events.append("sync" if os.fstat(handle).st_ino == inode else None)
            fsync(handle)

        monkeypatch.setattr(os, "fsync", spy)
        monkeypatch.setattr(checkpoint, "save", lambda *a, **k: (events.append("save"), save(*a, **k))[1])
        fit(**build(), run=run)
    assert [event for event in events if event] == ["sync", "save"] * 6


def test_metrics_that_were_lost_are_noticed(tmp_path):
    with RunFolder.create(tmp_path, {}) as run:
        fit(**{**build(), "epochs": 3}, run=run)
        lines = run.metrics.path.read_bytes().splitlines(keepends=True)
        run.metrics.path.write_bytes(b"".join(lines[:2]))
        with pytest.raises(CorruptLog, match="has 2 of 3 records"):
            fit(**build(), run=run, resume=True)


def test_a_full_disk_stops_the_run_which_resumes_once_there_is_space(tmp_path, reference, monkeypatch):
    with RunFolder.create(tmp_path, {}) as run:
        real, saves = os.mkdir, iter(range(100))

        def full(path, *arguments, **keywords):
            if ".tmp-" in str(path) and next(saves) == 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(path, *arguments, **keywords)

        with monkeypatch.context() as patch:
            patch.setattr(os, "mkdir", full)
            with pytest.raises(OSError, match="free some space"):
                fit(**build(), run=run)
        assert sorted(p.name for p in run.checkpoints.iterdir()) == ["step-000018", "step-000027"]
        assert fit(**build(), run=run, resume=True) == reference[0]
    assert digest(tmp_path) == reference[1]


# --- wrong numbers ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("bad", [0, 7, 8, 31])
def test_a_loss_that_is_not_finite_stops_with_step_and_seed_and_is_not_saved(tmp_path, value, bad):
    parts = build()
    estimator, steps = parts["estimator"], iter(range(LAST))
    parts["estimator"] = lambda closure: estimator(closure) * (value if next(steps) == bad else 1)
    with RunFolder.create(tmp_path, {}) as run:
        with pytest.raises(FloatingPointError, match=rf"loss is {value} at step {bad} \(seed 0; .*learning rate"):
            fit(**parts, run=run, checkpoint_every=4)
        if bad >= 4:
            assert checkpoint.load(run.checkpoints, strict=True).step == bad // 4 * 4


def test_a_parameter_that_is_not_finite_is_named_and_not_saved(tmp_path):
    parts = build()
    parts["model"][2].weight.register_hook(lambda gradient: gradient * math.inf)
    with RunFolder.create(tmp_path, {}) as run:
        with pytest.raises(FloatingPointError):
            fit(**{**parts, "batch_size": 130}, run=run)
        assert not run.checkpoints.exists()
    parts = build()
    parts["model"][2].weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(FloatingPointError, match=r"the parameter '2\.weight' is not finite after 1 steps \(seed 0\)"):
        fit(**{**parts, "batch_size": 130, "epochs": 1})


def test_an_estimator_that_complains_is_told_the_step():
    def complaining(closure):
        raise FloatingPointError("the cost is nan")

    with pytest.raises(FloatingPointError, match=r"the cost is nan \(step 0, seed 0\)"):
        fit(**{**build(), "estimator": complaining})


def test_evaluations_must_be_finite_and_of_other_names():
    with pytest.raises(ValueError, match="'accuracy' is nan"):
        fit(**{**build(), "evaluate": lambda: {"accuracy": math.nan}})
    with pytest.raises(ValueError, match=r"\['step'\], which the loop records itself"):
        fit(**{**build(), "evaluate": lambda: {"step": 1}})


# --- wrong arguments --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": (torch.ones(3, 1), torch.ones(2))}, "3 inputs and 2 targets"),
        ({"train": (torch.ones(0, 1), torch.ones(0))}, "0 inputs and 0 targets"),
        ({"epochs": -1}, "epochs is -1"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": "a"}, "seed is 'a'"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"keep": 0}, "keep is 0"),
        ({"resume": True}, "needs the run to resume"),
    ],
)
def test_arguments_that_make_no_sense_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        fit(**{**build(), **changes})


def test_a_run_is_resumed_only_as_what_it_was(tmp_path):
    with RunFolder.create(tmp_path, {}) as run:
        fit(**{**build(), "epochs": 2}, run=run)
        with pytest.raises(FileExistsError, match="pass resume=True"):
            fit(**build(), run=run)
        for changes, words in [
            ({"seed": 1}, r"seed=1 \(was 0\)"),
            ({"batch_size": 10}, r"batch_size=10 \(was 15\)"),
            ({"epochs": 1}, "has done 18; ask for more epochs"),
            ({"scheduler": None}, r"it saved .*scheduler.*, not \["),
        ]:
            with pytest.raises(ValueError, match=words):
                fit(**{**build(), **changes}, run=run, resume=True)
    with pytest.raises(ValueError, match="closed or was opened read-only"):
        fit(**build(), run=run, resume=True)
    with RunFolder.open(tmp_path, read_only=True) as run, pytest.raises(ValueError, match="read-only"):
        fit(**build(), run=run, resume=True)


def test_a_net_of_another_shape_is_refused(tmp_path):
    with RunFolder.create(tmp_path, {}) as run:
        fit(**{**build(), "epochs": 1}, run=run)
        parts = build()
        model = nn.Sequential(nn.Linear(6, 13), parts["model"][1], nn.Linear(13, 2))
        with pytest.raises(RuntimeError, match="size mismatch"):
            fit(**{**parts, "model": model}, run=run, resume=True)


def test_the_loop_waits_for_the_loss_of_50_steps_at_a_time(monkeypatch):
    """Reading every loss would stop a GPU at every step."""
    reads, stack = [], torch.stack
    monkeypatch.setattr(_progress, "READ_SECONDS", math.inf)
    monkeypatch.setattr(torch, "stack", lambda losses: (reads.append(len(losses)), stack(losses))[1])
    net, x = nn.Linear(1, 1), torch.zeros(120, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    arguments = {"epochs": 2, "batch_size": 1, "seed": 0}
    fit(net, lambda c: c().mean(), optimizer, lambda n, a, b: n(a)[:, 0], (x, x), **arguments)
    assert reads == [50, 50, 20] * 2


def test_metrics_are_json_lines(tmp_path, reference):
    with RunFolder.create(tmp_path, {}) as run:
        fit(**build(), run=run)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == reference[0]
