"""The first demo on the embedded digits, two epochs long."""

from dataclasses import replace
from statistics import fmean, stdev

import pytest

from dither.experiments import first_demo

TINY = first_demo.Config(data="digits", seeds=(0, 1), hidden=8, epochs=2)


def test_rows_and_curves_of_every_method(tmp_path):
    notes, config = [], replace(TINY, seeds=(1,))
    result = first_demo.run(config, tmp_path, notes.append)
    assert [row["method"] for row in result["rows"]] == list(first_demo.METHODS) and len(notes) == 8
    assert [(row["method"], row["epoch"]) for row in result["curves"]] == [(m, e) for m in config.methods for e in (1, 2)]
    assert all(0 < row["test_1"] < 1 and row["seeds"] == 1 for row in result["rows"])
    exact = result["rows"][0]
    assert exact["test_1"] == exact["test_10"]  # a deterministic network says ten times the same
    assert (tmp_path / "score-function-leave-one-out-samples-10-1" / "result.json").is_file()
    assert first_demo.run(config, tmp_path, notes.append) == result and len(notes) == 8


def test_a_row_is_the_mean_and_deviation_of_its_seeds(tmp_path):
    config = replace(TINY, methods=("straight-through",))
    both = first_demo.run(config, tmp_path / "both", lambda _: None)["rows"][0]
    rows = [first_demo.run(replace(config, seeds=(s,)), tmp_path / str(s), lambda _: None)["rows"][0] for s in (0, 1)]
    for key in ("test_1", "test_10", "validation_10"):
        values = [row[key] for row in rows]
        assert (both[key], both[f"{key}_sd"]) == (fmean(values), stdev(values))
        assert all(row[f"{key}_sd"] is None for row in rows)


def test_a_folder_of_other_settings_and_unknown_methods_are_refused(tmp_path):
    config = replace(TINY, methods=("straight-through",), seeds=(0,))
    first_demo.run(config, tmp_path, lambda _: None)
    with pytest.raises(ValueError, match="a run with other lr: choose another folder with --out"):
        first_demo.run(replace(config, lr=0.2), tmp_path, lambda _: None)
    with pytest.raises(ValueError, match=r"no estimator 'score-optimal'; known are"):
        first_demo.run(replace(config, methods=("score-optimal",)), tmp_path, lambda _: None)
