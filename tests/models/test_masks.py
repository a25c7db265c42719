"""Masks against their distributions."""

import itertools
import math

import pytest
import torch

from dither.models import masks
from small_masks import SAMPLES, bits, index, p_value

CPU = torch.device("cpu")
N = 4


def test_uniform_masks_are_uniform():
    torch.manual_seed(0)
    samples = masks.Uniform()(SAMPLES, N, CPU)
    p = torch.tensor([1 / (N * math.comb(N, k)) for k in bits(N)[:-1].sum(1).tolist()] + [0.0]).double()
    assert p_value(index(samples), p) > 1e-4


def test_independent_masks_are_independent_but_for_all():
    torch.manual_seed(0)
    samples = masks.Independent(0.7)(SAMPLES, 3, CPU)
    number = bits(3).sum(1)
    p = 0.7**number * 0.3 ** (3 - number)
    p[number == 2] += p[-1] / 3
    p[-1] = 0
    assert p_value(index(samples), p.double()) > 1e-4
    assert not masks.Independent(0)(5, 3, CPU).any()


def test_blocks_are_rectangles_of_every_size_and_place():
    torch.manual_seed(0)
    unknown = ~masks.Blocks((2, 3))(SAMPLES, 6, CPU)
    expected = torch.zeros(64, dtype=torch.float64)
    for height, width in itertools.product((1, 2), (1, 2, 3)):
        places = list(itertools.product(range(3 - height), range(4 - width)))
        for top, left in places:
            block = torch.zeros(2, 3)
            block[top : top + height, left : left + width] = 1
            expected[index(block.view(1, 6))] += 1 / 6 / len(places)
    assert float(expected.sum()) == pytest.approx(1) and p_value(index(unknown), expected) > 1e-4


def test_halves_cover_the_image():
    known = masks.halves((2, 5))
    assert {k: int(v.sum()) for k, v in known.items()} == {"left": 4, "right": 4, "top": 5, "bottom": 5}
    assert known["left"].view(2, 5).tolist() == [[True, True, False, False, False]] * 2
    assert known["right"].view(2, 5).tolist() == [[False, False, False, True, True]] * 2
    assert known["top"].view(2, 5)[0].all() and known["bottom"].view(2, 5)[1].all()
    torch.manual_seed(0)
    samples = masks.Halves((2, 5))(4000, 10, CPU)
    counts = [int((samples == mask).all(1).sum()) for mask in known.values()]
    assert sum(counts) == 4000 and min(counts) > 850


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: masks.Independent(1), "p is 1"),
        (lambda: masks.Among(torch.ones(2, 3, dtype=torch.bool)), r"known\[0\] knows every variable"),
        (lambda: masks.Among(torch.ones(3, dtype=torch.bool)), r"bool masks \(masks, variables\) are needed"),
        (lambda: masks.Blocks((2, 0)), r"shape is \(2, 0\)"),
        (lambda: masks.halves((1, 4)), "at least 2 x 2"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()
