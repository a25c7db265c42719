"""Histograms, entropies and switches of labels, by hand and against scipy."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch
from scipy import stats

from dither import metrics


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_histogram_and_entropy_against_counting(dtype: torch.dtype) -> None:
    labels = torch.randint(0, 7, (30, 5), generator=torch.Generator().manual_seed(0)).to(dtype)
    counted = Counter(labels.flatten().tolist())
    counts = metrics.class_histogram(labels, 9)
    assert counts.tolist() == [counted[c] for c in range(9)] and counts.dtype == torch.int64
    entropy = metrics.class_entropy(labels, 9)
    assert entropy.nats == pytest.approx(stats.entropy(list(counted.values())), rel=1e-12)
    assert entropy.relative == pytest.approx(stats.entropy(list(counted.values()), base=9), rel=1e-12)


def test_entropies_known_by_heart() -> None:
    assert metrics.class_entropy(torch.arange(10), 10) == (pytest.approx(math.log(10)), pytest.approx(1.0))
    assert metrics.class_entropy(torch.tensor([3, 3, 3]), 10) == (0.0, 0.0)
    assert math.copysign(1, metrics.class_entropy(torch.tensor([3]), 10).nats) == 1, "no minus zero"
    assert metrics.class_entropy(torch.tensor([0, 1, 0, 1]), 4) == (pytest.approx(math.log(2)), pytest.approx(0.5))


def test_switches_against_counting() -> None:
    labels = torch.randint(0, 3, (4, 50), generator=torch.Generator().manual_seed(1))
    switches = metrics.class_switches(labels, first="chains")
    assert switches.tolist() == [sum(a != b for a, b in pairwise(chain)) / 49 for chain in labels.tolist()]
    assert metrics.class_switches(torch.tensor([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 1]]), first="chains").tolist() == [
        0,
        1,
        1 / 3,
    ]
    draws = torch.randint(0, 10, (1, 40_000), generator=torch.Generator().manual_seed(2))
    assert float(metrics.class_switches(draws, first="chains")) == pytest.approx(0.9, abs=0.007)


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (torch.zeros(3), 10, "labels is torch.float32, expected a tensor of whole numbers.*argmax"),
        (torch.full((3,), torch.nan), 10, "labels is torch.float32"),
        ([1, 2], 10, "labels is list"),
        (torch.zeros(0, dtype=torch.int64), 10, r"labels has shape \(0,\): at least one label"),
        (torch.tensor([0, 10]), 10, "labels reach from 0 to 10, expected 0 to 9"),
        (torch.tensor([-1, 3]), 10, "labels reach from -1 to 3"),
        (torch.tensor([0]), 0, "classes is 0"),
        (torch.tensor([0]), 2.0, "classes is 2.0"),
    ],
)
def test_bad_labels(labels, classes, message: str) -> None:
    for function in (metrics.class_histogram, metrics.class_entropy):
        with pytest.raises(ValueError, match=message):
            function(labels, classes)


def test_a_single_class_has_no_relative_entropy() -> None:
    with pytest.raises(ValueError, match=r"classes is 1: .* at least 2"):
        metrics.class_entropy(torch.tensor([0, 0]), 1)


@pytest.mark.parametrize("shape", [(5,), (2, 1), (0, 5), (2, 3, 4)])
def test_bad_shapes_of_chains(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"labels has shape .*, expected \(chains, steps\)"):
        metrics.class_switches(torch.zeros(shape, dtype=torch.int64), first="chains")
    with pytest.raises(ValueError, match=r"labels is torch\.float32"):
        metrics.class_switches(torch.zeros(2, 5), first="chains")
