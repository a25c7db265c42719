"""Energies from one x~ and along a path, against the distribution that is known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dither.chains._energy import energy, relative_energies
from dither.chains._nonparametric import Counts
from dither.experiments import _gdae_spaces as spaces
from dither.experiments._gdae_spaces import Space, digits
from dither.experiments._growth import slope

PART = "energies"


def table(place: Space, reconstruction: Tensor) -> Tensor:
    """energy(x) - its true value for every x~, (X~, X), from which each row's own constant is taken; nan where unknown."""
    found = energy(reconstruction.log(), place.corruption.T.log()) + place.data.log()
    found = found.masked_fill(~torch.isfinite(found), torch.nan)
    return found - found.nanmean(1, keepdim=True)


def exactly(places: list[Space]) -> dict[str, Any]:
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


def along_the_ring(place: Space, sizes: Sequence[int], seeds: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Rows: the root mean square error of the relative energies of 0, 1, ... along the ring by counting n pairs, and of
    -log of the chain's own distribution, made relative in the same way."""
    truth = -(place.data / place.data[0]).log()
    corrupting = Counts(place.corruption, place.states)

    def log_corruption(corrupted: Tensor, x: Tensor) -> Tensor:
        return corrupting.log_prob(x, corrupted)

    found: dict[str, dict[int, list[float]]] = {"path through its ends": {}, "-log of the chain's distribution": {}}
    for n in sizes:
        models = [counted(place, n, seed) for seed in seeds]
        try:
            paths = [relative_energies(model.log_prob, log_corruption, place.states, "ends") for model in models]
        except ValueError:  # a pair of neighbours was never seen
            continue
        settled = [spaces.settled(place.corruption, model.conditional()) for model in models]
        others = [-(distribution / distribution[0]).log() for distribution in settled]
        for name, energies in zip(found, (paths, others), strict=True):
            found[name][n] = [float((e - truth).square().mean().sqrt()) for e in energies]
    for name, errors in found.items():
        if len(errors) > 1:
            last = list(errors.values())[-1]
            slopes = [slope(list(errors), list(values)) for values in zip(*errors.values(), strict=True)]
            yield (
                {"part": PART, "space": place.name, "method": name, "measure": "RMS error", "n": list(errors)[-1]}
                | {"value": digits(fmean(last), 3), "error": digits(_error(last), 2)}
                | {"slope": digits(fmean(slopes), 3), "slope_error": digits(_error(slopes), 2)}
            )


def by_distance(place: Space, n: int, seeds: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Rows: the error of energy(x) - energy(x~) from a single x~, by the number of units in which x differs from x~."""
    far = (place.states.unsqueeze(1) != place.states).sum(-1)
    errors = []
    for seed in seeds:
        found = table(place, counted(place, n, seed).conditional())
        errors.append(found - found.diagonal().unsqueeze(1))
    every = torch.stack(errors)
    for distance in range(1, int(far.max()) + 1):
        chosen = every[:, far == distance]
        unseen = float(chosen.isnan().double().mean())
        row = {"part": PART, "space": place.name, "method": f"one x~, {distance} units away", "measure": "RMS error", "n": n}
        yield row | {"value": digits(float(chosen.square().nanmean().sqrt()), 3), "unseen": digits(unseen, 2)}


def _error(values: list[float]) -> float | None:
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
