"""Distances against differences in float64, for points far from the origin and near each other."""

import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from dither.metrics import _distances, nearest, squared_distances
from largest_tensor import LargestTensor

BAD = [
    (torch.zeros(3), r"x has shape \(3,\).*flatten"),
    (torch.zeros(2, 1, 3), r"x has shape \(2, 1, 3\)"),
    (torch.zeros(0, 3), r"x has shape \(0, 3\).*at least one"),
    (torch.zeros(2, 0), "at least one unit"),
    (torch.tensor([[0.0, torch.nan, 0.0]]), "x holds NaN"),
    (torch.tensor([[0.0, torch.inf, 0.0]]), "x holds NaN or infinity"),
    (torch.zeros(2, 3, dtype=torch.complex64), "x is complex"),
    (torch.zeros(2, 4), "x has 4 units and y has 3"),
    ([[0.0, 0.0, 0.0]], "x is a list"),
]


def points(n, units=7, seed=0, offset=0.0):
    return torch.rand(n, units, generator=torch.Generator().manual_seed(seed)) + offset


def differences(x, y):
    return (x.double().unsqueeze(1) - y.double()).square().sum(-1)


def whole(x, y, chunk=None):
    slices, blocks = zip(*squared_distances(x, y, chunk=chunk), strict=True)
    assert [i for rows in slices for i in range(*rows.indices(len(x)))] == list(range(len(x)))
    return torch.cat(blocks)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("chunk", [None, 1, 7, 50, 1000])
def test_squared_distances(offset, chunk):
    x, y = points(50, offset=offset), points(60, seed=1, offset=offset)
    torch.testing.assert_close(whole(x, y, chunk), differences(x, y), rtol=1e-12, atol=0)


def test_integers_and_booleans_are_numbers():
    x = torch.tensor([[0, 255], [3, 4]], dtype=torch.uint8)
    torch.testing.assert_close(whole(x, x), differences(x, x), rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(whole(x > 3, x > 100), differences(x > 3, x > 100), rtol=1e-12, atol=1e-12)


def test_never_negative():
    x = points(200, 3)
    assert whole(x, x).min() >= 0


def test_a_block_belongs_to_the_caller():
    x, y = points(20), points(30, seed=1)
    before = x.clone(), y.clone()
    for _, block in squared_distances(x, y, chunk=6):
        block.fill_(torch.nan)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])
    y = y.double()
    for rows, block in squared_distances(x, y, chunk=6):
        torch.testing.assert_close(block, differences(x[rows], y), rtol=1e-12, atol=0)
        block.fill_(torch.nan)
    assert torch.equal(y, before[1].double()), "a float64 input was centred in place"


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("chunk", [None, 7])
def test_nearest(k, chunk):
    x, y = points(50, offset=10), points(60, seed=1, offset=10)
    expected = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(y.double().numpy()).kneighbors(x.double().numpy())
    distances, indices = nearest(x, y, k=k, chunk=chunk)
    assert distances.shape == indices.shape == (50, k)
    torch.testing.assert_close(distances, torch.from_numpy(expected[0]), rtol=1e-7, atol=0)
    assert torch.equal(indices, torch.from_numpy(expected[1]))


def test_nearest_of_points_very_near_is_exact_and_in_order():
    x = points(40, offset=1000).double()
    steps = torch.tensor([3e-9, 1e-9, 2e-9], dtype=torch.float64).view(3, 1, 1)
    y = torch.cat((*(x + steps), x[:1]))
    distances, indices = nearest(x, y, k=3, chunk=9)
    torch.testing.assert_close(distances, (x.unsqueeze(1) - y[indices]).norm(dim=-1), rtol=1e-14, atol=0)
    assert (distances.diff(dim=1) >= 0).all()
    assert distances[0, 0] == 0 and indices[0, 0] == 120


@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_exclude_self(chunk):
    x = points(30)
    expected = differences(x, x).fill_diagonal_(torch.inf).min(1)
    distances, indices = nearest(x, x, exclude_self=True, chunk=chunk)
    torch.testing.assert_close(distances[:, 0], expected.values.sqrt(), rtol=1e-12, atol=0)
    assert torch.equal(indices[:, 0], expected.indices)
    distances, indices = nearest(x, x, k=29, exclude_self=True, chunk=chunk)
    assert not (indices == torch.arange(30).unsqueeze(1)).any()
    assert torch.isfinite(distances).all()


def test_a_duplicate_is_a_neighbour_and_oneself_is_not():
    x = points(10)
    x[7] = x[2]
    distances, indices = nearest(x, x, exclude_self=True)
    assert indices[2, 0] == 7 and indices[7, 0] == 2
    assert distances[2, 0] == distances[7, 0] == 0
    assert (distances == 0).sum() == 2
    assert (nearest(x, x)[0] == 0).all()


@pytest.mark.parametrize(("x", "message"), BAD)
def test_bad_points(x, message):
    with pytest.raises(ValueError, match=message):
        squared_distances(x, torch.zeros(2, 3))  # at the call, before a block is asked for
    with pytest.raises(ValueError, match=message):
        nearest(x, torch.zeros(2, 3))


@pytest.mark.parametrize("chunk", [0, -1, 2.0, True])
def test_bad_chunk(chunk):
    with pytest.raises(ValueError, match="chunk is"):
        squared_distances(points(2), points(2), chunk=chunk)


@pytest.mark.parametrize(("k", "exclude"), [(0, False), (6, False), (5, True), (1.0, False), (True, False)])
def test_bad_k(k, exclude):
    with pytest.raises(ValueError, match=rf"k is {k}.*to the {5 - exclude} candidates"):
        nearest(points(5), points(5), k=k, exclude_self=exclude)


def test_exclude_self_needs_one_set():
    with pytest.raises(ValueError, match="must be the same points"):
        nearest(points(5), points(6), exclude_self=True)


def test_overflow_is_refused():
    x = torch.tensor([[0.0], [1e200]], dtype=torch.float64)
    with pytest.raises(ValueError, match="squares overflow"):
        whole(x[:1], x)
    with pytest.raises(ValueError, match=r"x is up to 1\.0e\+200"):
        whole(x[1:], x[:1])


def test_chunk_bounds_the_largest_tensor():
    x, y = points(1000, 5), points(900, 5, seed=1)
    with LargestTensor() as seen:
        nearest(x, y, k=2, chunk=10)
    assert seen.bytes == 900 * 10 * 8


def test_default_chunk_bounds_the_largest_tensor(monkeypatch):
    monkeypatch.setattr(_distances, "BUDGET", 80_000)
    x, y = points(1000, 5), points(900, 5, seed=1)
    with LargestTensor() as seen:
        nearest(x, y)
    assert 0.9 * 80_000 < seen.bytes <= 80_000
    x, y = points(1000, 500), points(3, 500)  # here the rows of x are longer than those of a block
    with LargestTensor() as seen:
        nearest(x, y)
    assert 0.9 * 80_000 < seen.bytes <= 80_000
