"""The table of exact errors, for one net and a Blend that has learned little."""

from pathlib import Path

import pytest

from dither.experiments import blend_error

TINY = blend_error.Config(depths=(2,), nets=(0,), calls=30)


def test_a_row_has_the_error_of_every_estimator():
    (row,) = blend_error.run(TINY, Path(), lambda _: None)["rows"]
    names = list(blend_error.spellings(TINY))
    assert [key.removesuffix("_mse") for key in row if key.endswith("_mse")] == names
    for name in names:
        assert row[f"{name}_mse"] == pytest.approx(row[f"{name}_bias2"] + row[f"{name}_variance"], rel=1e-3)
    for unbiased in ("leave_one_out", "control_variate"):
        assert row[f"{unbiased}_bias2"] < 1e-20
    assert row["straight_through_bias2"] > 1e-6 and row["blend_bias2"] > 1e-6
    assert row["lowest"] == min(names, key=lambda name: row[f"{name}_mse"])
    parents = row["leave_one_out_mse"], row["straight_through_mse"]
    assert row["against_best_parent"] == pytest.approx(row["blend_mse"] / min(parents), abs=1e-4)
