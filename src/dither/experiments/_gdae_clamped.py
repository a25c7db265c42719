"""Clamped chains, by enumeration: when do they sample what their model says of the free units, and when not?"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dither import metrics
from dither.chains._nonparametric import Counts
from dither.experiments import _gdae_spaces as spaces
from dither.experiments._gdae_spaces import Space, digits

PART = "clamped chains"
NAMES = (
    "KL(data given clamp, clamped chain)",
    "KL(chain given clamp, clamped chain)",
    "KL(data given clamp, chain given clamp)",
)
TWO = ((0.45, 0.05), (0.05, 0.45))  # two units that are the same nine times out of ten


def factorised(place: Space) -> Tensor:
    """The best P(x | x~) whose units are independent given x~, Π_j P(x_j | x~): what training it with endless data leads to."""
    means = (place.reconstruction @ place.states).unsqueeze(1)
    return torch.where(place.states == 1, means, 1 - means).prod(-1)


def clamped(place: Space, reconstruction: Tensor, mask: Tensor, values: Tensor, clean: bool = False) -> Tensor:
    """Where the clamped chain settles, (states,): it corrupts all of x, and draws the free units given x~ and the clamped ones.

    clean       the clamped units are left as they are in x~
    """
    fits = ((place.states == values) | ~mask).all(1)
    where = fits.nonzero().flatten()
    corrupting = (place.corruption * fits if clean else place.corruption)[where]
    given = (reconstruction * fits)[:, where]
    total = given.sum(1, keepdim=True)
    given = torch.where(total > 0, given / total, 1 / len(where))  # no estimate of it: as `unseen="uniform"` has it
    found = torch.zeros_like(place.data)
    found[where] = spaces.settled(corrupting / corrupting.sum(1, keepdim=True), given)
    return found


def clamps(place: Space) -> Iterator[tuple[Tensor, Tensor]]:
    """Every mask that keeps some units and not all, with all values of these: (mask, values)."""
    units = place.states.shape[1]
    for mask in metrics.all_states(units).bool()[1:-1]:
        for state in place.states[(place.states[:, ~mask] == 0).all(1)]:
            yield mask, state


def worst(place: Space, reconstruction: Tensor, clean: bool = False) -> tuple[float, float, float]:
    """The largest KL over masks and values: of the data's conditional from the clamped chain's distribution; of the unclamped
    chain's conditional from it; and of the data's conditional from the unclamped chain's."""
    own = spaces.settled(place.corruption, reconstruction)
    most = [0.0, 0.0, 0.0]
    for mask, values in clamps(place):
        truth = metrics.conditional(place.data, place.states, mask, values)
        unclamped = metrics.conditional(own, place.states, mask, values)
        found = clamped(place, reconstruction, mask, values, clean)
        pairs = ((truth, found), (unclamped, found), (truth, unclamped))
        most = [max(value, metrics.kl(p, q)) for value, (p, q) in zip(most, pairs, strict=True)]
    return most[0], most[1], most[2]


def two_units() -> Space:
    states = metrics.all_states(2).double()
    data = torch.tensor(TWO, dtype=torch.float64).flatten()
    return Space("2 units", states, data, spaces.salt_and_pepper(states))


def exactly(place: Space) -> Iterator[dict[str, Any]]:
    """Rows for the exact P(x | x~) and for its best factorised stand-in."""
    for method, reconstruction in (("exact P", place.reconstruction), ("factorised P", factorised(place))):
        for clean in (False, True):
            head = {"part": PART, "space": place.name, "method": method + (", clamped units not corrupted" if clean else "")}
            for name, value in zip(NAMES[: 2 if clean else 3], worst(place, reconstruction, clean), strict=False):
                row = head | {"measure": f"largest {name}", "value": digits(value, 3)}
                yield row | ({"expected": 0.0} if method == "exact P" else {})


def example() -> Iterator[dict[str, Any]]:
    """Rows of the smallest example: P(second unit = first | first) of a factorised P, four ways."""
    place = two_units()
    mask, values, reconstruction = torch.tensor([True, False]), torch.zeros(2), factorised(place)
    own = spaces.settled(place.corruption, reconstruction)
    found = {
        "data": metrics.conditional(place.data, place.states, mask, values),
        "factorised P, unclamped chain": metrics.conditional(own, place.states, mask, values),
        "factorised P, clamped chain": clamped(place, reconstruction, mask, values),
        "factorised P, clamped units not corrupted": clamped(place, reconstruction, mask, values, clean=True),
    }
    for method, distribution in found.items():
        row = {"part": PART, "space": place.name, "method": method, "measure": "P(x2 = x1 | x1)"}
        yield row | {"value": digits(float(distribution[0])), "expected": digits(float(found["data"][0]))}


def learned(place: Space, n: int, seeds: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Rows for P by counting n pairs: the mean over seeds of the largest KL from the data's conditional, and from its own."""
    values = []
    for seed in seeds:
        rng = np.random.default_rng((seed, n, 1))
        joint = (place.data.unsqueeze(1) * place.corruption).numpy()
        pairs = torch.from_numpy(rng.multinomial(n, joint.ravel()).reshape(joint.shape).T).double()
        values.append(worst(place, Counts(pairs, place.states, unseen="uniform").conditional())[:2])
    for name, found in zip(NAMES, zip(*values, strict=True), strict=False):
        error = stdev(found) / len(found) ** 0.5 if len(found) > 1 else None
        row = {"part": PART, "space": place.name, "method": "count", "measure": f"largest {name}", "n": n}
        yield row | {"value": digits(fmean(found), 3), "error": digits(error, 2)}
