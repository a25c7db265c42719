"""`dither train` in run folders: what it prints, leaves, refuses, and how it goes on after a stop."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import dither.cli.setup
import dither.cli.train
import dither.training.checkpoint
from dither.cli import main

SMALL = ["--epochs", "2", "--hidden", "8", "--samples", "2", "--batch-size", "400", "--quiet"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Relative run folders land in a temporary folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DITHER_RUNS", raising=False)
    return tmp_path


def lines(capsys):
    """The objects on stdout, each line being one."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_json_ends_with_the_test_accuracy(here, capsys):
    assert main(["train", *SMALL, "--out", "run", "--json"]) == 0
    printed = lines(capsys)
    assert [row["epoch"] for row in printed[:-1]] == [1, 2] and "validation_accuracy" in printed[0]
    assert {"test_accuracy", "test_accuracy_1", "seconds", "run"} <= set(printed[-1])
    assert 0 <= printed[-1]["test_accuracy"] <= 1
    assert json.loads((here / "run/result.json").read_text())["test_accuracy"] == printed[-1]["test_accuracy"]
    assert {p.name for p in (here / "run").iterdir()} >= {"config.json", "env.json", "metrics.jsonl", "checkpoints"}


def test_the_default_folder_is_below_runs_train(here, capsys):
    assert main(["train", *SMALL, "--seed", "7"]) == 0
    (folder,) = (here / "runs/train").iterdir()
    assert folder.name.endswith("Z-7")
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].startswith("run\testimator\ttest_accuracy") and str(folder.name) in printed.out
    assert printed.err == ""


@pytest.mark.parametrize(
    "estimator", ["straight-through", "straight-through:identity", "score-function", "score-function:mean",
                  "score-function:leave-one-out", "deterministic", "auto:evaluations"],
)  # fmt: skip
def test_every_estimator_by_name(capsys, estimator):
    assert main(["train", *SMALL, "--epochs", "1", "--estimator", estimator, "--out", "run", "--json"]) == 0
    result = lines(capsys)[-1]
    assert result["estimator"] == estimator
    if estimator == "deterministic":
        assert result["test_accuracy"] == result["test_accuracy_1"]


def test_the_same_seed_gives_the_same_figures(capsys):
    for name in "ab":
        assert main(["train", *SMALL, "--out", name, "--json"]) == 0
    first, second = (r for r in lines(capsys) if "test_accuracy" in r)
    different = {key for key in first if first[key] != second[key]}
    assert different <= {"run", "seconds"}


def test_a_finished_run_prints_its_result_again(here, capsys):
    assert main(["train", *SMALL, "--out", "run", "--json"]) == 0
    first = lines(capsys)[-1]
    metrics = (here / "run/metrics.jsonl").read_bytes()
    assert main(["train", "--out", "run", "--resume", "--json", "--quiet"]) == 0
    assert lines(capsys) == [first]
    (here / "run/result.json").unlink()  # killed after the last step: the figures come out the same
    assert main(["train", "--out", "run", "--resume", "--json", "--quiet"]) == 0
    assert lines(capsys) == [first]
    assert (here / "run/metrics.jsonl").read_bytes() == metrics


@pytest.mark.parametrize("estimator", ["relax", "nvil"])
def test_what_an_estimator_learns_is_resumed_with_the_rest(here, capsys, estimator):
    assert main(["train", *SMALL, "--estimator", estimator, "--out", "run", "--json"]) == 0
    first, metrics = lines(capsys)[-1], (here / "run/metrics.jsonl").read_bytes()
    (here / "run/result.json").unlink()
    newest = max((here / "run/checkpoints").iterdir())
    moved = {p.name: p.read_bytes() for p in newest.iterdir()}
    newest.rename(here / "moved")
    assert main(["train", "--out", "run", "--resume", "--json", "--quiet"]) == 0
    assert {**lines(capsys)[-1], "seconds": 0} == {**first, "seconds": 0}
    assert (here / "run/metrics.jsonl").read_bytes() == metrics
    assert {p.name: p.read_bytes() for p in newest.iterdir()} == moved
    first, last = (dither.training.checkpoint.load(here / "run/checkpoints", step=step).tensors for step in (3, 6))
    own = [name for name in last if name.startswith("estimator") and name.endswith("weight")]
    assert own and all(not torch.equal(first[name], last[name]) for name in own)


def test_checkpoints_are_kept_as_told(here, capsys):
    assert main(["train", *SMALL, "--checkpoint-every", "2", "--keep", "2", "--out", "run"]) == 0
    assert dither.training.checkpoint.steps(here / "run/checkpoints") == [4, 6]
    (here / "run/result.json").unlink()
    assert main(["train", "--resume", "--out", "run", "--keep", "3", "--quiet"]) == 0  # says how, not what


