"""The reference rows against sklearn's PCA and k-means, and against `parzen` itself, on the digits."""

import math
import warnings

import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning

from dither.data import digits
from dither.metrics import _distances, choose_sigma, k_means, parzen, pca_reconstructions, reference_rows
from largest_tensor import LargestTensor

TRAIN, TEST = digits().train.x, digits().test.x
SMALL = {"count": 200, "centroids": 30, "components": 10}


@pytest.mark.parametrize("components", [1, 10, 64])
@pytest.mark.parametrize("chunk", [None, 77])
def test_pca(components, chunk):
    pca = PCA(components, svd_solver="full").fit(TRAIN.double().numpy())
    expected = pca.inverse_transform(pca.transform(TEST.double().numpy()))
    torch.testing.assert_close(
        pca_reconstructions(TRAIN, TEST, components=components, chunk=chunk), torch.from_numpy(expected), rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("chunk", [None, 77])
def test_k_means(iterations, chunk):
    start = TRAIN[torch.randperm(len(TRAIN), generator=torch.Generator().manual_seed(5))[:30]].double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        expected = KMeans(30, init=start.numpy(), n_init=1, max_iter=iterations, tol=0).fit(TRAIN.double().numpy())
    centres = k_means(TRAIN, centroids=30, iterations=iterations, seed=5, chunk=chunk)
    torch.testing.assert_close(centres, torch.from_numpy(expected.cluster_centers_), rtol=0, atol=1e-12)


def test_k_means_ends_where_no_row_moves():
    centres = k_means(TRAIN, centroids=30, iterations=1000)
    labels = torch.cdist(TRAIN.double(), centres).argmin(1)
    means = torch.stack([TRAIN[labels == i].double().mean(0) for i in range(30)])
    torch.testing.assert_close(centres, means, rtol=0, atol=1e-12)


def test_k_means_keeps_a_centre_without_rows():
    x = torch.tensor([[0.0], [0.0], [0.0], [1.0]])
    assert sorted(k_means(x, centroids=4).flatten().tolist()) == [0, 0, 0, 1]


def test_k_means_depends_on_the_seed_alone():
    assert torch.equal(k_means(TRAIN, centroids=9, seed=1), k_means(TRAIN, centroids=9, seed=1))
    assert not torch.equal(k_means(TRAIN, centroids=9, seed=1), k_means(TRAIN, centroids=9, seed=2))


def sets():
    return {
        "real images": TRAIN[:200],
        "PCA-10 reconstructions": pca_reconstructions(TRAIN, TRAIN[:200], components=10),
        "k-means centroids": k_means(TRAIN, centroids=30, seed=3),
        "mean image": TRAIN.double().mean(0, keepdim=True),
    }


def test_rows_are_those_of_parzen():
    rows = reference_rows(TRAIN, TEST, 0.2, seed=3, **SMALL)
    assert [row["samples"] for row in rows] == list(sets())
    for row, samples in zip(rows, sets().values(), strict=True):
        measured = parzen(samples, TEST, 0.2)
        expected = {"log_likelihood": measured.mean, "standard_error": measured.standard_error, "sigma": 0.2}
        assert row == {"samples": row["samples"], **expected}


def test_the_mean_image_in_closed_form():
    row = reference_rows(TRAIN, TEST, 0.2, **SMALL)[-1]
    spread = (TEST.double() - TRAIN.double().mean(0)).square().sum(1).mean()
    assert row["log_likelihood"] == pytest.approx(float(-spread / 0.08 - 32 * math.log(2 * math.pi * 0.04)), rel=1e-12)


def test_each_row_may_choose_its_sigma():
    validation = digits().valid.x
    rows = reference_rows(TRAIN, TEST, None, validation=validation, seed=3, **SMALL)
    widths = [choose_sigma(samples, validation) for samples in sets().values()]
    assert [row["sigma"] for row in rows] == widths and len(set(widths)) > 1
    for row, samples in zip(rows, sets().values(), strict=True):
        assert row["log_likelihood"] == parzen(samples, TEST, row["sigma"]).mean
    with pytest.raises(ValueError, match="sigma and validation are both None"):
        reference_rows(TRAIN, TEST, None, **SMALL)


def test_the_names_and_sizes_of_the_default():
    train = torch.rand(1000, 60, generator=torch.Generator().manual_seed(0))
    names = [row["samples"] for row in reference_rows(train, train[:20], 0.2, count=1000)]
    assert names == ["real images", "PCA-50 reconstructions", "k-means centroids", "mean image"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 1198}, "count is 1198.*to 1197"),
        ({"count": 0}, "count is 0"),
        ({"components": 65}, "components is 65.*to 64"),
        ({"centroids": 1198}, "centroids is 1198.*to 1197"),
        ({"sigma": 0.0}, "sigma is 0"),
        ({"sigma": None, "validation": TEST[:, 1:]}, "train has 64 units and validation has 63"),
        ({"sigma": None, "validation": TEST * torch.nan}, "validation holds NaN"),
        ({"train": TRAIN * torch.nan}, "train holds NaN"),
        ({"train": TRAIN.view(-1, 8, 8)}, "train has shape"),
        ({"test": TEST[:0]}, "test has shape"),
        ({"test": TEST[:, 1:]}, "train has 64 units and test has 63"),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(ValueError, match=message):
        reference_rows(**{"train": TRAIN, "test": TEST, "sigma": 0.2, **SMALL, **changes})


def test_too_few_rows_for_the_usual_number_is_an_error():
    with pytest.raises(ValueError, match="count is 10000"):
        reference_rows(TRAIN, TEST, 0.2)


def test_no_tensor_is_larger_than_the_budget(monkeypatch):
    monkeypatch.setattr(_distances, "BUDGET", 60_000)  # fewer bytes than the training images have
    with LargestTensor() as seen:
        k_means(TRAIN, centroids=100, iterations=2)
    assert 100 * 64 * 8 <= seen.bytes <= 60_000
    with LargestTensor() as seen:
        pca_reconstructions(TRAIN, TRAIN[:50], components=10)
    assert seen.bytes <= 60_000
