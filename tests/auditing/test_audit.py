from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import dither
from dither import Bernoulli, Exact, ScoreFunction, StraightThrough, audit, exact, testing


def problem() -> tuple[nn.Sequential, object]:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 3), Bernoulli(), nn.Linear(3, 2), Bernoulli(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.5)
    x = torch.randn(4, 3, dtype=torch.float64)

    def closure() -> torch.Tensor:
        y = model(x).squeeze(1)
        return torch.sin(3 * y) + 0.5 * y**3

    return model, closure


def test_audit_measures_what_enumeration_says() -> None:
    """Bias and variance of every parameter tensor against exact moments (one example, so that they can be enumerated)."""
    model = nn.Sequential(nn.Linear(2, 3), Bernoulli(), nn.Linear(3, 1)).double()
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, dtype=torch.float64))
    x = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    closure = lambda: torch.sin(3 * model(x).squeeze(1))  # noqa: E731
    report = audit(model, closure, {"st": StraightThrough, "score": ScoreFunction}, draws=1500, warmup=0)
    assert "exact" in report.reference and "8 outcomes" in report.reference
    truth = exact.gradient(model, closure)
    rows = {(r["estimator"], r["parameter"]): r for r in report.to_dicts()}
    for name, estimator in (("st", StraightThrough(model)), ("score", ScoreFunction(model))):
        moments = exact.moments(estimator, closure)
        for parameter in truth:
            bias = float((moments.mean[parameter] - truth[parameter]).norm())
            variance = float(moments.variance[parameter].sum())
            row = rows[name, parameter]
            assert row["variance"] == pytest.approx(variance, rel=0.2)
            assert row["bias"] == pytest.approx(bias, abs=4 * row["bias_se"] + 1e-12)
            assert row["mse"] == pytest.approx(row["bias"] ** 2 + row["variance"])
            square, mean = float(truth[parameter].square().sum()), moments.mean[parameter]
            slope = float((mean * truth[parameter]).sum()) / square
            assert row["slope"] == pytest.approx(slope, abs=4 * row["slope_se"] + 1e-9) and 0 < row["slope_se"] < 0.3
            assert row["mean_norm"] == pytest.approx(float(mean.norm()), rel=0.2)
            assert row["reference_norm"] == pytest.approx(square**0.5)
        overall = rows[name, "overall"]
        assert overall["variance"] == pytest.approx(sum(rows[name, p]["variance"] for p in truth))
        assert overall["efficiency"] == pytest.approx(1 / (overall["mse"] * overall["milliseconds"]))


def test_audit_finds_bias_and_its_absence() -> None:
    model, closure = problem()
    rows = audit(
        model,
        closure,
        {
            "st": partial(StraightThrough, variant="identity"),
            "loo": partial(ScoreFunction, baseline="leave-one-out", samples=4),
        },
        warmup=0,
    ).overall()
    assert rows["st"]["bias"] > 3 * rows["st"]["bias_se"]
    assert rows["loo"]["bias"] < 3 * rows["loo"]["bias_se"]
    assert rows["loo"]["cosine"] > 0.5 and rows["loo"]["evaluations"] == 4


def test_average_reference_agrees_with_the_exact_one_and_says_so() -> None:
    model, closure = problem()
    report = audit(model, closure, [Exact(model)], draws=50, reference="average", warmup=0)
    row = report.overall()["Exact"]
    assert row["variance"] < 1e-20 and row["cosine"] > 0.99
    assert row["bias"] < 4 * row["bias_se"] and row["bias_se"] > 0
    assert "average of 200 draws" in report.reference and "95%" in report.reference


def test_auto_falls_back_to_an_average_and_exact_refuses() -> None:
    model, closure = problem()
    report = audit(model, closure, [StraightThrough], draws=3, warmup=0, max_outcomes=4, reference_draws=5)
    assert "average of 5 draws" in report.reference
    with pytest.raises(exact.TooManyOutcomes, match="32 joint outcomes"):
        audit(model, closure, [StraightThrough], draws=3, reference="exact", max_outcomes=4)


def test_audit_leaves_everything_as_it_was() -> None:
    model, closure = problem()
    estimator = ScoreFunction(model, baseline="optimal")
    estimator(closure)
    state = {n: t.clone() for n, t in estimator.state_dict().items()}
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    first = audit(model, closure, [estimator], draws=5, warmup=3).overall()["ScoreFunction"]
    assert torch.equal(torch.rand(3), expected), "torch's generator goes on as if nothing had been sampled"
    assert all(torch.equal(state[n], t) for n, t in estimator.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    again = audit(model, closure, [estimator], draws=5, warmup=3).overall()["ScoreFunction"]
    assert {k: v for k, v in first.items() if k not in ("milliseconds", "efficiency")} == {
        k: v for k, v in again.items() if k not in ("milliseconds", "efficiency")
    }


def test_report_shows_itself() -> None:
    model, closure = problem()
    report = dither.audit(model, closure, {"st": StraightThrough, "score": ScoreFunction}, draws=20, warmup=0)
    text = str(report)
    assert "st" in text and "variance" in text and "exact, enumeration of 32 outcomes" in text
    assert {r["parameter"] for r in report.to_dicts()} == {"overall", *exact.trainable(model)}
    assert report.table(parameters=True).row_count == 2 * (1 + len(exact.trainable(model)))
    assert report.plot().get_xlabel()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimators": {}}, "estimators is empty"),
        ({"draws": 1}, "at least 2"),
        ({"draws": True}, "integer"),
        ({"reference": "guess"}, "'auto', 'exact' or 'average'"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, message: str) -> None:
    model, closure = problem()
    with pytest.raises(ValueError, match=message):
        audit(model, closure, **({"estimators": [StraightThrough]} | arguments))


def test_estimator_of_another_model_is_refused() -> None:
    model, closure = problem()
    with pytest.raises(ValueError, match="another model"):
        audit(model, closure, [StraightThrough(problem()[0])])


def test_the_bias_of_a_mutant_is_seen_by_the_audit() -> None:
    model, closure = problem()
    build, _ = testing.MUTANTS["wrong sign"]
    rows = audit(model, closure, {"bug": build}, draws=600, warmup=0).to_dicts()
    row = next(r for r in rows if r["parameter"] == "0.weight")
    assert row["bias"] > 3 * row["bias_se"] and row["cosine"] < 0


def test_bias_is_corrected_for_the_noise_of_the_mean() -> None:
    """Without the correction the mean of few draws is never at the gradient, and no estimator would look unbiased."""
    model, closure = problem()
    none = 0
    for seed in range(12):
        row = audit(model, closure, [ScoreFunction], draws=20, warmup=0, seed=seed).overall()["ScoreFunction"]
        none += row["bias"] == 0
    assert none >= 3, f"half of the corrected squared biases of an unbiased estimator fall below zero, here {none} of 12"


def test_an_audit_inside_no_grad_still_measures_gradients() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), dither.Bernoulli())
    x = torch.ones(2, 2)
    with torch.no_grad():
        report = dither.audit(net, lambda: net(x).sum(1) ** 2, [dither.StraightThrough], draws=2, warmup=0)
    assert report.overall()["StraightThrough"]["reference_norm"] > 0
