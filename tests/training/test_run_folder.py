"""A run folder has one writer, is never overwritten by accident, and names no person and no machine."""

import getpass
import json
import os
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dither
from dither.training.environment import environment, git_state
from dither.training.run_folder import CorruptRun, RunFolder, RunInUse

CONFIG = {"seed": 1, "hidden": [200, 200], "lr": 0.001}


def tree(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_create_and_open(tmp_path):
    path = tmp_path / "runs" / "first demo é" / "0"
    with RunFolder.create(path, CONFIG) as run:
        assert run.config == CONFIG
        run.metrics.append({"step": 1, "loss": 0.5})
        run.timing.append({"step": 1, "seconds": 0.1})
    assert json.loads((path / "config.json").read_bytes()) == CONFIG
    assert json.loads((path / "env.json").read_bytes()) == environment()
    assert (path / "figures").is_dir()
    with RunFolder.open(path) as run:
        assert run.config == CONFIG and run.writable
        assert run.records() == [{"step": 1, "loss": 0.5}]
        assert run.timings() == [{"step": 1, "seconds": 0.1}]
    assert not run.writable


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    path = tmp_path / "run"
    RunFolder.create(path, CONFIG).close()
    before = tree(path)
    with pytest.raises(FileExistsError, match=r"--resume.*--overwrite"):
        RunFolder.create(path, {"seed": 2})
    assert tree(path) == before


def test_overwrite_removes_the_run_and_nothing_else(tmp_path):
    path = tmp_path / "run"
    with RunFolder.create(path, CONFIG) as run:
        run.metrics.append({"step": 1})
        (run.figures / "a.svg").write_text("")
        (run.checkpoints / "step-000001").mkdir(parents=True)
        for name in ("report.html", "result.json", "notes.txt"):
            (path / name).write_text("")
    with RunFolder.create(path, {"seed": 2}, overwrite=True) as run:
        assert run.records() == []
    assert sorted(tree(path)) == ["config.json", "env.json", "notes.txt", "run.lock"]


def test_overwrite_refuses_what_is_no_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="holds files but no run"):
        RunFolder.create(tmp_path, CONFIG, overwrite=True)
    assert sorted(tree(tmp_path)) == ["config.json", "thesis.tex"]
    with pytest.raises(FileExistsError, match="is a file"):
        RunFolder.create(tmp_path / "thesis.tex", CONFIG, overwrite=True)


def test_an_empty_folder_is_free_and_so_is_one_whose_creation_was_killed_at_once(tmp_path):
    (tmp_path / "run.lock").write_text("")
    (tmp_path / ".tmp-1-00").write_text("half of env.json")
    RunFolder.create(tmp_path, CONFIG).close()
    assert sorted(tree(tmp_path)) == ["config.json", "env.json", "run.lock"]


def test_a_folder_whose_creation_was_killed_before_its_config_is_free_unless_it_holds_more(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "figures").mkdir(parents=True)
        for file in ("run.lock", "env.json"):
            (tmp_path / name / file).write_text("")
    RunFolder.create(tmp_path / "a", CONFIG).close()
    (tmp_path / "b" / "figures" / "mine.svg").write_text("")
    with pytest.raises(FileExistsError, match="is not empty"):
        RunFolder.create(tmp_path / "b", CONFIG)


def test_the_run_of_a_configuration_is_new_or_the_one_that_is_there(tmp_path):
    path = tmp_path / "run"
    with RunFolder.of(path, {**CONFIG, "hidden": (200, 200)}) as run:  # as JSON has it, a tuple is a list
        run.metrics.append({"step": 1})
    before = tree(path)
    with RunFolder.of(path, {**CONFIG, "hidden": (200, 200)}) as run:
        assert run.config == CONFIG and run.writable and run.records() == [{"step": 1}]
    with pytest.raises(ValueError, match=r"a run with other depth, lr: choose another folder with --out"):
        RunFolder.of(path, {**CONFIG, "lr": 0.1, "depth": 2})
    assert tree(path) == before
    RunFolder.open(path).close()  # the refusal has left it free


