"""The experiment that says how good the audit's advice is, small: its count follows its rows."""

from __future__ import annotations

from pathlib import Path

from dither.experiments import advice


def test_the_count_follows_the_rows(tmp_path: Path) -> None:
    config = advice.Config(nets=3, draws=10, judge_draws=20, warmup=2)
    rows = advice.run(config, tmp_path, lambda *_: None)["rows"]
    nets, counts = [r for r in rows if r["net"] != "all"], [r for r in rows if r["net"] == "all"]
    assert [(r["net"], r["by"]) for r in nets] == [(n, by) for n in range(3) for by in advice.BY]
    assert all(0 < r["descent_share"] <= 1 and r["has_gradient"] for r in nets)
    flat = [r for r in nets if r["cost"] == "piecewise constant"]
    assert flat and all(r["lowest_share"] == 0 and r["recommended"] not in ("straight-through", "reinmax") for r in flat)
    for count in counts:
        own = [r for r in nets if r["by"] == count["by"] and count["cost"] in ("all", r["cost"])]
        assert count["nets"] == len(own) and count["without_gradient"] == 0
        assert count["descent_within_1.5"] == sum(r["descent_share"] >= 1 / 1.5 for r in own)
