"""`dither audit` on runs and on a user's own functions."""

import json
import sys

import pytest

from dither.cli import main

FAST = ["--draws", "5", "--warmup", "3", "--samples", "2", "--quiet"]
MODULE = """
import torch, dither
from torch import nn

def make():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), dither.Bernoulli(), nn.Linear(2, 1))
    x = torch.ones(4, 3)
    return net, lambda: net(x).square().sum(1)

def with_estimators():
    net, closure = make()
    return net, closure, {"mine": dither.StraightThrough(net)}

def nothing():
    return 3

def broken():
    return [][1]

def scalar():
    net, closure = make()
    return net, lambda: closure().mean()

value = 3
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The folder that the command is run in, with a module of the user's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_model.py").write_text(MODULE)
    yield tmp_path
    sys.modules.pop("my_own_model", None)


@pytest.fixture
def run(here, capsys):
    """A small trained run."""
    flags = ["--epochs", "1", "--hidden", "4", "--samples", "2", "--batch-size", "400", "--quiet"]
    assert main(["train", *flags, "--out", "run"]) == 0
    capsys.readouterr()
    return here / "run"


def test_a_run_gets_a_table_a_file_and_a_figure(run, capsys):
    assert main(["audit", "run", *FAST]) == 0
    table = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert table[0][:3] == ["estimator", "bias", "bias_se"] and len(table) == 7
    stored = json.loads((run / "audit.json").read_text())
    assert {row["parameter"] for row in stored["rows"]} > {"overall", "linears.0.weight"}
    assert stored["config"]["draws"] == 5
    assert {p.name for p in (run / "figures").iterdir()} == {"audit.svg", "audit.png"}


def test_json_holds_every_parameter(run, capsys):
    assert main(["audit", "run", *FAST, "--estimators", "score-function", "deterministic", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["estimator"] for row in rows} == {"score-function", "deterministic"}
    assert len(rows) == 2 * 5  # two layers with weight and bias, and overall


def test_a_function_of_ones_own(here, capsys):
    assert main(["audit", "my_own_model:make", *FAST]) == 0
    printed = capsys.readouterr()
    assert "score-function-optimal" in printed.out and printed.err == ""
    assert not (here / "audit.json").exists()  # kept only when asked for
    assert main(["audit", "my_own_model:with_estimators", *FAST[:-1], "--out", "kept"]) == 0
    printed = capsys.readouterr()
    assert [line.split("\t")[0] for line in printed.out.splitlines()] == ["estimator", "mine"]
    assert "reference: exact" in printed.err and (here / "kept/audit.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [(["nowhere"], 3, "no such folder"), (["my_own_model"], 3, "MODULE:FUNCTION"), (["no_such_module:f"], 3, "no module"),
     (["my_own_model:missing"], 2, "has no 'missing'"), (["my_own_model:nothing"], 2, "returned int"),
     (["my_own_model:value"], 2, "is no function"), (["my_own_model:broken"], 1, "IndexError"),
     (["my_own_model:scalar"], 1, "my_own_model:scalar: "), (["my_own_model:make", "--draws", "1"], 2, "--draws is 1"),
     (["my_own_model:make", "--samples", "0"], 2, "--samples"), (["my_own_model:make", "--estimators"], 2, "names none"),
     (["my_own_model:make", "--estimators", "magic"], 2, "magic"), ([], 2, "RUN|MODULE:FUNCTION")],
)  # fmt: skip
def test_what_cannot_be_audited(capsys, arguments, code, words):
    assert main(["audit", *arguments, "--warmup", "1"]) == code
    printed = capsys.readouterr()
    assert words in printed.err and "Traceback" not in printed.err and printed.out == ""


def test_a_run_without_or_with_a_corrupt_checkpoint(run, capsys):
    for path in (run / "checkpoints").glob("*/meta.json"):
        path.write_text(path.read_text().replace("0", "1"))
    assert main(["audit", "run", *FAST]) == 4
    assert "no checkpoint" in capsys.readouterr().err
    for path in (run / "checkpoints").glob("*"):
        path.rename(run / path.name)
    assert main(["audit", "run", *FAST]) == 3
    assert "no checkpoint" in capsys.readouterr().err


def test_a_configuration_that_does_not_fit_its_weights(run, capsys):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"hidden": [5]}))
    assert main(["audit", "run", *FAST]) == 4
    assert "does not fit" in capsys.readouterr().err
    (run / "config.json").write_text("{")
    assert main(["audit", "run", *FAST]) == 4
    assert not (run / "audit.json").exists()
