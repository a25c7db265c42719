"""MMD and KID against double loops, closed forms and repeated sampling."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from dither import metrics


def normal(n: int, units: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(n, units, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def gaussian(bandwidth: float):
    return lambda a, b: math.exp(-sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / (2 * bandwidth**2))


def polynomial(a: list[float], b: list[float]) -> float:
    return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3


def slow_mmd(x: torch.Tensor, y: torch.Tensor, kernel, unbiased: bool) -> float:
    a, b = x.tolist(), y.tolist()

    def within(rows: list) -> float:
        pairs = [kernel(p, q) for i, p in enumerate(rows) for j, q in enumerate(rows) if i != j or not unbiased]
        return sum(pairs) / len(pairs)

    return within(a) + within(b) - 2 * sum(kernel(p, q) for p in a for q in b) / (len(a) * len(b))


@pytest.mark.parametrize("chunk", [None, 1, 7])
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("name", ["gaussian", "polynomial"])
def test_against_double_loops(name: str, unbiased: bool, chunk: int | None) -> None:
    x, y = normal(21, 3, 0), normal(14, 3, 1, shift=0.5)
    bandwidth, kernel = (1.3, gaussian(1.3)) if name == "gaussian" else (None, polynomial)
    measured = metrics.mmd(x, y, kernel=name, bandwidth=bandwidth, unbiased=unbiased, chunk=chunk)
    assert measured.squared == pytest.approx(slow_mmd(x, y, kernel, unbiased), abs=1e-12)
    assert measured.p_value is None and measured.bandwidth == bandwidth


def test_two_normals_have_the_known_distance() -> None:
    """E k(x, x') of N(a, s² I) and N(b, t² I) is (h² / (h² + s² + t²))^(d/2) exp(-||a - b||² / 2 (h² + s² + t²))."""
    n, d, h, shift = 4000, 2, 1.5, 0.7

    def mean(variance: float, distance: float) -> float:
        return (h**2 / (h**2 + variance)) ** (d / 2) * math.exp(-distance / (2 * (h**2 + variance)))

    known = mean(2, 0) + mean(2 * 4, 0) - 2 * mean(1 + 4, d * shift**2)
    measured = metrics.mmd(normal(n, d, 2), normal(n, d, 3, shift, scale=2.0), bandwidth=h)
    assert measured.squared == pytest.approx(known, rel=0.05)  # its own standard deviation is 2%


def test_the_unbiased_one_is_zero_on_average_and_the_biased_one_is_not() -> None:
    values = [
        [metrics.mmd(normal(20, 2, 2 * i), normal(30, 2, 2 * i + 1), bandwidth=1.0, unbiased=u).squared for i in range(300)]
        for u in (True, False)
    ]
    unbiased, biased = np.array(values)
    error = unbiased.std() / math.sqrt(300)
    assert abs(unbiased.mean()) < 4 * error < 0.01 and (unbiased < 0).any()
    # The diagonals add (1 - E k)(1/n + 1/m), with E k = 1 / (1 + 2) in two dimensions at bandwidth 1.
    assert biased.mean() == pytest.approx((1 - 1 / 3) * (1 / 20 + 1 / 30), rel=0.05) and (biased > 0).all()


def test_the_median_distance() -> None:
    x, y = normal(9, 4, 5), normal(8, 4, 6, shift=1.0)
    pool = torch.cat((x, y)).tolist()
    distances = sorted(math.dist(a, b) for a, b in itertools.combinations(pool, 2))
    assert metrics.median_bandwidth(x, y) == pytest.approx(distances[(len(distances) - 1) // 2], rel=1e-12)
    assert metrics.mmd(x, y).bandwidth == metrics.median_bandwidth(x, y)
    many = normal(3000, 2, 7), normal(500, 2, 8)
    first = metrics.median_bandwidth(*many, seed=1)
    assert first == metrics.median_bandwidth(*many, seed=1) != metrics.median_bandwidth(*many, seed=2)
    assert first == pytest.approx(2 * math.sqrt(math.log(2)), rel=0.05)  # |x - x'|²/2 is exponential of mean 2


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("name", ["gaussian", "polynomial"])
def test_permutations_against_all_divisions(name: str, unbiased: bool) -> None:
    """Of 6 + 3 points there are 84 divisions: the share of them that reach the observed one is the exact p-value."""
    x, y = normal(6, 2, 9), normal(3, 2, 10, shift=1.0)
    bandwidth, kernel = (1.0, gaussian(1.0)) if name == "gaussian" else (None, polynomial)
    pool, observed = torch.cat((x, y)), slow_mmd(x, y, kernel, unbiased)
    reached = [
        slow_mmd(pool[list(chosen)], pool[[i for i in range(9) if i not in chosen]], kernel, unbiased) >= observed - 1e-12
        for chosen in itertools.combinations(range(9), 6)
    ]
    exact, more = sum(reached) / len(reached), {"bandwidth": bandwidth, "unbiased": unbiased, "permutations": 8000}
    p_value = metrics.mmd(x, y, kernel=name, **more).p_value
    assert p_value is not None and p_value == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 8000))
    assert 0.02 < exact < 0.9 and p_value == metrics.mmd(x, y, kernel=name, **more, chunk=2).p_value


def test_a_permutation_that_changes_nothing_reaches_the_observed_value() -> None:
    """Two clusters of 3: of 20 divisions the observed one and its mirror image reach it, up to rounding."""
    p_value = metrics.mmd(normal(3, 2, 1), normal(3, 2, 2, shift=20.0), bandwidth=3.0, permutations=4000).p_value
    assert p_value == pytest.approx(2 / 20, abs=4 * math.sqrt(0.1 * 0.9 / 4000))


def test_p_values_of_equal_distributions_are_uniform_and_of_others_small() -> None:
    same = [metrics.mmd(normal(15, 2, i), normal(15, 2, 1000 + i), permutations=19, seed=i).p_value for i in range(200)]
    counts = np.bincount(np.round(20 * np.array(same)).astype(int) - 1, minlength=20)
    assert ((counts - 10) ** 2 / 10).sum() < 51.6  # chi-square of 19 degrees of freedom: 1e-4 of true statements exceed it
    for kernel in ("gaussian", "polynomial"):
        assert metrics.mmd(normal(50, 2, 1), normal(50, 2, 2, shift=1.5), kernel=kernel, permutations=199).p_value == 1 / 200


def test_kid_is_the_mean_over_subsets_and_unbiased() -> None:
    x, y = normal(60, 5, 1), normal(40, 5, 2, shift=0.4)
    whole = slow_mmd(x, y, polynomial, unbiased=True)
    measured = metrics.kid(x, y, subsets=400, subset_size=20, seed=3)
    assert measured.mean == pytest.approx(whole, abs=0.1 * whole)
    assert metrics.kid(x, y, subsets=9, subset_size=20, seed=4) == metrics.kid(x, y, subsets=9, subset_size=20, seed=4)
    assert metrics.kid(x, y, subsets=9, subset_size=20, seed=4) != metrics.kid(x, y, subsets=9, subset_size=20, seed=5)


def test_the_standard_error_of_kid_is_that_over_data_sets() -> None:
    """Where distributions differ: the spread of the mean over fresh data sets. s / sqrt(subsets) is less than a third of it."""
    runs = [
        metrics.kid(normal(200, 4, 2 * i), normal(200, 4, 2 * i + 1, shift=1.0), subsets=60, subset_size=40) for i in range(150)
    ]
    spread = float(np.std([run.mean for run in runs], ddof=1))
    assert float(np.mean([run.standard_error for run in runs])) == pytest.approx(spread, rel=0.2)
    same = [metrics.kid(normal(200, 4, 2 * i), normal(200, 4, 2 * i + 1), subsets=60, subset_size=40) for i in range(60)]
    spread = float(np.std([run.mean for run in same], ddof=1))
    assert spread < float(np.mean([run.standard_error for run in same])) < spread * math.sqrt(200 / 40) * 1.3


GOOD = normal(12, 3, 0)


@pytest.mark.parametrize(
    ("x", "more", "message"),
    [
        (GOOD.index_fill(0, torch.tensor([2]), torch.nan), {}, "x holds NaN or infinity"),
        (GOOD[:0], {}, r"x has shape \(0, 3\)"),
        (GOOD[:1], {}, "x has 1 row: at least two"),
        (GOOD[:, 0], {}, r"x has shape \(12,\)"),
        (GOOD[:, :2], {}, "x has 2 units and y has 3"),
        (GOOD, {"kernel": "linear"}, "kernel is 'linear', expected one of gaussian, polynomial"),
        (GOOD, {"bandwidth": 0.0}, "bandwidth is 0.0, expected a finite number above 0"),
        (GOOD, {"bandwidth": math.nan}, "bandwidth is nan"),
        (GOOD, {"kernel": "polynomial", "bandwidth": 1.0}, "the polynomial kernel has none"),
        (GOOD, {"permutations": -1}, "permutations is -1"),
        (GOOD, {"chunk": 0}, "chunk is 0"),
        (GOOD * 1e120, {"kernel": "polynomial"}, "values up to .* overflows"),
        (normal(4090, 3, 1), {"permutations": 9}, r"x and y have 4090 \+ 12 points.*at most 4096"),
        (torch.zeros(12, 3), {"bandwidth": None, "y": torch.zeros(5, 3)}, "median distance of x and y is 0"),
    ],
)
def test_bad_input_of_mmd(x: torch.Tensor, more: dict, message: str) -> None:
    y = more.pop("y", GOOD) if "y" in more else GOOD
    with pytest.raises(ValueError, match=message):
        metrics.mmd(x, y, **more)


@pytest.mark.parametrize(
    ("x", "more", "message"),
    [
        (GOOD, {}, "subset_size is 1000, but the smaller set has 12 rows.*subset_size=6"),
        (GOOD, {"subset_size": 12}, "subset_size is 12"),
        (GOOD, {"subset_size": 1}, "subset_size is 1:"),
        (GOOD, {"subset_size": 5, "subsets": 1}, "subsets is 1"),
        (GOOD * torch.inf, {"subset_size": 5}, "features_x holds NaN or infinity"),
        (GOOD[:, :1], {"subset_size": 5}, "features_x has 1 units and features_y has 3"),
    ],
)
def test_bad_input_of_kid(x: torch.Tensor, more: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.kid(x, GOOD, **more)
