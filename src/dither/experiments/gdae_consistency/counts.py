"""Counting from n examples, plainly and by walkback: how far the chain's distribution is from the data's."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

import numpy as np
import torch

from dither import chains, metrics
from dither.chains import Counts, Denoiser
from dither.experiments.core.power_law import exponent
from dither.experiments.core.summary import standard_error
from dither.experiments.gdae_consistency import spaces
from dither.experiments.gdae_consistency.spaces import Space, digits
from dither.tables import Row

PLAIN = {"count": 1, "count x2": 2, "count x5": 5, "count x8": 8}  # corruptions of every example
CONTINUE = 0.5  # the p of Algorithm 2
STEPS = 5
POOLED = 4  # walks of each example that are counted together
EMPIRICAL, WALK, WALKS, FIXED = "empirical", "walkback p=.5", "walkback p=.5, 4 walks", "walkback 5 steps"
METHODS = (EMPIRICAL, *PLAIN, WALK, WALKS, FIXED)
PAIRS = {EMPIRICAL: 0, **PLAIN, WALK: 2, WALKS: 2 * POOLED, FIXED: STEPS}  # of an example, in the mean


def move(rng: np.random.Generator, counts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Every one of counts[a, b] moves on from b by rows[b]: (A, B), (B, K) -> (A, K).

    The same as one by one, and fast.
    """
    a, b = counts.nonzero()
    moved = np.zeros((len(counts), rows.shape[1]), dtype=np.int64)
    np.add.at(moved, a, rng.multinomial(counts[a, b], rows[b]))
    return moved


def plain_pairs(rng: np.random.Generator, examples: np.ndarray, corrupting: np.ndarray, times: int) -> np.ndarray:
    """(X~, X): how often each pair came of corrupting every example so often."""
    return sum(move(rng, np.diag(examples), corrupting) for _ in range(times)).T  # type: ignore[union-attr]


def walk_pairs(
    rng: np.random.Generator, examples: np.ndarray, corrupting: np.ndarray, learned: np.ndarray, steps: int | None
) -> np.ndarray:
    """(X~, X) of Algorithm 2, a walk from every example.

    It has `steps` x~, or goes on with probability CONTINUE after each.
    """
    x, pairs, taken = np.diag(examples), np.zeros_like(corrupting.T, dtype=np.int64), 0
    while x.any():
        corrupted = move(rng, x, corrupting)
        pairs, taken = pairs + corrupted.T, taken + 1
        if steps is None:
            corrupted = rng.binomial(corrupted, CONTINUE)
        elif taken == steps:
            break
        x = move(rng, corrupted, learned)
    return pairs


def estimates(place: Space, n: int, seed: int, rounds: int, walks: bool = True) -> Iterator[tuple[str, torch.Tensor]]:
    """(method, its estimate of the distribution) from the same n examples."""
    rng = np.random.default_rng((seed, n))
    examples, corrupting = rng.multinomial(n, place.data.numpy()), place.corruption.numpy()
    yield EMPIRICAL, torch.from_numpy(examples / n)
    learned = np.zeros(0)
    for method, times in PLAIN.items():
        conditional = _normalised(place, plain_pairs(rng, examples, corrupting, times))
        learned = conditional.numpy() if times == 1 else learned
        yield method, spaces.stationary(place.corruption, conditional)
    if not walks:
        return
    for steps in (None, STEPS):
        last, pooled = learned, np.zeros_like(corrupting, dtype=np.int64)
        for done in range(rounds):
            pairs = walk_pairs(rng, examples, corrupting, last, steps)
            pooled = pooled + pairs if done >= rounds - POOLED else pooled
            last = _normalised(place, pairs).numpy()
        yield WALK if steps is None else FIXED, spaces.stationary(place.corruption, torch.from_numpy(last))
        if steps is None:
            yield WALKS, spaces.stationary(place.corruption, _normalised(place, pooled))


def _normalised(place: Space, pairs: np.ndarray) -> torch.Tensor:
    return Counts(torch.from_numpy(pairs), place.states, unseen="uniform").conditional()


def curves(place: Space, sizes: tuple[int, ...], seeds: tuple[int, ...], rounds: int, walks: bool) -> list[Row]:
    """A row per method and n, with the KL of each seed as `kls`."""
    points = []
    for n in sizes:
        by_seed = [dict(estimates(place, n, seed, rounds, walks)) for seed in seeds]
        lacking = sum(bool((one[EMPIRICAL] == 0).any()) for one in by_seed)
        points += [point(place, method, n, lacking, [one[method] for one in by_seed]) for method in by_seed[0]]
    return points


