"""The published table of Hooper & Shekhovtsov 2026, to its printed digits."""

from pathlib import Path

import pytest
import torch

from dither.experiments.single_node import PER_NODE, PUBLISHED, Config, Problem, estimates, measure, moments, run, sampler_of

GUMBEL = "gumbel-softmax:temperature=0.1"

SUMS = [
    (key, method) for key, rows in PUBLISHED.items() for method in rows if not method.startswith("gumbel")
]  # no noise: all digits


def agrees(value: float, printed: float) -> bool:
    """Whether `printed`, of three digits (0 below 1e-12), is `value` rounded or cut off."""
    if printed == 0:
        return abs(value) < 1e-12
    unit = 10.0 ** (int(f"{printed:e}".partition("e")[2]) - 2)
    return abs(value - printed) <= max(unit, 1e-3 if printed < 1 else 0) * 0.55


@pytest.mark.parametrize(("key", "method"), SUMS)
def test_published_digits(key: tuple[int, int], method: str) -> None:
    bias2, variance, bias2_error, variance_error = measure(method, *key)
    assert (bias2_error, variance_error) == (0, 0)
    printed = PUBLISHED[key][method]
    assert agrees(bias2, printed[0]) and agrees(variance, printed[1]), (bias2, variance, printed)


@pytest.mark.parametrize("key", PUBLISHED)
def test_published_gumbel_softmax_is_an_average_of_about_5000_draws(key: tuple[int, int]) -> None:
    """Its printed bias shrinks with more draws and its variance grows: both lie within the spread of runs of 5000."""
    printed = torch.tensor(PUBLISHED[key][GUMBEL], dtype=torch.float64)
    problem = Problem(*key)
    gradients = estimates(problem, sampler_of(GUMBEL)[1], 100_000, part=3)
    weight = torch.full((5000,), 1 / 5000, dtype=torch.float64)
    runs = torch.tensor([moments(problem, part, weight) for part in gradients.split(5000)], dtype=torch.float64)
    assert ((printed - runs.mean(0)).abs() < 2 * runs.std(0)).all(), (runs.mean(0), runs.std(0))


def test_rows() -> None:
    rows = run(Config(categories=(4,), draws=10_000), Path())["rows"]
    assert [row["method"] for row in rows] == list(Config().methods)
    by, optimal = {row["method"]: row for row in rows}, "score-function:optimal"
    assert by["reinmax"]["published_variance"] == 13.8 and by["mve"]["published_variance"] is None
    assert by[GUMBEL]["variance_error"] > 0
    assert by["gumbel-rao:temperature=0.1"]["variance"] < by[GUMBEL]["variance"] / 3
    assert all(abs(by[m]["bias2"]) < 1e-12 for m in ("reinmax", "mve", "score-function", PER_NODE, optimal))
    assert by[optimal]["variance"] < by[PER_NODE]["variance"] < by["score-function"]["variance"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("reinforce", r"no estimator 'reinforce'; known are .*straight-through"),
        ("gumbel", r"no estimator 'gumbel'; .*perhaps you meant gumbel"),
        ("score-function:mean", "choose among straight-through"),
        ("reinmax:samples=2", "choose among straight-through"),
    ],
)
def test_unknown_methods_are_named(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        measure(name, 4)
