"""Rows to print beside every Parzen number: what trivial "models" score, by the same function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dither.metrics._distances import points, rows_of, same_units, squared_distances
from dither.metrics._parzen import check_width, choose_sigma, parzen


def reference_rows(
    train: Tensor,
    test: Tensor,
    sigma: float | None,
    *,
    validation: Tensor | None = None,
    count: int = 10_000,
    seed: int = 0,
    components: int = 50,
    centroids: int = 1000,
    chunk: int | None = None,
) -> list[dict[str, Any]]:
    """Parzen log-likelihoods of four sets of samples that come from no model.

    The estimate rewards smooth, typical images: reconstructions and centroids score above the real images that they
    come from. A model's number says little without these rows, at the same sigma and the same number of samples.

    Rows        "real images": the first `count` of train. "PCA-50 reconstructions": of the same images, by `components`
                principal components of all of train. "k-means centroids": `centroids` of them, of all of train. "mean
                image": one centre. Each a dict of samples, log_likelihood, standard_error, sigma.
    sigma       the width of all rows, or None: each row's own, by `choose_sigma` on `validation`.
    Shapes      train, test, validation (n, units).
    Raises      ValueError where train is smaller than `count` or `centroids` (a score depends on the number of centres,
                so none is cut), if sigma is None and validation too, and as `parzen`.
    """
    train, test = points("train", train), points("test", test)
    same_units("train", train, "test", test)
    _at_most("count", count, "the rows of train", len(train))
    if sigma is not None:
        check_width(sigma)  # here already, before the work
    elif validation is None:
        raise ValueError("sigma and validation are both None: pass a width, or validation images to choose it on")
    else:
        same_units("train", train, "validation", points("validation", validation))
    sets = {
        "real images": train[:count],
        f"PCA-{components} reconstructions": pca_reconstructions(train, train[:count], components=components, chunk=chunk),
        "k-means centroids": k_means(train, centroids=centroids, seed=seed, chunk=chunk),
        "mean image": train.mean(0, keepdim=True, dtype=torch.float64),
    }
    rows = []
    for name, samples in sets.items():
        width = choose_sigma(samples, validation, chunk=chunk) if sigma is None and validation is not None else sigma
        assert width is not None
        row = parzen(samples, test, width, chunk=chunk)
        rows.append({"samples": name, "log_likelihood": row.mean, "standard_error": row.standard_error, "sigma": row.sigma})
    return rows


def pca_reconstructions(train: Tensor, x: Tensor, *, components: int = 50, chunk: int | None = None) -> Tensor:
    """x from its projections on the first principal components of train.

    Formula     m + V Vᵀ (x - m): m the mean and V the leading eigenvectors of the covariance of train, in float64.
    Shapes      train (n, units), x (m, units); returns (m, units) float64. Values may leave the range of the data.
    Raises      ValueError for components outside 1 ... units, and for inputs as `squared_distances`.
    """
    train, x = points("train", train), points("x", x)
    same_units("train", train, "x", x)
    units = train.shape[1]
    _at_most("components", components, "the number of units", units)
    mean = train.mean(0, dtype=torch.float64)
    scatter = torch.zeros(units, units, dtype=torch.float64, device=train.device)
    for part in train.split(rows_of(chunk, units)):
        centred = part.to(torch.float64) - mean
        scatter.addmm_(centred.T, centred)
    leading = torch.linalg.eigh(scatter).eigenvectors[:, -components:]  # eigenvalues rise; their scale does not matter here
    return torch.cat([mean + (part.to(torch.float64) - mean) @ leading @ leading.T for part in x.split(rows_of(chunk, units))])


def k_means(x: Tensor, *, centroids: int = 1000, iterations: int = 10, seed: int = 0, chunk: int | None = None) -> Tensor:
    """Centres of clusters of x by Lloyd's algorithm, from rows of x sampled without replacement.

    Computes    at most `iterations` times: every row to its nearest centre, every centre to the mean of its rows. It
                ends early when no row moves. A centre without rows stays where it is. Few iterations: a reference, no
                optimum.
    Shapes      x (n, units); returns (centroids, units) float64. The same seed gives the same centres.
    Raises      ValueError for more centroids than rows, and for inputs as `squared_distances`.
    """
    x = points("x", x)
    _at_most("centroids", centroids, "the rows of x", len(x))
    _at_most("iterations", iterations, "the limit", 10_000)
    start = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed), dtype=torch.int64, device="cpu")[:centroids]
    centres = x[start.to(x.device)].to(torch.float64)
    labels = torch.full((len(x),), -1, device=x.device, dtype=torch.int64)
    for _ in range(iterations):
        sums, before = torch.zeros_like(centres), labels
        labels = torch.empty_like(before)
        for rows, block in squared_distances(x, centres, chunk=chunk):
            labels[rows] = block.argmin(1)
            sums.index_add_(0, labels[rows], x[rows].to(torch.float64))
        if torch.equal(labels, before):
            break
        sizes = torch.bincount(labels, minlength=centroids).unsqueeze(1)
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
    return centres


def _at_most(option: str, number: int, name: str, limit: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= limit:
        raise ValueError(f"{option} is {number!r}: a whole number from 1 to {limit} ({name}) is needed; pass {option}={limit}")
