"""`dither audit` on runs and on a user's own functions."""

import json
import sys

import pytest

from dither import methods
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


@pytest.fixture
def long_run(here, capsys):
    """A run with three checkpoints, of steps 2, 4 and 6."""
    flags = ["--epochs", "2", "--hidden", "4", "--samples", "2", "--batch-size", "400", "--quiet"]
    assert main(["train", *flags, "--keep", "9", "--checkpoint-every", "2", "--out", "run"]) == 0
    capsys.readouterr()
    return here / "run"


def test_a_run_gets_a_table_a_file_and_a_figure(run, capsys):
    assert main(["audit", "run", *FAST]) == 0
    table = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert table[0][:3] == ["estimator", "bias", "bias_se"] and len(table) == 7
    stored = json.loads((run / "audit.json").read_text())
    assert {row["parameter"] for row in stored["rows"]} > {"overall", "linears.0.weight"}
    assert stored["config"]["draws"] == 5 and stored["recommendations"][0]["ranking"][0]["error"] > 0
    page = (run / "report.html").read_text()
    assert "dither audit run --samples 2 --draws 5 --warmup 3" in page and str(run.parent) not in page
    assert all(f"<td>{words}</td>" in page for words in ("run.gain", "versions.torch", "audit.batch_size"))
    assert {p.name for p in (run / "figures").iterdir()} == {"audit.svg", "audit.png"}


def test_json_holds_every_parameter(run, capsys):
    assert main(["audit", "run", *FAST, "--estimators", "score-function", "deterministic", "--json"]) == 0
    *rows, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert last["recommendation"] in ("score-function", "deterministic") and last["reason"] and len(last["ranking"]) == 2
    assert {row["estimator"] for row in rows} == {"score-function", "deterministic"}
    assert len(rows) == 2 * 5  # two layers with weight and bias, and overall


def test_a_function_of_ones_own(here, capsys):
    assert main(["audit", "my_own_model:make", *FAST]) == 0
    printed = capsys.readouterr()
    assert "score-function:optimal" in printed.out and printed.err == ""
    assert not (here / "audit.json").exists()  # written only with --out
    assert main(["audit", "my_own_model:with_estimators", *FAST[:-1], "--out", "saved"]) == 0
    printed = capsys.readouterr()
    assert [line.split("\t")[0] for line in printed.out.splitlines()] == ["estimator", "mine"]
    assert "reference: exact" in printed.err and (here / "saved/audit.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [(["nowhere"], 3, "no such folder"), (["my_own_model"], 3, "MODULE:FUNCTION"), (["no_such_module:f"], 3, "no module"),
     (["my_own_model:missing"], 2, "has no 'missing'"), (["my_own_model:nothing"], 2, "returned int"),
     (["my_own_model:value"], 2, "is no function"), (["my_own_model:broken"], 1, "IndexError"),
     (["my_own_model:scalar"], 1, "my_own_model:scalar: "), (["my_own_model:make", "--draws", "1"], 2, "--draws is 1"),
     (["my_own_model:make", "--samples", "0"], 2, "--samples"), (["my_own_model:make", "--estimators"], 2, "names none"),
     (["my_own_model:make", "--estimators", "magic"], 2, "magic"),
     (["my_own_model:make", "--estimators", "carms"], 2, "carms: CARMS cannot credit"),
     (["my_own_model:make", "--estimators", "auto"], 2, "auto"),
     (["my_own_model:make", "--checkpoints", "all"], 2, "a function has none"),
     (["my_own_model:scalar", "--estimators", "all"], 1, "no estimator can be audited"), ([], 2, "RUN|MODULE:FUNCTION")],
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


def test_all_estimators_are_audited_or_left_out_with_a_reason(here, capsys):
    assert main(["audit", "my_own_model:make", *FAST[:-1], "--samples", "1", "--estimators", "all"]) == 0
    printed = capsys.readouterr()
    audited = [line.split("\t")[0] for line in printed.out.splitlines()[1:]]
    left_out = [line.split()[2].rstrip(":") for line in printed.err.splitlines() if line.startswith("left out")]
    assert sorted(audited + left_out) == sorted(name for name in methods.every() if not name.startswith("auto"))
    assert (
        sorted(left_out) == ["carms", "unordered-set", "vimco"]
        and "left out carms: CARMS cannot credit node '1'" in printed.err
    )
    assert "rodeo compares samples: it gets 2 instead of 1" in printed.err and "recommended: " in printed.err


def test_checkpoints_show_the_change(long_run, capsys):
    flags = [*FAST, "--estimators", "straight-through", "score-function", "--json"]
    assert main(["audit", "run", *flags, "--checkpoints", "all"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["step"] for row in printed if "recommendation" in row] == [2, 4, 6]
    assert [row["step"] for row in printed if row.get("parameter") == "overall"] == [2, 2, 4, 4, 6, 6]
    figures = {p.name for p in (long_run / "figures").iterdir()}
    assert figures == {"audit.svg", "audit.png", "audit-training.svg", "audit-training.png"}
    page = (long_run / "report.html").read_text()
    assert page.count("<svg") == 4 and page.index("Step 6") < page.index("Step 4") < page.index("Step 2")
    assert main(["plot", "run"]) == 0
    assert "run/figures/audit-training.svg" in capsys.readouterr().out

    assert main(["audit", "run", *flags, "--checkpoints", "4"]) == 0
    (four, *_) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    same = next(row for row in printed if row.get("step") == 4)
    timed = {"milliseconds", "efficiency"}
    assert {k: v for k, v in four.items() if k not in timed} == {k: v for k, v in same.items() if k not in timed}
    assert not list((long_run / "figures").glob("audit-training*")), "no figure of another audit"


def test_checkpoints_that_are_not_there_or_corrupt(long_run, capsys):
    flags = [*FAST, "--estimators", "straight-through"]
    assert main(["audit", "run", *flags, "--checkpoints", "5"]) == 3
    assert "no checkpoint of step 5 here; there is 2, 4, 6" in capsys.readouterr().err
    assert main(["audit", "run", *flags, "--checkpoints", "last"]) == 2
    assert "give newest, all, or steps" in capsys.readouterr().err
    (long_run / "checkpoints/step-000004/meta.json").write_text("{}")
    assert main(["audit", "run", *flags, "--checkpoints", "4"]) == 4
    assert "no checkpoint of step 4" in capsys.readouterr().err
    assert main(["audit", "run", *flags, "--checkpoints", "all"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].startswith("step\testimator") and "step-000004" in printed.err
    assert [line.split("\t")[0] for line in printed.out.splitlines()[1:]] == ["2", "6"]