def test_a_run_is_not_overwritten_unless_asked(capsys):
    assert main(["train", *SMALL, "--out", "run"]) == 0
    assert main(["train", *SMALL, "--out", "run"]) == 2
    error = capsys.readouterr().err
    assert "--resume" in error and "--overwrite" in error and "Traceback" not in error
    assert main(["train", *SMALL, "--out", "run", "--overwrite"]) == 0


def test_resume_refuses_another_configuration(capsys):
    assert main(["train", *SMALL, "--out", "run"]) == 0
    assert main(["train", "--out", "run", "--resume", "--lr", "0.5"]) == 2
    assert "lr is 0.01 there and 0.5 here" in capsys.readouterr().err


def test_resume_of_no_run_names_what_is_there(here, capsys):
    assert main(["train", *SMALL, "--out", "runs/first-run"]) == 0
    for out, there in (
        ("runs/frist-run", "beside it: runs/first-run;"),
        ("runs", "in it: runs/first-run;"),
        ("other/run", "; correct --out, or leave out --resume to begin a run"),
    ):
        assert main(["train", *SMALL, "--out", out, "--resume"]) == 3
        error = capsys.readouterr().err
        assert f"there is no run in {out}" in error and there in error and error.count("\n") == 1
    assert sorted(path.name for path in here.rglob("*run*")) == ["first-run", "run.lock", "runs"]


def test_resume_begins_a_run_that_was_killed_while_its_folder_was_made(here, capsys):
    (here / "new").mkdir()
    (here / "new/run.lock").write_text("")
    assert main(["train", *SMALL, "--out", "new", "--resume", "--json"]) == 0
    assert "test_accuracy" in lines(capsys)[-1]


@pytest.mark.parametrize("resumed", [False, True])
def test_a_run_that_fails_at_its_start_leaves_nothing(here, capsys, monkeypatch, resumed):
    cost = dither.cli.train.cost
    monkeypatch.setattr(dither.cli.train, "cost", lambda *arguments: cost(*arguments) / 0)
    if resumed:
        (here / "run").mkdir()
        (here / "run/run.lock").write_text("")
    assert main(["train", *SMALL, "--out", "run" if resumed else "a/b/run", *["--resume"] * resumed]) == 1
    assert "not finite" in capsys.readouterr().err
    assert [str(path) for path in here.rglob("*")] == [str(here / "run")] * resumed, "a folder that was there stays"


def test_what_cannot_be_built_replaces_no_run(here, capsys, monkeypatch):
    assert main(["train", *SMALL, "--out", "run"]) == 0
    before = {path: path.read_bytes() for path in (here / "run").rglob("*") if path.is_file()}

    def fails(*_, **__):
        raise ValueError("no such estimator for this model")

    monkeypatch.setattr("dither.cli.setup.build", fails)
    assert main(["train", *SMALL, "--out", "run", "--overwrite"]) == 1
    assert main(["train", *SMALL, "--out", "other"]) == 1
    assert {path: path.read_bytes() for path in (here / "run").rglob("*") if path.is_file()} == before
    assert not (here / "other").exists()


def test_a_run_that_fails_later_stays(here, capsys, monkeypatch):
    accuracy = dither.cli.setup.Setup.accuracy

    def fails(self, part, samples, key=None):
        if key is not None:
            raise ValueError("late")
        return accuracy(self, part, samples, key)

    monkeypatch.setattr(dither.cli.setup.Setup, "accuracy", fails)
    assert main(["train", *SMALL, "--out", "run"]) == 1
    assert {path.name for path in (here / "run").iterdir()} >= {"config.json", "checkpoints", "metrics.jsonl"}


def test_resume_needs_a_folder_and_names_the_newest(capsys):
    assert main(["train", *SMALL]) == 0
    assert main(["train", "--resume"]) == 2
    assert "--out RUN (the newest is runs/train/" in capsys.readouterr().err


