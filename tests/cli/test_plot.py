"""`dither plot`: pictures of runs, from what lies in their folders alone."""

import json
import sys

import pytest

from dither import results
from dither.cli import main
from dither.cli.plot import curve

ROW = {"estimator": "a", "parameter": "overall", "bias": 0.1, "bias_se": 0.01, "variance": 0.5, "mse": 0.51,
       "evaluations": 1, "milliseconds": 2.0, "reference": "enumeration"}  # fmt: skip


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs, r0 and r1, made by hand: plotting needs no training."""
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        folder = tmp_path / f"r{seed}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"estimator": "score-function", "seed": seed}))
        metrics = [
            {"epoch": e, "step": 10 * e, "train_loss": 1 / e, "validation_accuracy": e / 10 + seed / 20} for e in (1, 2, 3)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in metrics))
        timing = [(1, 1.0), (2, 0.5), (2, 0.5), (3, 1.0)]  # the second epoch was interrupted
        lines = [{"epoch": e, "step": 10 * e, "steps": 10, "seconds": s} for e, s in timing]
        (folder / "timing.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    return tmp_path


def test_it_prints_the_paths_of_what_it_drew(runs, capsys):
    assert main(["plot", "r0", "r1"]) == 0
    printed = capsys.readouterr()
    names = [f"r0/figures/{stem}.{suffix}" for stem in ("learning", "learning-by-time") for suffix in ("svg", "png")]
    assert printed.out.split() == names and all((runs / name).stat().st_size > 1000 for name in names)
    assert "dither audit r0" in printed.err


def test_json_and_audit_and_out(runs, capsys):
    (runs / "r0/audit.json").write_text(json.dumps({"rows": [ROW]}))
    assert main(["plot", "r0", "--out", "pictures", "--json", "--y", "train_loss"]) == 0
    figures = [json.loads(line)["figure"] for line in capsys.readouterr().out.splitlines()]
    assert "pictures/audit.svg" in figures and len(figures) == 6


def test_seconds_add_up_over_interruptions(runs):
    assert [record["seconds"] for record in curve(runs / "r0")] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [(["nowhere"], 3, "not a run folder"), ([], 2, "RUN"), (["r0", "--y", "speed"], 2, "train_loss"),
     (["empty"], 3, "no metrics"), (["torn"], 4, "line 2"), (["badaudit"], 4, "audit.json")],
)  # fmt: skip
def test_what_cannot_be_drawn(runs, capsys, arguments, code, words):
    for name in ("empty", "torn", "badaudit"):
        (runs / name).mkdir()
        (runs / name / "config.json").write_text("{}")
    (runs / "torn/metrics.jsonl").write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    (runs / "badaudit/metrics.jsonl").write_text((runs / "r0/metrics.jsonl").read_text())
    (runs / "badaudit/audit.json").write_text('{"rows": [1]}')
    assert main(["plot", *arguments]) == code
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


def test_without_matplotlib_it_says_how_to_get_it(runs, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["plot", "r0"]) == 1
    assert 'pip install "dither[plots]"' in capsys.readouterr().err


# --- published results ------------------------------------------------------------------------------------------------
PAYLOAD = {"seconds": 1.0, "environment": {}, "config": {}, "rows": [{"method": "a"}]}
POINTS = [{"method": m, "seed": s, "epoch": e, "seconds": 2.0 * e, "validation_accuracy": e / 10}
          for m in "ab" for s in (0, 1) for e in (1, 2)]  # fmt: skip
DEPTHS = [{"depth": depth, "implementation": "torch", "milliseconds": 1.0 * depth} for depth in (3, 10)]


def publish(name: str, command: str, curves: list | None = None) -> None:
    results.save(name, PAYLOAD | {"command": command})
    if curves:
        results.save(f"{name}-curves", PAYLOAD | {"command": command, "rows": curves})


def test_a_published_result_is_drawn_from_its_json(runs, capsys):
    publish("first-demo", "dither experiment first-demo", POINTS)
    assert main(["plot", "--results", "first-demo"]) == 0
    names = [f"runs/first-demo/figures/first-demo-{name}.png" for name in ("learning", "learning-by-time")]
    assert capsys.readouterr().out.split() == names and all((runs / name).stat().st_size > 1000 for name in names)
    assert len(list((runs / "runs/first-demo/figures").iterdir())) == 2, "PNG only"


def test_the_figures_of_the_module_and_some_of_them(runs, capsys):
    publish("step-slow", "dither bench step --threads 1", DEPTHS)
    assert main(["plot", "--results", "step-slow", "--figures", "time", "--out", "results/figures"]) == 0
    assert capsys.readouterr().out.split() == ["results/figures/step-slow-time.png"]
    publish("first-demo", "dither experiment first-demo", POINTS)
    assert main(["plot", "--results", "first-demo", "--figures", "learning-by-time", "--out", "results/figures"]) == 0
    assert capsys.readouterr().out.split() == ["results/figures/first-demo-learning-by-time.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--results", "nothing"], 3, "no result results/nothing.json"),
        (["--results", "strange"], 4, "dither experiment list has no 'strange'"),
        (["--results", "first-demo", "r0"], 2, "RUN"),
        (["--results", "single-node"], 2, "gives no picture. Pictures of trained models"),
        (
            ["--results", "first-demo-idle", "--figures", "samples"],
            2,
            "gives learning, learning-by-time. Pictures of trained models, such as samples, come from the run: "
            "dither experiment first-demo --seeds 0 --label idle --publish results --figures samples",
        ),
    ],
)
def test_what_a_published_result_does_not_give(runs, capsys, arguments, code, words):
    publish("strange", "dither experiment strange")
    publish("single-node", "dither experiment single-node")
    publish("first-demo-idle", "dither experiment first-demo --seeds 0", POINTS)
    assert main(["plot", *arguments]) == code
    error = capsys.readouterr().err
    assert words in " ".join(error.split()) and "Traceback" not in error
