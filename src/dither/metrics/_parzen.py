"""The Parzen-window estimate of a test log-likelihood, which papers report: a flawed metric (see `reference_rows`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dither.metrics._distances import points, rows_of, same_units, squared_distances

SIGMAS = tuple(10 ** (i / 9 - 1) for i in range(10))  # .1 ... 1, evenly in the logarithm


@dataclass(frozen=True)
class Parzen:
    """A Parzen-window log-likelihood in nats: its mean over the test examples, and the standard error of that mean."""

    mean: float
    standard_error: float
    sigma: float
    log_likelihood: Tensor = field(repr=False, compare=False)  # (test examples,) float64


def parzen(samples: Tensor, test: Tensor, sigma: float, *, chunk: int | None = None) -> Parzen:
    """Log-likelihood of `test` under a mixture of Gaussians of width sigma, one on each sample.

    Formula     log p(x) = log (1/n) Σ_i N(x; s_i, sigma² I); the standard error is the standard deviation of log p over
                the test examples by the root of their number (for MNIST's 10,000: a hundredth of it). The randomness of
                the samples is not in it.
    Shapes      samples (n, units), test (m, units); `log_likelihood` (m,) float64.
    chunk       rows of `test` at a time, by default as many as make a block of 64 MB; about three blocks live at once.
    Raises      ValueError for sigma <= 0, fewer than two test examples, NaN, infinity, empty or differently wide
                inputs.
    Source      Breuleux, Bengio and Vincent 2011; Bengio et al. 2014 (GSN), Sec. 7.
    """
    value = log_densities(samples, test, [sigma], chunk)[0]
    if len(value) < 2:
        raise ValueError("test holds 1 example: a standard error needs at least 2")
    error = float(value.std()) / math.sqrt(len(value))
    return Parzen(float(value.mean()), error, float(sigma), value)


def choose_sigma(samples: Tensor, validation: Tensor, *, sigmas: Sequence[float] = SIGMAS, chunk: int | None = None) -> float:
    """The width of `sigmas` under which `validation` is likeliest (the first of equals); never choose on the test set.

    sigmas      by default ten from .1 to 1, for data in [0, 1]. If the first or last wins, a wider grid is needed.
    Distances are computed once for all widths. Shapes, chunk and errors as `parzen`.
    """
    if len(sigmas) == 0:
        raise ValueError("sigmas is empty: at least one width to choose from is needed")
    means = log_densities(samples, validation, sigmas, chunk).mean(1)
    return float(sigmas[int(means.argmax())])


def log_densities(samples: Tensor, test: Tensor, sigmas: Sequence[float], chunk: int | None = None) -> Tensor:
    """log p(x) for every width and test example, (len(sigmas), m) float64."""
    for sigma in sigmas:
        check_width(sigma)
    samples, test = points("samples", samples), points("test", test)
    same_units("samples", samples, "test", test)
    count, units = samples.shape
    result = torch.empty(len(sigmas), len(test), dtype=torch.float64, device=test.device)
    for rows, block in squared_distances(test, samples, chunk=rows_of(chunk, max(samples.shape))):
        for i, sigma in enumerate(sigmas):
            constant = math.log(count) + units / 2 * math.log(2 * math.pi) + units * math.log(sigma)
            result[i, rows] = torch.logsumexp(block * (-1 / (2 * sigma**2)), 1) - constant
    return result


def check_width(sigma: float) -> None:
    if not 1e-150 < sigma < 1e150:  # whose squares, and one over them, are numbers
        raise ValueError(f"sigma is {sigma}: the width of a Gaussian, finite and > 0, is needed, e.g. 0.2")
