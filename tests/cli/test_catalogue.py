"""`dither experiment` and `dither bench`: any module with a Config and a run becomes a command."""

import json
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from dither import results
from dither.cli import catalogue, main
from dither.cli.bench import BENCHMARKS
from dither.cli.errors import UsageError
from dither.cli.experiment import EXPERIMENTS
from dither.training import environment

CLEAN = {"commit": "c" * 40, "dirty": False}


@dataclass(frozen=True)
class Config:
    """A tiny experiment."""

    size: int = 3
    """How many rows."""
    data_dir: Path | None = None


def run(config, folder, progress):
    progress(f"in {folder}")
    rows = [{"method": "a", "score": float(i)} for i in range(config.size)]
    curves = [{"method": m, "seed": s, "epoch": e, "seconds": 2.0 * e, "validation_accuracy": e / 10}
              for m in "ab" for s in (0, 1) for e in range(1, 101)]  # fmt: skip
    return {"rows": rows, "curves": curves}


@pytest.fixture
def entries(monkeypatch, tmp_path):
    """A table with one experiment, in a folder of its own."""
    module = types.ModuleType("tiny_experiment")
    module.__dict__.update(Config=Config, run=run)
    monkeypatch.setitem(sys.modules, "tiny_experiment", module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DITHER_RUNS", raising=False)
    monkeypatch.setattr(environment, "git_state", lambda folder: CLEAN)
    return {"tiny": ("tiny_experiment", "a tiny experiment")}


def test_an_experiment_prints_rows_and_keeps_what_they_were_made_by(entries, capsys, tmp_path):
    arguments = ["tiny", "--size", "2", "--publish", "out", "--data-dir=/secret", "--json"]
    assert catalogue.main("experiment", entries, arguments) == 0
    printed = capsys.readouterr()
    assert [json.loads(line)["score"] for line in printed.out.splitlines()] == [0.0, 1.0]
    assert "in runs/tiny" in printed.err
    payload = results.load("tiny", tmp_path / "out")
    assert payload["command"] == "dither experiment tiny --size 2"
    assert payload["config"] == {"size": 2} and "/secret" not in json.dumps(payload)
    figures = {path.name for path in (tmp_path / "runs/tiny/figures").iterdir()}
    assert figures == {"learning.svg", "learning.png", "learning-by-time.svg", "learning-by-time.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"tiny.json", "tiny-curves.json"}  # no picture


def test_published_curves_are_thin_and_name_the_commit(entries, tmp_path):
    assert catalogue.main("experiment", entries, ["tiny", "--publish", "out", "--label", "small", "--quiet"]) == 0
    curves = results.load("tiny-small-curves", tmp_path / "out")
    assert curves["rows"] == results.thin(run(Config(), tmp_path, print)["curves"])
    assert len(curves["rows"]) == 4 * results.POINTS
    assert curves["environment"]["git"] == CLEAN == results.load("tiny-small", tmp_path / "out")["environment"]["git"]


def test_the_commit_is_that_of_the_start(entries, monkeypatch, tmp_path):
    states = iter([CLEAN, {"commit": "d" * 40, "dirty": True}])  # somebody goes on working during a long run
    monkeypatch.setattr(environment, "git_state", lambda folder: next(states))
    assert catalogue.main("experiment", entries, ["tiny", "--publish", "out", "--quiet"]) == 0
    assert results.load("tiny", tmp_path / "out")["environment"]["git"] == CLEAN


def test_pictures_are_published_only_when_asked_for_and_small(entries, tmp_path):
    arguments = ["tiny", "--publish", "out", "--figures", "learning", "--quiet", "--size", "2"]
    assert catalogue.main("experiment", entries, arguments) == 0
    assert results.load("tiny", tmp_path / "out")["command"] == "dither experiment tiny --size 2"
    (picture,) = (tmp_path / "out/figures").iterdir()
    assert picture.name == "tiny-learning.png" and picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < (tmp_path / "runs/tiny/figures/learning.png").stat().st_size / 2


def test_a_picture_that_is_not_there_is_a_usage_error(entries):
    with pytest.raises(UsageError, match=r"--figures samples: .* there are learning, learning-by-time"):
        catalogue.main("experiment", entries, ["tiny", "--publish", "out", "--figures", "samples", "--quiet"])
    with pytest.raises(UsageError, match="give --publish FOLDER too"):
        catalogue.main("experiment", entries, ["tiny", "--figures", "learning"])


@pytest.mark.parametrize(
    ("state", "words"),
    [(CLEAN | {"dirty": True}, "changes that are not in commit cccccccccccc, .*; commit them"), (None, "in no git checkout")],
)
def test_nothing_is_published_that_nobody_can_check_out(entries, monkeypatch, tmp_path, state, words):
    monkeypatch.setattr(environment, "git_state", lambda folder: state)
    with pytest.raises(UsageError, match=words) as refused:
        catalogue.main("experiment", entries, ["tiny", "--publish", "out"])
    assert refused.value.exit_code == 2
    assert not list(tmp_path.iterdir()), "refused before the work"
    assert catalogue.main("experiment", entries, ["tiny", "--quiet"]) == 0, "a run that is not published may be of any tree"


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, "returned NoneType"),
        ([{"score": 1.0}], "returned list"),
        ({}, "a dict without rows, of nothing"),
        ({"row": [{"score": 1.0}]}, "a dict without rows, of 'row'"),
        ({"rows": [], "curve": []}, "unknown key 'curve'"),
        ({"rows": {"score": 1.0}}, "rows of type dict"),
        ({"rows": [1.0]}, "a row of type float"),
    ],
)
def test_a_run_that_returns_no_table_is_named_with_the_remedy(entries, monkeypatch, capsys, tmp_path, returned, words):
    monkeypatch.setattr(sys.modules["tiny_experiment"], "run", lambda config, folder, progress: returned)
    monkeypatch.setattr("dither.cli.experiment.EXPERIMENTS", entries)
    assert main(["experiment", "tiny"]) == 1
    error = capsys.readouterr().err
    assert "experiment 'tiny': tiny_experiment.run returned" in error and words in error
    assert 'must return {"rows": [{column: value}, ...]}, and may add curves, figures, seconds' in error
    assert error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_its_help_shows_its_own_flags(entries, capsys):
    with pytest.raises(SystemExit) as stop:
        catalogue.main("experiment", entries, ["tiny", "--help"])
    printed = capsys.readouterr().out
    assert stop.value.code == 0 and "--size" in printed and "How many rows." in printed and "--publish" in printed


@pytest.mark.parametrize("verb", ["experiment", "bench"])
def test_unknown_names_are_usage_errors(capsys, verb):
    assert main([verb]) == 2
    assert f"dither {verb} list" in capsys.readouterr().err
    assert main([verb, "first-dem"]) == 2
    assert "there is no" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("bench", "gsn"), ("experiment", "gsn-digits")])
def test_a_device_that_is_not_there_is_a_usage_error(capsys, command):
    assert main([*command, "--device", "abacus"]) == 2
    assert "--device abacus cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize("entries_of", [EXPERIMENTS, BENCHMARKS])
def test_every_entry_of_the_tables_is_there(entries_of):
    from importlib import import_module

    for module, about in entries_of.values():
        loaded = import_module(module)
        assert loaded.Config() is not None and callable(loaded.run) and about
