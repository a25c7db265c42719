"""Energies from one x~ and along a path, against the distribution that is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from dither.chains import Counts, energy, relative_energies
from dither.experiments.core.power_law import exponent
from dither.experiments.core.summary import standard_error
from dither.experiments.gdae_consistency import spaces
from dither.experiments.gdae_consistency.spaces import Space, digits
from dither.tables import Row

PART = "energies"


def table(place: Space, reconstruction: Tensor) -> Tensor:
    """energy(x) - its true value for every x~, (X~, X), without each row's own constant; nan where unknown."""
    errors = energy(reconstruction.log(), place.corruption.T.log()) + place.data.log()
    errors = errors.masked_fill(~torch.isfinite(errors), torch.nan)
    return errors - errors.nanmean(1, keepdim=True)


def exactly(places: list[Space]) -> Row:
    """A row: the largest error of any energy difference, over all spaces, x~ and x, with the exact P(x | x~)."""
    errors = [table(place, place.reconstruction) for place in places]
    largest = max(float(error[~error.isnan()].abs().max()) for error in errors)
    return {
        "part": PART,
        "space": "all",
        "method": "exact P",
        "measure": "largest error",
        "value": digits(largest, 2),
        "expected": 0.0,
    }


def counted(place: Space, n: int, seed: int) -> Counts:
    rng = np.random.default_rng((seed, n, 2))
    joint = (place.data.unsqueeze(1) * place.corruption).numpy()
    pairs = rng.multinomial(n, joint.ravel()).reshape(joint.shape).T
    return Counts(torch.from_numpy(pairs), place.states, unseen="uniform")


def along_the_ring(place: Space, sizes: Sequence[int], seeds: tuple[int, ...]) -> Iterator[Row]:
    """Rows: the root mean square error of the relative energies of 0, 1, ... along the ring by counting n pairs.

    Beside it that of -log of the chain's own distribution, made relative in the same way.
    """
    errors: dict[str, dict[int, list[float]]] = {"path through its ends": {}, "-log of the chain's distribution": {}}
    for n in sizes:
        models = [counted(place, n, seed) for seed in seeds]
        try:
            paths = [_along(place, model) for model in models]
        except ValueError:  # a pair of neighbours was never seen
            continue
        distributions = [spaces.stationary(place.corruption, model.conditional()) for model in models]
        others = [-(distribution / distribution[0]).log() for distribution in distributions]
        for name, energies in zip(errors, (paths, others), strict=True):
            errors[name][n] = [_rms(energy, -(place.data / place.data[0]).log()) for energy in energies]
    for name, by_size in errors.items():
        if len(by_size) > 1:
            head: Row = {"part": PART, "space": place.name, "method": name, "measure": "RMS error", "n": max(by_size)}
            yield head | _fit(by_size)


def _along(place: Space, model: Counts) -> Tensor:
    corrupting = Counts(place.corruption, place.states)

    def log_corruption(corrupted: Tensor, x: Tensor) -> Tensor:
        return corrupting.log_prob(x, corrupted)

    return relative_energies(model.log_prob, log_corruption, place.states, through="ends")


def _rms(estimate: Tensor, truth: Tensor) -> float:
    return float((estimate - truth).square().mean().sqrt())


def _fit(by_size: dict[int, list[float]]) -> Row:
    """The error at the largest size, and its exponent in the size, over seeds."""
    sizes, last = list(by_size), list(by_size.values())[-1]
    slopes = [exponent(sizes, errors) for errors in zip(*by_size.values(), strict=True)]
    row: Row = {"value": digits(fmean(last), 3), "error": digits(standard_error(last), 2)}
    return row | {"slope": digits(fmean(slopes), 3), "slope_error": digits(standard_error(slopes), 2)}


def by_distance(place: Space, n: int, seeds: tuple[int, ...]) -> Iterator[Row]:
    """Rows: the error of energy(x) - energy(x~) from a single x~, by the number of units in which x differs from x~."""
    far = (place.states.unsqueeze(1) != place.states).sum(-1)
    errors = []
    for seed in seeds:
        each = table(place, counted(place, n, seed).conditional())
        errors.append(each - each.diagonal().unsqueeze(1))
    every = torch.stack(errors)
    for distance in range(1, int(far.max()) + 1):
        so_far = every[:, far == distance]
        unseen = float(so_far.isnan().double().mean())
        row = {"part": PART, "space": place.name, "method": f"one x~, {distance} units away", "measure": "RMS error", "n": n}
        yield row | {"value": digits(float(so_far.square().nanmean().sqrt()), 3), "unseen": digits(unseen, 2)}