def point(place: Space, method: str, n: int, lacking: int, distributions: list[torch.Tensor]) -> Row:
    """KL(data || pi_n) over the seeds where every state is among the examples of each, and KL(pi_n || data) always.

    lacking: seeds without some state. Then the former is infinite, or finite only because of uniform rows for what was
    never seen.
    """
    kls = [metrics.kl(place.data, distribution) for distribution in distributions]
    row: Row = {"space": place.name, "method": method, "n": n, "seeds": len(kls), "lacking": lacking, "kls": kls}
    row |= {"reverse_kl": digits(fmean(metrics.kl(distribution, place.data) for distribution in distributions))}
    for name, of in (("kl", fmean), ("kl_min", min), ("kl_max", max)):
        row[name] = None if lacking else digits(of(kls))
    return row


def rows(place: Space, points: list[Row], fit_from: int) -> list[Row]:
    """A row per method over the n from `fit_from` on: 2 n KL beside what theory says, and the exponent of KL in n.

    Before them, from how many examples on every seed saw every state.
    """
    eigen = spaces.eigenvalues(place.corruption, place.reconstruction)
    expected = {method: spaces.price(eigen, times) for method, times in PLAIN.items()} | {EMPIRICAL: len(place.data) - 1.0}
    whole = [row["n"] for row in points if not row["lacking"]]
    head: Row = {"part": "counts", "space": place.name}
    table = [head | {"method": EMPIRICAL, "measure": "n of full support", "value": min(whole, default=None)}]
    for method in dict.fromkeys(row["method"] for row in points):
        fitted = [row for row in points if row["method"] == method and row["n"] >= fit_from and not row["lacking"]]
        if fitted:
            table.append(head | {"method": method, "measure": "2 n KL"} | _fit(fitted, method, expected.get(method)))
    return table


def _fit(fitted: list[Row], method: str, expected: float | None) -> Row:
    sizes = [row["n"] for row in fitted]
    scaled = [2 * row["n"] * value for row in fitted for value in row["kls"]]
    by_seed = zip(*(row["kls"] for row in fitted), strict=True)
    slopes = [exponent(sizes, kls) for kls in by_seed] if len(sizes) > 1 else []
    row: Row = {"n": sizes[0], "pairs": PAIRS[method], "value": digits(fmean(scaled))}
    row |= {"error": digits(standard_error(scaled), 2), "expected": digits(expected)}
    return row | {
        "slope": digits(fmean(slopes), 3) if slopes else None,
        "slope_error": digits(standard_error(slopes), 2),
    }


def walkback(place: Space) -> Iterator[Row]:
    """Walkback with endless data: the second eigenvalue of its chain, and KL(data, its distribution)."""
    plain = spaces.eigenvalues(place.corruption, place.reconstruction)
    head = {"part": "walkback, n = ∞", "space": place.name}
    yield head | {"method": "plain", "measure": "second eigenvalue", "value": digits(float(plain[0]))}
    for method, weights in ((WALK, spaces.geometric(CONTINUE)), (FIXED, [1 / STEPS] * STEPS)):
        conditional = spaces.fixed_point(place, weights)
        second = float(spaces.eigenvalues(place.corruption, conditional)[0])
        expected = spaces.walked(float(plain[0]), weights)
        yield head | {"method": method, "measure": "second eigenvalue", "value": digits(second), "expected": digits(expected)}
        value = metrics.kl(place.data, spaces.stationary(place.corruption, conditional))
        yield head | {"method": method, "measure": "KL(data, chain)", "value": digits(value, 2), "expected": 0.0}


def recovered(n: int, seed: int = 0) -> list[Row]:
    """The histogram of Fig. 3: ten values, n examples, a corruption of each, n samples of the chain."""
    place = spaces.space("ten")
    rng = np.random.default_rng((seed, n, 3))
    examples = rng.multinomial(n, place.data.numpy())
    pairs = torch.from_numpy(plain_pairs(rng, examples, place.corruption.numpy(), 1))
    learned = Counts(pairs, place.states)
    chain = Denoiser(Counts(place.corruption, place.states).sample, learned)
    many = max(1, n // 50)
    sampled = chains.run(chain, place.states[:1].expand(many, 1), -(-n // many), burn_in=50, seed=seed).x.flatten()[:n]
    distributions = {
        "data": place.data,
        "examples": torch.from_numpy(examples / n),
        "chain, exactly": spaces.stationary(place.corruption, learned.conditional()),
        "chain, samples": torch.bincount(sampled.long(), minlength=len(place.data)) / n,
    }
    return [
        {"figure": "recovered", "value": value, "distribution": name, "probability": digits(float(share))}
        for name, distribution in distributions.items()
        for value, share in enumerate(distribution)
    ]
