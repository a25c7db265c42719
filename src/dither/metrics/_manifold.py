"""Fidelity and diversity by neighbourhoods: improved precision and recall, density and coverage."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dither.metrics._distances import nearest, points, same_units, squared_distances

EDGE = 1e-13  # of the greatest squared norm: some hundred times the rounding of a squared distance


@dataclass(frozen=True)
class Manifold:
    """The result of `manifold`; all but density lie in [0, 1].

    precision   share of generated points inside some ball around a real point (fidelity).
    recall      share of real points inside some ball around a generated point (diversity).
    density     in how many of the balls around real points a generated one lies, over k: 1 in expectation for equal
                distributions, more where samples crowd at the modes. One outlier's large ball, which fools precision,
                does not fool it.
    coverage    share of balls around real points that hold a generated point. Scattered samples, which fool recall, do
                not fool it.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(real: Tensor, generated: Tensor, *, k: int = 5, chunk: int | None = None) -> Manifold:
    """Precision, recall, density and coverage of generated points, in the space that their distances are taken in.

    Formula     B(x) = {z: ||z - x|| <= distance of x to its k-th nearest other point of its own set}
                precision mean_j 1[g_j in any B(r_i)]; recall mean_i 1[r_i in any B(g_j)];
                density mean_j #{i: g_j in B(r_i)} / k; coverage mean_i 1[any g_j in B(r_i)]
    k           Kynkäänniemi et al. take 3, Naeem et al. 5; values of different k, sizes or feature nets do not compare.
    Shapes      real (n, units), generated (m, units): features, or pixels of small images.
    Memory      chunk rows of one distance matrix, by default 64 MB, about three times.
    Always report the same between two random halves of real data: a good generator gets no further, and where sets are
    small that is far from 1. For coverage and density it is known: `expected_coverage`, and 1.
    Raises      ValueError for NaN, infinity, other shapes, or k not below the size of both sets.
    Source      Kynkäänniemi et al. 2019, "Improved precision and recall metric for assessing generative models",
                Sec. 3; Naeem et al. 2020, "Reliable fidelity and diversity metrics for generative models", Sec. 3.

    >>> _ = torch.manual_seed(0)
    >>> measured = manifold(torch.randn(200, 2), torch.zeros(200, 2))  # a generator that gives one typical point
    >>> measured.precision, measured.recall, measured.coverage < 0.05
    (1.0, 0.0, True)
    """
    real, generated = points("real", real), points("generated", generated)
    same_units("real", real, "generated", generated)
    _check_k(k, len(real), len(generated))
    # Distances from norms differ from radii in the last digits. These must not say whether a copy is on a ball's edge.
    centre = generated.mean(0, dtype=torch.float64)
    slack = EDGE * max(float(torch.linalg.vector_norm(z - centre, dim=1).max()) for z in (real, generated)) ** 2
    real_radius = nearest(real, real, k=k, exclude_self=True, chunk=chunk)[0][:, -1].square() + slack
    own_radius = nearest(generated, generated, k=k, exclude_self=True, chunk=chunk)[0][:, -1].square() + slack
    held = torch.zeros(len(generated), dtype=torch.int64, device=real.device)
    recalled = covered = 0
    for rows, block in squared_distances(real, generated, chunk=chunk):
        inside = block <= real_radius[rows].unsqueeze(1)
        held += inside.sum(0)
        covered += int(inside.any(1).sum())
        recalled += int((block <= own_radius).any(1).sum())
    return Manifold(
        precision=float((held > 0).double().mean()),
        recall=recalled / len(real),
        density=float(held.double().mean()) / k,
        coverage=covered / len(real),
    )


def expected_coverage(real: int, generated: int, *, k: int = 5) -> float:
    """Coverage to expect of `generated` independent points of the very distribution of the `real` ones, whatever it is.

    Formula     1 - prod_{i=1..k} (n - i) / (n + m - i), n real and m generated: the chance that of the n + m - 1 other
                points, in the order of their distance, the first k are not all real. It needs a continuous
                distribution.
    Raises      ValueError for k not below both numbers.
    Source      Naeem et al. 2020, Sec. 3 (the expected values, with which they choose k).
    """
    _check_k(k, real, generated)
    missed = 1.0
    for i in range(1, k + 1):
        missed *= (real - i) / (real + generated - i)
    return 1 - missed


def _check_k(k: int, real: int, generated: int) -> None:
    smaller = min(real, generated)
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k < smaller:
        raise ValueError(
            f"k is {k!r}, with {real} real and {generated} generated points: a number of neighbours from 1 to {smaller - 1}, "
            "below the size of both sets, is needed; pass more points or a smaller k"
        )
