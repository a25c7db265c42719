"""The recommendation among audited estimators, on rows by hand whose results can be worked out on paper."""

from __future__ import annotations

from typing import Any

import pytest

from dither.auditing import equal_time_mse, recommend


def row(name: str, bias: float, variance: float, milliseconds: float, unbiased: bool = False, **more: Any) -> dict[str, Any]:
    return {"estimator": name, "parameter": "overall", "bias": bias, "variance": variance, "milliseconds": milliseconds,
            "unbiased": unbiased, "reference_norm": 2.0, **more}  # fmt: skip


def test_the_fast_one_may_average_in_the_time_of_the_slow_one() -> None:
    fast, slow = row("fast", 0.0, 8.0, 1.0, True), row("slow", 0.0, 3.0, 4.0, True)
    assert equal_time_mse(fast, 4.0) == 2.0 and equal_time_mse(slow, 4.0) == 3.0
    best = recommend([slow, fast], steps=1)
    assert best.estimator == "fast"
    assert [entry["estimator"] for entry in best.ranking] == ["fast", "slow"]
    assert [entry["error"] for entry in best.ranking] == pytest.approx([3.2**0.5 / 2, 4.8**0.5 / 2])  # 2.5 ms each
    assert recommend([slow, {**fast, "milliseconds": 3.0}], steps=1).estimator == "slow"


def test_averaging_reduces_variance_and_leaves_bias() -> None:
    """bias^2 + v / n: 1 + 1 / n against 4 / n: equal at n = 3."""
    rows = [row("biased", 1.0, 1.0, 1.0), row("unbiased", 0.0, 4.0, 1.0, True)]
    assert recommend(rows, steps=2.9).estimator == "biased"
    assert recommend(rows, steps=3.1).estimator == "unbiased"
    assert "averaged over more than about 3 steps, unbiased errs less" in recommend(rows, steps=1).reason


def test_what_is_measured_as_bias_of_an_unbiased_estimator_is_noise() -> None:
    rows = [row("proved", 5.0, 1.0, 1.0, True), row("biased", 0.5, 1.0, 1.0)]
    assert recommend(rows).estimator == "proved" and recommend(rows).reason.endswith("; unbiased")
    assert recommend([{**rows[0], "unbiased": False}, rows[1]]).estimator == "biased"


def test_a_bias_that_could_hide_in_the_noise_counts() -> None:
    rows = [row("unresolved", 0.0, 1.0, 1.0, bias_se=3.0), row("resolved", 0.5, 1.0, 1.0, bias_se=0.1)]
    assert recommend(rows).estimator == "resolved"
    assert "no bias could be told from none" in recommend(rows[:1]).reason


def test_the_reason_is_in_figures() -> None:
    text = str(recommend([row("a", 0.0, 4.0, 2.0, True), row("b", 0.0, 16.0, 2.0, True)], steps=1))
    assert text == (
        "a: error 100% of the gradient's norm when each may take 2 ms a step and 1 steps are averaged; "
        "next is b, 2 times that; unbiased"
    )
    assert "may take 2 evaluations a step" in recommend([row("a", 0.0, 4.0, 2.0)], unit="evaluations").reason


@pytest.mark.parametrize(
    ("rows", "words"),
    [([row("a", 0.0, 1.0, 1.0)], "no bias could be told from none"),
     ([row("a", 0.1, 1.0, 1.0)], "nothing unbiased was audited"),
     ([row("a", 0.1, 1.0, 1.0), row("b", 0.0, 0.9, 9.0, True)], "errs less"),
     ([row("a", 0.0, 0.0, 1.0, True), row("b", 0.0, 1.0, 1.0, True)], "next is b, with 16%")],
)  # fmt: skip
def test_what_is_said_of_bias(rows: list[dict[str, Any]], words: str) -> None:
    best = recommend(rows)
    assert best.estimator == "a" and words in best.reason


def test_only_overall_rows_count_and_one_is_needed() -> None:
    part = row("a", 0.0, 1e-9, 1.0, True, **{"parameter": "0.weight"})
    assert recommend([part, row("b", 0.0, 1.0, 1.0)]).estimator == "b"
    with pytest.raises(ValueError, match="no overall row"):
        recommend([part])