def test_two_writers_are_one_too_many(tmp_path):
    path = tmp_path / "run"
    with RunFolder.create(path, CONFIG):
        for action in (lambda: RunFolder.open(path), lambda: RunFolder.create(path, CONFIG, overwrite=True)):
            with pytest.raises(RunInUse, match="in use by another process; wait"):
                action()
        with RunFolder.open(path, read_only=True) as reader:  # a plot of a run in progress
            assert reader.config == CONFIG and not reader.writable
    RunFolder.open(path).close()


def test_another_process_is_kept_out_until_this_one_ends(tmp_path):
    path = tmp_path / "run"
    RunFolder.create(path, CONFIG).close()
    code = (
        "import sys; from dither.training.run_folder import RunFolder\n"
        f"run = RunFolder.open({str(path)!r})\nprint('locked', flush=True)\nsys.stdin.read()"
    )
    source = {**os.environ, "PYTHONPATH": str(Path(dither.__file__).parent.parent)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], env=source, **pipes) as other:
        assert other.stdout and other.stdout.readline() == "locked\n"
        with pytest.raises(RunInUse):
            RunFolder.open(path)
        other.kill()
        other.wait()
    RunFolder.open(path).close()  # a killed process holds no lock


def test_what_is_no_run_or_a_broken_one_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not a run folder \(it has no config.json\)"):
        RunFolder.open(tmp_path)
    for content in (b"{", b"[]", b'{"a": 1, "a": 2}', b"\xff"):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(CorruptRun, match=r"config\.json.*start a new run"):
            RunFolder.open(tmp_path)
    (tmp_path / "config.json").write_bytes(b"{}")
    RunFolder.open(tmp_path).close()  # the failures above have let go of the lock


def test_a_config_that_is_not_json_is_refused_before_anything_is_made(tmp_path):
    for config in ({"a": float("nan")}, {"a": object()}):
        with pytest.raises((ValueError, TypeError)):
            RunFolder.create(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_a_failed_creation_lets_go_of_the_lock_and_leaves_no_run(tmp_path, monkeypatch):
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("dither.training.run_folder.environment", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            RunFolder.create(path, CONFIG)
    assert not (path / "config.json").exists()
    RunFolder.create(path, CONFIG, overwrite=True).close()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_modes_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with RunFolder.create(tmp_path / "run", CONFIG) as run:
            run.metrics.append({"step": 1})
    finally:
        os.umask(before)
    for name in ("config.json", "env.json", "metrics.jsonl"):
        assert stat.S_IMODE((tmp_path / "run" / name).stat().st_mode) == 0o666 & ~umask


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="folder that you own"):
        RunFolder.create(tmp_path / "run", CONFIG)


# --- environment ------------------------------------------------------------------------------------------------------
def test_the_environment_is_json_and_says_what_results_depend_on():
    record = environment()
    assert json.loads(json.dumps(record)) == record
    assert record["versions"]["torch"] == torch.__version__
    assert record["threads"] == torch.get_num_threads()
    assert {"python", "dither", "numpy", "safetensors"} <= record["versions"].keys()
    assert {"cpu", "gpu", "git", "platform"} <= record.keys()


def test_the_environment_names_no_machine_no_person_and_no_path():
    text = json.dumps(environment())
    words = [socket.gethostname(), str(Path.home()), os.getcwd(), str(Path(dither.__file__).parent)]
    if len(getpass.getuser()) > 4:
        words.append(getpass.getuser())
    assert not [word for word in words if word in text]
    assert not re.search(r'"[^"]*/(?!proc)\w+/', text)


def test_git_state(tmp_path):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    code = tmp_path / "code"
    code.mkdir()
    assert git_state(code) is None
    git("init")
    (code / "a.py").write_text("1")
    assert git_state(code) is None  # in somebody's checkout, but no part of it
    git("add", ".")
    git("commit", "-m", "a")
    state = git_state(code)
    assert state and re.fullmatch("[0-9a-f]{40}", state["commit"]) and state["dirty"] is False
    (code / "a.py").write_text("2")
    assert (git_state(code) or {})["dirty"] is True
