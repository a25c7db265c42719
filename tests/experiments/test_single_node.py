"""The published table of Hooper & Shekhovtsov 2026, to its printed digits."""

from pathlib import Path

import pytest
import torch

from dither.experiments import single_node
from dither.experiments.single_node import PUBLISHED, Config, Problem, measure, run

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
    printed = torch.tensor(PUBLISHED[key]["gumbel-softmax-0.1"], dtype=torch.float64)
    problem = Problem(*key)
    estimates = single_node._estimates(problem, "gumbel-softmax-0.1", 100_000, part=3)
    weight = torch.full((5000,), 1 / 5000, dtype=torch.float64)
    runs = torch.tensor([single_node._moments(problem, part, weight) for part in estimates.split(5000)], dtype=torch.float64)
    assert ((printed - runs.mean(0)).abs() < 2 * runs.std(0)).all(), (runs.mean(0), runs.std(0))


def test_rows() -> None:
    rows = run(Config(categories=(4,), draws=10_000), Path())["rows"]
    assert [row["method"] for row in rows] == list(Config().methods)
    by = {row["method"]: row for row in rows}
    assert by["reinmax"]["published_variance"] == 13.8 and by["mve"]["published_variance"] is None
    assert by["gumbel-softmax-0.1"]["variance_error"] > 0
    assert by["gumbel-rao-0.1"]["variance"] < by["gumbel-softmax-0.1"]["variance"] / 3
    assert all(abs(by[m]["bias2"]) < 1e-12 for m in ("reinmax", "mve", "score", "score-optimal-unit", "score-optimal"))
    assert by["score-optimal"]["variance"] < by["score-optimal-unit"]["variance"] < by["score"]["variance"]


@pytest.mark.parametrize("name", ["reinforce", "score-mean", "gumbel"])
def test_unknown_methods_are_named(name: str) -> None:
    with pytest.raises(ValueError, match="choose among straight-through"):
        measure(name, 4)
