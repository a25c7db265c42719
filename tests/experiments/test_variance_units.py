"""The growth of variance with units: the problem's gradient against enumeration, measured moments against exact."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dither
from dither import exact
from dither.cli import main
from dither.experiments.core.power_law import exponent
from dither.experiments.variance_units.experiment import GROUPS, METHODS, Config, figures, quick, run
from dither.experiments.variance_units.measurement import NOT_SUMMED, points
from dither.experiments.variance_units.problem import Units

LEAVE_ONE_OUT = "score-function:leave-one-out,samples=2"
TINY = Config(quick=True, methods=("score-function", LEAVE_ONE_OUT, "disarm"))


@pytest.fixture(scope="module")
def result() -> dict:
    return run(TINY, Path(), lambda text: None)


@pytest.mark.parametrize(("width", "layers"), [(1, 1), (2, 2), (4, 3), (8, 1), (8, 2)])
def test_the_problem_knows_its_own_gradient(width: int, layers: int) -> None:
    problem = Units(width, layers, seed=3)
    enumerated = exact.gradient(problem, problem.costs)["logits"][0]
    torch.testing.assert_close(problem.gradient(), enumerated, rtol=1e-10, atol=1e-12)


def test_a_unit_influences_its_group_only() -> None:
    problem = Units(8, 2)
    estimator = dither.ScoreFunction(problem)
    report = estimator.credit_report(problem.costs)
    assert [node.influence.tolist() for node in report.nodes.values()] == [[[True, False]] * 4 + [[False, True]] * 4] * 2


def test_the_signal_of_a_unit_is_the_same_at_every_width() -> None:
    """n |gradient|^2: the mean square of n times a unit's gradient."""
    scaled = [fmean([float(Units(n, seed=s).gradient().square().sum()) * n for s in range(1024 // n)]) for n in (8, 64, 512)]
    assert max(scaled) < 1.35 * min(scaled)


def fmean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_measured_as_it_is_summed(name: str, layers: int) -> None:
    config = replace(Config(), methods=(name,), draws=1500, single_draws=60, warmup=4, single_warmup=25, max_outcomes=1500)
    by_key = dict(points(config.methods, config.effort, 2, layers, seed=5))
    measured = by_key["global", name, "measured"]
    if (summed := by_key.get(("global", name, "exact"))) is None:
        assert name.partition(":")[0] in NOT_SUMMED or (name, layers) == ("arms:samples=3", 2)  # too many outcomes
    else:
        assert abs(measured.variance - summed.variance) < 5 * measured.variance_error + 1e-9
    biased = name in ("straight-through", "reinmax", "blend:prediction", "spsa:scale=0.1", "node-perturbation")
    assert biased or abs(measured.bias2) < 5 * measured.bias2_error + 1e-9 * measured.signal


def test_variance_grows_as_it_must(result: dict) -> None:
    """With no baseline like n^2, with one like n; with local cost not at all."""
    row = {(r["part"], r["credit"], r["method"]): r for r in result["rows"]}
    assert 1.5 < row["width", "global", "score-function"]["growth"] < 2.3
    assert 0.6 < row["width", "global", LEAVE_ONE_OUT]["growth"] < 1.4
    assert all(abs(row["width", "local", name]["growth"]) < 0.4 for name in TINY.methods)
    assert all(r["worst_z"] is None or r["worst_z"] < 5 for r in result["rows"])
    both = [r for r in result["curves"] if r["how"] == "exact"]
    assert {r["units"] for r in both if r["method"] == "score-function"} == {1, 4, 8}


def test_the_exponent_is_that_of_a_power() -> None:
    assert math.isclose(exponent([2, 8, 32], [3 * n**1.7 for n in (2, 8, 32)]), 1.7)


def test_figures_show_few_methods_a_panel_and_say_what_marks_mean(result: dict) -> None:
    plots = dict(figures(result["curves"]))
    assert list(plots) == ["variance-width", "variance-depth"]
    figure = plots["variance-width"]
    (marks,) = figure.legends
    assert any("sum over all outcomes" in text.get_text() for text in marks.get_texts())
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles[0] == "score function: global credit" and len(titles) == len(set(titles)) and len(titles) % 2 == 0
    for ax in figure.axes:
        own = [line for line in ax.get_lines() if not str(line.get_label()).startswith("_")]
        assert len(own) <= 5 and len({(line.get_color(), line.get_marker()) for line in own}) == len(own)
    assert figure.axes[-1].get_xlabel() == "units in the layer"
    assert plots["variance-depth"].axes[-1].get_xlabel() == f"layers of {quick(TINY).depth_width} units"


def test_every_method_stands_in_one_panel() -> None:
    assert sorted(METHODS) == sorted(method for group in GROUPS.values() for method in group)


def test_the_command_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {"commit": "0" * 40, "dirty": False}  # what is published comes of a clean tree
    monkeypatch.setattr("dither.cli.catalogue.published_tree", lambda: tree, raising=False)
    folders = ["--out", str(tmp_path / "run"), "--publish", str(tmp_path / "docs")]
    assert main(["experiment", "variance-units", "--quick", "--methods", "score-function:mean", *folders]) == 0
    written = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    assert {"variance-width.png", "variance-width.svg", "variance-depth.png", "variance-depth.svg"} <= written
    assert (tmp_path / "docs/variance-units-curves.json").exists() and "score-function:mean" in capsys.readouterr().out


def test_unknown_methods_and_widths_are_named() -> None:
    with pytest.raises(ValueError, match="there is no estimator 'magic'"):
        run(replace(TINY, methods=("magic",)), Path())
    with pytest.raises(ValueError, match="width=6"):
        Units(6)
