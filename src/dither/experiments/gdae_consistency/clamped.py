"""Clamped chains, by enumeration: when do they sample what their model says of the free units, and when not?"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from dither import metrics
from dither.chains import Counts
from dither.experiments.core.summary import standard_error
from dither.experiments.gdae_consistency import spaces
from dither.experiments.gdae_consistency.spaces import Space, digits
from dither.tables import Row

PART = "clamped chains"
NAMES = (
    "KL(data given clamp, clamped chain)",
    "KL(chain given clamp, clamped chain)",
    "KL(data given clamp, chain given clamp)",
)
TWO = ((0.45, 0.05), (0.05, 0.45))  # two units that are the same nine times out of ten


def factorised(place: Space) -> Tensor:
    """The best P(x | x~) whose units are independent given x~, Π_j P(x_j | x~).

    Training a factorised model with endless data leads to it.
    """
    means = (place.reconstruction @ place.states).unsqueeze(1)
    return torch.where(place.states == 1, means, 1 - means).prod(-1)


def clamped(place: Space, reconstruction: Tensor, mask: Tensor, values: Tensor, clean: bool = False) -> Tensor:
    """The stationary distribution of the clamped chain, (states,).

    The chain corrupts all of x, and samples the free units given x~ and the clamped ones.
    clean       the clamped units are left as they are in x~
    """
    fits = ((place.states == values) | ~mask).all(1)
    where = fits.nonzero().flatten()
    corrupting = (place.corruption * fits if clean else place.corruption)[where]
    conditional = (reconstruction * fits)[:, where]
    total = conditional.sum(1, keepdim=True)
    # Where there is no estimate of it, it is uniform, as `unseen="uniform"` has it.
    conditional = torch.where(total > 0, conditional / total, 1 / len(where))
    distribution = torch.zeros_like(place.data)
    distribution[where] = spaces.stationary(corrupting / corrupting.sum(1, keepdim=True), conditional)
    return distribution


def clamps(place: Space) -> Iterator[tuple[Tensor, Tensor]]:
    """Every mask that clamps some units and not all, with all values of these: (mask, values)."""
    units = place.states.shape[1]
    for mask in metrics.all_states(units).bool()[1:-1]:
        for state in place.states[(place.states[:, ~mask] == 0).all(1)]:
            yield mask, state


def worst(place: Space, reconstruction: Tensor, clean: bool = False) -> tuple[float, float, float]:
    """The largest KLs over masks and values, in the order of NAMES."""
    own = spaces.stationary(place.corruption, reconstruction)
    largest = [0.0, 0.0, 0.0]
    for mask, values in clamps(place):
        truth = metrics.conditional(place.data, place.states, mask, values)
        unclamped = metrics.conditional(own, place.states, mask, values)
        own_clamped = clamped(place, reconstruction, mask, values, clean)
        pairs = ((truth, own_clamped), (unclamped, own_clamped), (truth, unclamped))
        largest = [max(value, metrics.kl(p, q)) for value, (p, q) in zip(largest, pairs, strict=True)]
    return largest[0], largest[1], largest[2]


def two_units() -> Space:
    states = metrics.all_states(2).double()
    data = torch.tensor(TWO, dtype=torch.float64, device="cpu").flatten()
    return Space("2 units", states, data, spaces.salt_and_pepper(states))


def exactly(place: Space) -> Iterator[Row]:
    """Rows for the exact P(x | x~) and for its best factorised stand-in."""
    for method, reconstruction in (("exact P", place.reconstruction), ("factorised P", factorised(place))):
        for clean in (False, True):
            head = {"part": PART, "space": place.name, "method": method + (", clamped units not corrupted" if clean else "")}
            for name, value in zip(NAMES[: 2 if clean else 3], worst(place, reconstruction, clean), strict=False):
                row = head | {"measure": f"largest {name}", "value": digits(value, 3)}
                yield row | ({"expected": 0.0} if method == "exact P" else {})


def example() -> Iterator[Row]:
    """Rows of the smallest example: P(second unit = first | first) of a factorised P, four ways."""
    place = two_units()
    mask, values, reconstruction = (
        torch.tensor([True, False], dtype=torch.bool, device="cpu"),
        torch.zeros(2, dtype=torch.float32, device="cpu"),
        factorised(place),
    )
    own = spaces.stationary(place.corruption, reconstruction)
    distributions = {
        "data": metrics.conditional(place.data, place.states, mask, values),
        "factorised P, unclamped chain": metrics.conditional(own, place.states, mask, values),
        "factorised P, clamped chain": clamped(place, reconstruction, mask, values),
        "factorised P, clamped units not corrupted": clamped(place, reconstruction, mask, values, clean=True),
    }
    for method, distribution in distributions.items():
        row = {"part": PART, "space": place.name, "method": method, "measure": "P(x2 = x1 | x1)"}
        yield row | {"value": digits(float(distribution[0])), "expected": digits(float(distributions["data"][0]))}


def learned(place: Space, n: int, seeds: tuple[int, ...]) -> Iterator[Row]:
    """Rows for P by counting n pairs: the mean over seeds of the largest KL.

    It is taken from the data's conditional, and from the conditional of the chain's own distribution.
    """
    values = []
    for seed in seeds:
        rng = np.random.default_rng((seed, n, 1))
        joint = (place.data.unsqueeze(1) * place.corruption).numpy()
        pairs = torch.from_numpy(rng.multinomial(n, joint.ravel()).reshape(joint.shape).T).double()
        values.append(worst(place, Counts(pairs, place.states, unseen="uniform").conditional())[:2])
    for name, kls in zip(NAMES, zip(*values, strict=True), strict=False):
        row = {"part": PART, "space": place.name, "method": "count", "measure": f"largest {name}", "n": n}
        yield row | {"value": digits(fmean(kls), 3), "error": digits(standard_error(kls), 2)}
