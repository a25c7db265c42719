"""Kernel two-sample distances: squared maximum mean discrepancy (MMD), its permutation test, KID on features."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dither.metrics._distances import points, rows_of, same_units, squared_distances

KERNELS = ("gaussian", "polynomial")
MAX_PERMUTED = 4096  # rows of both sets: the test holds the kernel of all pairs, 128 MB of float64
SUBSAMPLE = 1000  # rows whose distances give the median
PERMUTED_AT_ONCE = 256


@dataclass(frozen=True)
class MMD:
    """squared: MMD², below 0 at times if unbiased. p_value: None without a test. bandwidth: of the Gaussian kernel."""

    squared: float
    p_value: float | None
    bandwidth: float | None


class KID(NamedTuple):
    """The mean of MMD² over subsets, and its standard error."""

    mean: float
    standard_error: float


def mmd(
    x: Tensor,
    y: Tensor,
    *,
    kernel: str = "gaussian",
    bandwidth: float | None = None,
    unbiased: bool = True,
    permutations: int = 0,
    seed: int = 0,
    chunk: int | None = None,
) -> MMD:
    """The squared maximum mean discrepancy of two samples: 0 in expectation if their distributions are the same.

    Formula     mean k(x_i, x_j) + mean k(y_i, y_j) - 2 mean k(x_i, y_j); unbiased: over i != j, biased: over all pairs,
                which is never negative and above 0 for equal distributions.
    kernel      "gaussian": exp(-||x - y||² / (2 bandwidth²)), by default of `median_bandwidth(x, y, seed=seed)`.
                "polynomial": (x·y / units + 1)³.
    permutations  of the points between the sets, for p_value = (1 + #{permuted MMD² >= MMD²}) / (1 + permutations).
    Shapes      x (n, units), y (m, units), any real type; computed in float64.
    Memory      chunk rows of one kernel matrix, by default 64 MB; with permutations the whole of it.
    Raises      ValueError for NaN, infinity, other shapes, fewer than two points of one set, an unknown kernel, a
                bandwidth that is not positive, numbers that overflow, or a test of more than 4096 points.
    Source      Gretton et al. 2012, "A kernel two-sample test", Eq. 3 and 5.

    >>> _ = torch.manual_seed(0)
    >>> distance = mmd(torch.randn(100, 2), torch.randn(100, 2) + 1, permutations=99)
    >>> distance.squared > 0.1, distance.p_value
    (True, 0.01)
    """
    x, y = _pair("x", x, "y", y)
    _count("permutations", permutations, 0)
    if kernel not in KERNELS:
        raise ValueError(f"kernel is {kernel!r}, expected one of {', '.join(KERNELS)}")
    if kernel == "polynomial" and bandwidth is not None:
        raise ValueError(f"bandwidth is {bandwidth}, but the polynomial kernel has none: leave it out")
    if permutations and len(x) + len(y) > MAX_PERMUTED:
        raise ValueError(
            f"x and y have {len(x)} + {len(y)} points, but a permutation test holds the kernel of all pairs, of at most "
            f"{MAX_PERMUTED} points together: pass fewer rows of each, or permutations=0"
        )
    if kernel == "gaussian" and bandwidth is None:
        bandwidth = median_bandwidth(x, y, seed=seed)
    if bandwidth is not None and not (math.isfinite(bandwidth) and bandwidth > 0):
        raise ValueError(f"bandwidth is {bandwidth}, expected a finite number above 0: None takes the median distance")
    squared = _squared(x, y, bandwidth, unbiased, chunk)
    p_value = _p_value(x, y, bandwidth, unbiased, permutations, seed, chunk) if permutations else None
    return MMD(squared, p_value, bandwidth)


def kid(features_x: Tensor, features_y: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0) -> KID:
    """Kernel inception distance: the mean of the unbiased MMD², kernel (x·y / units + 1)³, over random subsets.

    It is unbiased at every size, so values of different sample sizes compare. Those of different feature nets do not:
    state the net's hash. Always report kid between two random halves of real data beside it (random, since MNIST's test
    images come in two kinds, one after the other): that floor is 0 only on average.
    Error       s sqrt(b / (n - b) + 1 / subsets), s the standard deviation over subsets of b of the n rows, of the
                smaller set: a delete-(n - b) jackknife. The subsets overlap, so s / sqrt(subsets) alone would only say
                how well their mean is known, not how it varies with the data. For equal distributions it is too large,
                by up to sqrt(n / b).
    Shapes      features_x (n, units), features_y (m, units)  ->  (mean, standard_error)
    Raises      ValueError for NaN, infinity, other shapes, or a subset that is not smaller than both sets.
    Source      Bińkowski et al. 2018, "Demystifying MMD GANs", Sec. 4; the jackknife of Shao and Wu 1989.
    """
    x, y = _pair("features_x", features_x, "features_y", features_y)
    _count("subsets", subsets, 2)
    _count("subset_size", subset_size, 2)
    smaller = min(len(x), len(y))
    if subset_size >= smaller:
        raise ValueError(
            f"subset_size is {subset_size}, but the smaller set has {smaller} rows: subsets must leave some out, or they are "
            f"all the same; pass more rows, or subset_size={smaller // 2}"
        )
    generator = torch.Generator().manual_seed(seed)

    def subset(of: Tensor) -> Tensor:
        return of[torch.randperm(len(of), generator=generator, dtype=torch.int64, device="cpu")[:subset_size].to(of.device)]

    values = torch.tensor(
        [_squared(subset(x), subset(y), None, True, None) for _ in range(subsets)], dtype=torch.float64, device="cpu"
    )
    spread = math.sqrt(subset_size / (smaller - subset_size) + 1 / subsets)
    return KID(float(values.mean()), float(values.std()) * spread)


def median_bandwidth(x: Tensor, y: Tensor, *, seed: int = 0) -> float:
    """The median distance (the lower one of two) between points of both sets together, of at most 1000 random ones.

    Raises      ValueError if it is 0: more than half of the pairs are copies.
    """
    x, y = _pair("x", x, "y", y)
    rows = torch.randperm(len(x) + len(y), generator=torch.Generator().manual_seed(seed), dtype=torch.int64, device="cpu")[
        :SUBSAMPLE
    ].to(x.device)
    own, other = rows[rows < len(x)], rows[rows >= len(x)] - len(x)
    median = float(torch.pdist(torch.cat((x[own].double(), y[other].double()))).median())
    if not median > 0:
        raise ValueError("the median distance of x and y is 0, since most points are copies of each other: pass a bandwidth")
    return median


def _pair(x_name: str, x: Tensor, y_name: str, y: Tensor) -> tuple[Tensor, Tensor]:
    x, y = points(x_name, x), points(y_name, y)
    same_units(x_name, x, y_name, y)
    for name, value in ((x_name, x), (y_name, y)):
        if len(value) < 2:
            raise ValueError(f"{name} has 1 row: at least two points of each set are needed")
    return x, y


def _count(name: str, value: int, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name} is {value!r}: a whole number of at least {minimum} is needed")


def _blocks(x: Tensor, y: Tensor, bandwidth: float | None, chunk: int | None) -> Iterator[tuple[slice, Tensor]]:
    """(rows of x, kernel (rows, m) float64): Gaussian, or polynomial where there is no bandwidth."""
    if bandwidth is not None:
        for rows, block in squared_distances(x, y, chunk=chunk):
            yield rows, block.mul_(-0.5 / bandwidth**2).exp_()
        return
    step, y = rows_of(chunk, max(y.shape)), y.double()
    for start in range(0, len(x), step):
        part = x[start : start + step].double()
        yield slice(start, start + len(part)), (part @ y.T).div_(x.shape[1]).add_(1).pow_(3)


def _mean(x: Tensor, y: Tensor, bandwidth: float | None, without_diagonal: bool, chunk: int | None) -> float:
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for rows, block in _blocks(x, y, bandwidth, chunk):
        if without_diagonal:
            block[:, rows].fill_diagonal_(0)
        total += block.sum()
    return float(total) / (len(x) * (len(y) - without_diagonal))


def _squared(x: Tensor, y: Tensor, bandwidth: float | None, unbiased: bool, chunk: int | None) -> float:
    within = _mean(x, x, bandwidth, unbiased, chunk) + _mean(y, y, bandwidth, unbiased, chunk)
    squared = within - 2 * _mean(x, y, bandwidth, False, chunk)
    if not math.isfinite(squared):
        largest = float(max(x.abs().max(), y.abs().max()))
        raise ValueError(f"the kernel of values up to {largest:.1e} overflows: scale the data down")
    return squared


def _p_value(
    x: Tensor, y: Tensor, bandwidth: float | None, unbiased: bool, permutations: int, seed: int, chunk: int | None
) -> float:
    """The observed division is one of those compared. All are summed in one way, so that ties differ by rounding."""
    pool, n, m = torch.cat((x.double(), y.double())), len(x), len(y)
    kernel = torch.cat([block for _, block in _blocks(pool, pool, bandwidth, chunk)])
    if unbiased:
        kernel.fill_diagonal_(0)
    sums, total = kernel.sum(1), kernel.sum()

    def statistic(first: Tensor) -> Tensor:  # first (n + m, divisions): 1 for the points that count as x
        own = (first * (kernel @ first)).sum(0)
        across = sums @ first - own
        rest = total - own - 2 * across
        return own / (n * (n - unbiased)) + rest / (m * (m - unbiased)) - 2 * across / (n * m)

    observed = statistic((torch.arange(n + m, device=pool.device, dtype=torch.int64) < n).double().unsqueeze(1))
    rounding = 1e-12 * float(kernel.abs().mean())
    generator, reached = torch.Generator().manual_seed(seed), 0
    for start in range(0, permutations, PERMUTED_AT_ONCE):
        count = min(PERMUTED_AT_ONCE, permutations - start)
        place = torch.rand(count, n + m, generator=generator, dtype=torch.float64, device="cpu").argsort(1)
        reached += int((statistic((place < n).double().T.to(pool.device)) >= observed - rounding).sum())
    return (1 + reached) / (1 + permutations)
