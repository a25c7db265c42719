"""The recommendation among audited estimators, on rows by hand whose results can be worked out on paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dither.auditing import equal_time_error, equal_time_worth, recommend

NORM = 2.0  # of the gradient


def row(
    name: str, bias: float, variance: float, milliseconds: float, unbiased: bool = False, *, along: float = 0.0, **more: Any
) -> dict[str, Any]:
    """The mean estimate is (1 + along) x the gradient, and the rest of the bias stands across it."""
    across = max(bias**2 - (NORM * along) ** 2, 0.0)
    return {"estimator": name, "parameter": "overall", "bias": bias, "variance": variance, "milliseconds": milliseconds,
            "unbiased": unbiased, "reference_norm": NORM, "slope": 1 + along, "slope_se": 0.0,
            "mean_norm": ((NORM * (1 + along)) ** 2 + across) ** 0.5, **more}  # fmt: skip


def test_the_fast_one_may_average_in_the_time_of_the_slow_one() -> None:
    fast, slow = row("fast", 0.0, 8.0, 1.0, True), row("slow", 0.0, 3.0, 4.0, True)
    assert equal_time_error(fast, 4.0) == 2.0**0.5 / NORM and equal_time_error(slow, 4.0) == 3.0**0.5 / NORM
    assert equal_time_worth(fast, 4.0) == pytest.approx(4 / (4 + 2)) and equal_time_worth(slow, 4.0) == pytest.approx(
        4 / (4 + 3)
    )
    best = recommend([slow, fast], steps=1)
    assert best.estimator == "fast"
    assert [entry["estimator"] for entry in best.ranking] == ["fast", "slow"]
    assert [entry["error"] for entry in best.ranking] == pytest.approx([3.2**0.5 / 2, 4.8**0.5 / 2])  # 2.5 ms each
    assert recommend([slow, {**fast, "milliseconds": 3.0}], steps=1).estimator == "slow"


def test_averaging_reduces_variance_and_leaves_bias() -> None:
    """|m|^2 + v / n: 5 + 1 / n against 4 + 4 / n: equal at n = 3."""
    rows = [row("biased", 1.0, 1.0, 1.0), row("unbiased", 0.0, 4.0, 1.0, True)]
    assert recommend(rows, steps=2.9).estimator == "biased"
    assert recommend(rows, steps=3.1).estimator == "unbiased"
    assert "averaged over more than about 3 steps, unbiased errs less" in recommend(rows, steps=1).reason


@pytest.mark.parametrize("scale", [1.0, 1e-3, 40.0])
def test_worth_is_the_share_of_the_best_descent(scale: float) -> None:
    """Two outcomes e, their best learning rate found by search on g . x + |x|^2 / 2; no unit of the estimate is left."""
    gradient = torch.tensor([1.2, 1.6], dtype=torch.float64)
    outcomes = scale * torch.tensor([[2.0, 1.0], [-0.5, 1.5]], dtype=torch.float64)
    mean = outcomes.mean(0)
    rates = torch.linspace(0, 2 / scale, 200_001, dtype=torch.float64)
    gain = rates * (gradient @ mean) - rates.square() / 2 * outcomes.square().sum(1).mean()
    share = float(gain.max() / (gradient.square().sum() / 2))
    measured = row("e", float((mean - gradient).norm()), float((outcomes - mean).square().sum(1).mean()), 1.0,
                   slope=float(gradient @ mean / gradient.square().sum()), mean_norm=float(mean.norm()))  # fmt: skip
    assert equal_time_worth(measured, 1.0) == pytest.approx(share, rel=1e-6)


def test_an_estimator_without_a_gradient_is_not_recommended() -> None:
    """Its error is 100 %, less than that of the noisy one, which alone descends."""
    zero = row("zero", NORM, 0.0, 1.0, slope=0.0, mean_norm=0.0)
    noisy = row("noisy", 0.0, 400.0, 1.0, True)
    best = recommend([zero, noisy], steps=1)
    assert best.estimator == "noisy" and "next is zero, without a gradient" in best.reason
    assert best.ranking[0]["error"] > 1 and best.ranking[1] == {"estimator": "zero", "error": 1.0, "worth": 0.0}
    alone = recommend([zero])
    assert alone.estimator is None and "audit an unbiased one" in alone.reason and str(alone).startswith("none: ")
    nothing = recommend([{**zero, "reference_norm": 0.0, "bias": 0.0}])
    assert nothing.estimator is None and "the gradient is zero here" in nothing.reason


def test_an_estimator_that_leaves_parameters_untrained_comes_after_those_that_do_not() -> None:
    """A smooth part of the cost behind the nodes, a counted error before them: straight-through never trains what is before."""
    zero = {"bias": 1.0, "bias_se": 0.0, "variance": 0.0, "mean_norm": 0.0, "reference_norm": 1.0}
    st = [row("st", 0.5, 0.1, 1.0), {**row("st", 1.0, 0.0, 1.0), **zero, "parameter": "0.weight"}]
    honest = [row("honest", 0.0, 40.0, 1.0, True), row("honest", 0.0, 40.0, 1.0, True, parameter="0.weight")]
    best = recommend([*st, *honest], steps=1)
    assert best.estimator == "honest" and "next is st, leaves 0.weight without a gradient" in best.reason
    assert best.ranking[1]["worth"] > best.ranking[0]["worth"]
    alone = recommend(st)
    assert alone.estimator == "st" and "but it leaves 0.weight without a gradient" in alone.reason
    st[1]["reference_norm"] = 1e-6  # rounding: nothing is to be trained there
    assert recommend([*st, *honest], steps=1).estimator == "st"


def test_an_undefined_gradient_is_none() -> None:
    nan = float("nan")
    undefined = row("undefined", nan, nan, 1.0, slope=nan, mean_norm=nan)
    assert recommend([undefined, row("noisy", 0.0, 400.0, 1.0, True)]).estimator == "noisy"
    assert recommend([undefined]).estimator is None


def test_an_estimate_along_the_other_way_is_worth_nothing() -> None:
    wrong, slow = row("wrong", 4.0, 0.1, 1.0, along=-2.0), row("slow", 0.0, 90.0, 9.0, True)
    assert equal_time_worth(wrong, 1.0) == 0.0 and recommend([wrong, slow]).estimator == "slow"
    unsure = row("unsure", 1.9, 0.1, 1.0, along=-0.9, slope_se=0.2)  # a slope of .1 +- .2
    assert equal_time_worth(unsure, 1.0) == 0.0


def test_where_the_gradient_is_lost_in_noise_the_unbiased_one_of_least_noise_wins() -> None:
    lost = {"reference_norm": 0.0, "slope": 0.0, "mean_norm": 0.1}
    rows = [row("biased", 0.1, 1.0, 1.0, **lost), row("a", 0.0, 9.0, 1.0, True, **lost), row("b", 0.0, 4.0, 1.0, True, **lost)]
    best = recommend(rows)
    assert best.estimator == "b" and "cannot be told from zero" in best.reason


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
        "a: error 100% of the gradient's norm, a descent of 50% of the gradient's own, when each may take 2 ms a step and 1 "
        "steps are averaged; next is b, error 200%, descent 20%; unbiased"
    )
    assert "may take 2 evaluations a step" in recommend([row("a", 0.0, 4.0, 2.0)], unit="evaluations").reason


@pytest.mark.parametrize(
    ("rows", "words"),
    [([row("a", 0.0, 1.0, 1.0)], "no bias could be told from none"),
     ([row("a", 0.1, 1.0, 1.0)], "nothing unbiased was audited"),
     ([row("a", 0.1, 1.0, 1.0), row("b", 0.0, 0.9, 9.0, True)], "errs less"),
     ([row("a", 0.0, 0.0, 1.0, True), row("b", 0.0, 1.0, 1.0, True)], "next is b, error 16%")],
)  # fmt: skip
def test_what_is_said_of_bias(rows: list[dict[str, Any]], words: str) -> None:
    best = recommend(rows)
    assert best.estimator == "a" and words in best.reason


def test_only_overall_rows_count_and_one_is_needed() -> None:
    part = row("a", 0.0, 1e-9, 1.0, True, **{"parameter": "0.weight"})
    assert recommend([part, row("b", 0.0, 1.0, 1.0)]).estimator == "b"
    with pytest.raises(ValueError, match="no overall row"):
        recommend([part])
