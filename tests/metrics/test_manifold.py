"""Precision, recall, density and coverage against loops over all pairs, and their expected values for equal distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dither import metrics


def slow(real: list, generated: list, k: int) -> tuple[float, float, float, float]:
    """By the definitions, on points of whole coordinates: squared distances are then exact, and ties are ties."""

    def distance(a: list, b: list) -> float:
        return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))

    def radii(points: list) -> list:
        return [sorted(distance(p, q) for j, q in enumerate(points) if j != i)[k - 1] for i, p in enumerate(points)]

    real_radius, own_radius = radii(real), radii(generated)
    inside = [[distance(r, g) <= radius for g in generated] for r, radius in zip(real, real_radius, strict=True)]
    recalled = [any(distance(r, g) <= radius for g, radius in zip(generated, own_radius, strict=True)) for r in real]
    columns = list(zip(*inside, strict=True))
    return (
        sum(map(any, columns)) / len(generated),
        sum(recalled) / len(real),
        sum(map(sum, columns)) / len(generated) / k,
        sum(map(any, inside)) / len(real),
    )


def values(measured: metrics.Manifold) -> tuple[float, float, float, float]:
    return measured.precision, measured.recall, measured.density, measured.coverage


def normal(n: int, units: int, seed: int) -> torch.Tensor:
    return torch.randn(n, units, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("chunk", [None, 1, 13])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_against_all_pairs(k: int, chunk: int | None) -> None:
    real = (1e6 * normal(40, 3, 0)).round()
    generated = (1e6 * (0.7 * normal(31, 3, 1) + 1.5)).round()
    measured = values(metrics.manifold(real, generated, k=k, chunk=chunk))
    assert measured == pytest.approx(slow(real.tolist(), generated.tolist(), k), abs=1e-12)
    assert all(0.01 < share < 0.99 for share in measured), "none of them trivial"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
def test_ties_and_copies_of_binary_points(dtype: torch.dtype) -> None:
    """Hamming distances of short codes are mostly ties: every point on the edge of a ball lies in it, whatever the rounding."""
    bits = torch.rand(2, 60, 12, generator=torch.Generator().manual_seed(2)) < 0.3
    real, generated = bits[0].to(dtype), torch.cat((bits[1], bits[0][:20])).to(dtype)
    for k in (1, 5):
        assert values(metrics.manifold(real, generated, k=k)) == pytest.approx(
            slow(real.tolist(), generated.tolist(), k), abs=1e-12
        )
        shifted = metrics.manifold(real.double() / 3 + 5, generated.double() / 3 + 5, k=k)
        assert values(shifted) == values(metrics.manifold(real, generated, k=k)), "rounding decides nothing"
    copy = metrics.manifold(real, real.flip(0), k=1)
    assert copy.precision == copy.recall == copy.coverage == 1


def test_equal_distributions_have_the_expected_density_and_coverage() -> None:
    """Both expectations are exact for any continuous distribution; here the average over 60 pairs of sets."""
    for n, m, k in ((150, 150, 5), (200, 80, 3)):
        results = [metrics.manifold(normal(n, 3, 2 * i), normal(m, 3, 2 * i + 1), k=k) for i in range(60)]
        for got, known in (
            ([f.density for f in results], 1.0),
            ([f.coverage for f in results], metrics.expected_coverage(n, m, k=k)),
        ):
            error = np.std(got, ddof=1) / math.sqrt(60)
            assert abs(np.mean(got) - known) < 4 * error < 0.05
    assert metrics.expected_coverage(10_000, 10_000, k=5) == pytest.approx(1 - 2**-5, abs=1e-4)
    assert metrics.expected_coverage(3, 2, k=1) == pytest.approx(1 - 2 / 4)  # of four others, two are real


def test_each_value_sees_its_own_failure() -> None:
    real = torch.cat((normal(100, 2, 1), normal(100, 2, 2) + 50))
    dropped = metrics.manifold(real, normal(200, 2, 3))  # one of two modes
    assert dropped.precision > 0.9 and dropped.recall < 0.55 and dropped.coverage < 0.55
    astray = metrics.manifold(real, torch.cat((real[::2] + 0.01, normal(100, 2, 4) - 500)))  # half of it nowhere
    assert 0.45 < astray.precision < 0.55 and astray.density < 0.8 and astray.recall > 0.9
    assert values(metrics.manifold(real, real + 1e4))[::2] == (0.0, 0.0)
    outlier = torch.cat((normal(99, 2, 5), torch.tensor([[1e3, 0.0]]).double()))
    fooled = metrics.manifold(outlier, 20 * normal(100, 2, 6) + torch.tensor([300.0, 0.0]))
    assert fooled.precision == 1 and fooled.density == pytest.approx(1 / 5), "all lie in one ball, the outlier's"


GOOD = normal(12, 3, 0)


@pytest.mark.parametrize(
    ("real", "generated", "k", "message"),
    [
        (GOOD, GOOD[:5], 5, "k is 5, with 12 real and 5 generated points: .* from 1 to 4"),
        (GOOD[:3], GOOD, 3, "k is 3, with 3 real"),
        (GOOD, GOOD, 0, "k is 0"),
        (GOOD, GOOD, 2.0, "k is 2.0"),
        (GOOD, GOOD[:0], 1, r"generated has shape \(0, 3\)"),
        (GOOD, GOOD[:, :2], 1, "real has 3 units and generated has 2"),
        (GOOD.flatten(), GOOD, 1, r"real has shape \(36,\)"),
        (GOOD, GOOD * torch.nan, 1, "generated holds NaN"),
        (GOOD / 0, GOOD, 1, "real holds NaN or infinity"),
    ],
)
def test_bad_input(real, generated, k, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.manifold(real, generated, k=k)


def test_expected_coverage_refuses_what_manifold_refuses() -> None:
    with pytest.raises(ValueError, match="k is 5"):
        metrics.expected_coverage(5, 100, k=5)