def test_a_config_file_is_the_default_and_flags_go_first(capsys):
    assert main(["train", *SMALL, "--out", "run", "--json"]) == 0
    first = lines(capsys)[-1]
    assert main(["train", "--config", "run/config.json", "--out", "again", "--quiet", "--json"]) == 0
    assert lines(capsys)[-1]["test_accuracy"] == first["test_accuracy"]
    assert main(["train", "--config=run/config.json", "--seed", "1", "--out", "other", "--quiet", "--json"]) == 0
    assert lines(capsys)[-1]["seed"] == 1


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [('{"epochs": 2, "epoch": 3}', 2, "unknown key 'epoch'"), ('{"estimator": "magic"}', 2, "straight-through"),
     ('{"lr": "fast"}', 2, "expected float"), ('{"hidden": [8, "x"]}', 2, "hidden"), ("[1]", 4, "expected one JSON object"),
     ("{", 4, "JSON"), (None, 3, "no config file")],
)  # fmt: skip
def test_a_bad_config_file_is_refused(here, capsys, content, code, words):
    if content is not None:
        (here / "c.json").write_text(content)
    assert main(["train", "--config", "c.json"]) == code
    printed = capsys.readouterr()
    assert words in printed.err and "Traceback" not in printed.err and printed.out == ""
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [(["--epochs", "0"], 2, "--epochs is 0"), (["--samples", "-1"], 2, "--samples is -1"), (["--lr", "nan"], 2, "--lr"),
     (["--lr", "1e38"], 2, "--lr"),
     (["--hidden"], 2, "--hidden"), (["--hidden", "8", "0"], 2, "--hidden"), (["--batch-size", "0"], 2, "--batch-size"),
     (["--gain", "0"], 2, "--gain"), (["--threads", "-1"], 2, "--threads"), (["--device", "abacus"], 2, "--device cpu"),
     (["--estimator", "score-function:leave-one-out", "--samples", "1"], 2, "--samples 2"),
     (["--keep", "0"], 2, "--keep is 0"), (["--checkpoint-every", "-1"], 2, "--checkpoint-every is -1"),
     (["--estimator", "rodeo", "--samples", "1"], 2, "--samples 2"), (["--estimator", "all"], 2, "all"),
     (["--estimator", "nothing"], 2, "nothing"), (["--resume", "--overwrite", "--out", "x"], 2, "one of them"),
     (["--data", "mnist", "--data-dir", "nowhere"], 3, "nowhere")],
)  # fmt: skip
def test_bad_input_is_one_clear_line_and_leaves_nothing(here, capsys, flags, code, words):
    assert main(["train", "--epochs", "1", *flags]) == code
    printed = capsys.readouterr()
    assert words in printed.err and "Traceback" not in printed.err and printed.out == ""
    assert list(here.iterdir()) == []


def damage(here, which=slice(None)):
    for path in sorted((here / "run/checkpoints").glob("*/tensors.safetensors"))[which]:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)


@pytest.mark.filterwarnings("default")
def test_corrupt_checkpoints(here, capsys):
    """One of two: a warning, and the older is used; both: exit code 4."""
    assert main(["train", *SMALL, "--out", "run", "--json"]) == 0
    whole = lines(capsys)[-1]
    (here / "run/result.json").unlink()
    damage(here, slice(1, None))
    assert main(["train", "--out", "run", "--resume", "--quiet", "--json"]) == 0
    printed = capsys.readouterr()
    assert {**json.loads(printed.out.splitlines()[-1]), "seconds": 0} == {**whole, "seconds": 0}
    assert printed.err.startswith("dither: warning:") and printed.err.count("\n") == 1
    (here / "run/result.json").unlink()
    for path in (here / "run/checkpoints").glob("*/tensors.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    assert main(["train", "--out", "run", "--resume", "--quiet"]) == 4
    printed = capsys.readouterr()
    assert "no checkpoint" in printed.err and "Traceback" not in printed.err


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_resume_ends_with_the_same_figures(here, capsys, signum):
    flags = ["--epochs", "4", "--hidden", "8", "--samples", "2", "--batch-size", "8", "--json", "--quiet"]
    assert main(["train", *flags, "--out", "whole"]) == 0
    whole = lines(capsys)[-1]
    command = [sys.executable, "-m", "dither", "train", *flags, "--out", "run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout
        process.stdout.readline()  # the first epoch is done
        process.send_signal(signum)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, error
    assert "--resume" in error and "Traceback" not in error
    assert not (here / "run/result.json").exists()
    assert main(["train", "--out", "run", "--resume", "--json", "--quiet"]) == 0
    ended = lines(capsys)[-1]
    assert {**ended, "run": "", "seconds": 0} == {**whole, "run": "", "seconds": 0}
    assert (here / "run/metrics.jsonl").read_bytes() == (here / "whole/metrics.jsonl").read_bytes()


def test_a_run_folder_on_a_file_or_in_use(here, capsys):
    (here / "file").write_text("x")
    assert main(["train", *SMALL, "--out", "file"]) == 2
    assert (here / "file").read_text() == "x"
    from dither.training.run_folder import RunFolder

    with RunFolder.create(here / "busy", {}):
        assert main(["train", *SMALL, "--out", "busy", "--overwrite"]) == 1
    error = capsys.readouterr().err
    assert "in use" in error and "Traceback" not in error


def test_unicode_paths(capsys):
    assert main(["train", *SMALL, "--out", "läufe/ünï 1"]) == 0
    assert "läufe/ünï 1" in capsys.readouterr().out


def test_progress_can_be_watched(here, capsys):
    began = time.monotonic()
    assert main(["train", *SMALL[:-1], "--out", "run"]) == 0
    error = capsys.readouterr().err
    assert "training in run" in error and "dither audit run" in error
    assert time.monotonic() - began < 60
