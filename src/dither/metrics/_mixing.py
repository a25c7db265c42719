"""Whether Markov chains have mixed: autocorrelation, effective sample size and R-hat, which no stuck chain can pass.

Run 4 or more chains from starting points that are more dispersed than the target, and believe nothing before
R-hat < 1.01 and an effective sample size of 100 per chain (Vehtari et al. 2021). A quantity of which a chain never
moved has no autocorrelation. The usual libraries score it as n independent draws. Here it is NaN, and `Mixing.stuck`
counts such chains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dither.metrics import _chains
from dither.metrics._chains import First

METHODS = ("bulk", "mean")


@dataclass(frozen=True, eq=False)
class Mixing:
    """The result of `mixing`, per quantity (0-dimensional for chains of one).

    ess     bulk effective sample size, of chains x steps draws
    r_hat   the greater of the two of `split_r_hat`
    iat     integrated autocorrelation time: how many steps are worth one independent draw
    stuck   int64, how many chains never moved; where it is not 0, the others are NaN.
    """

    ess: Tensor
    r_hat: Tensor
    iat: Tensor
    stuck: Tensor
    chains: int
    steps: int


def mixing(x: Tensor, *, first: First | None = None) -> Mixing:
    """Effective sample size, R-hat, autocorrelation time and the number of stuck chains.

    Shapes      x (chains, steps) or (chains, steps, quantities), of any real dtype  ->  () or (quantities,), float64
    first       which of the two is the first dimension: "chains", or "steps" for (steps, chains[, quantities]), the order of
                `chains.run(...).x`. It must be said: a tensor in the wrong order would have numbers too, of nothing.
    Raises      ValueError where it is not said; for another shape, fewer than 12 steps, or a number that is not finite.
    Source      Vehtari, Gelman, Simpson, Carpenter and Bürkner 2021, "Rank-normalization, folding, and localization".

    >>> _ = torch.manual_seed(0)
    >>> measured = mixing(torch.randn(500, 4), first="steps")
    >>> int(measured.stuck), bool(measured.r_hat < 1.01), bool(measured.ess > 1500)
    (0, True, True)
    """
    x = _chains.by_chain(x, first)
    stuck = _chains.stuck_chains(_chains.checked(x))
    return Mixing(
        ess=effective_sample_size(x, first="chains"),
        r_hat=split_r_hat(x, first="chains"),
        iat=integrated_autocorrelation_time(x, first="chains"),
        stuck=stuck.squeeze(-1) if x.dim() == 2 else stuck,
        chains=x.shape[0],
        steps=x.shape[1],
    )


def autocorrelation(x: Tensor, *, first: First | None = None) -> Tensor:
    """rho_t = c_t / c_0 of each chain for itself, by lag, with c_t = sum_s (x_s - mean)(x_{s+t} - mean) / n.

    By Fourier transform, in O(n log n). The division by n, not n - t, biases high lags towards 0 but keeps their noise
    down.
    Shapes      x (chains, steps[, quantities])  ->  the same, (chains, lags[, quantities]) whichever came first, float64; NaN
                for a chain that never moved.
    first, Raises  as `mixing`.
    """

    def normalised(block: Tensor) -> Tensor:
        covariance = _chains.autocovariance(block)
        moved = (block != block[:, :1]).any(1, keepdim=True)
        return torch.where(moved, covariance / covariance[:, :1], torch.nan)

    x = _chains.by_chain(x, first)
    return _chains.by_quantity(normalised, _chains.checked(x)).view(x.shape)


def integrated_autocorrelation_time(x: Tensor, *, first: First | None = None) -> Tensor:
    """tau = 1 + 2 sum_t rho_t in steps: the mean of n steps is as good as that of n / tau independent draws.

    All chains together, split in halves, so that a drift or a disagreement shows; the sum by Geyer's initial monotone
    positive sequence. An estimate from fewer than some 50 tau steps per chain is too small.
    Shapes      x (chains, steps[, quantities])  ->  () or (quantities,), float64; NaN if a chain never moved.
    first, Raises  as `mixing`.
    Source      Geyer 1992, "Practical Markov chain Monte Carlo", Sec. 3.3; over chains as in Vehtari et al. 2021,
                Sec. 3.
    """
    return _per_quantity(_chains.by_chain(x, first), lambda block: _chains.time_of(_chains.split(block)))


def effective_sample_size(x: Tensor, *, first: First | None = None, method: str = "bulk") -> Tensor:
    """How many independent draws the chains are worth together: S / tau, with S the steps of all halves of chains.

    method      "bulk": tau of the rank-normalised values, which exists without moments and sees the centre of the
                distribution. "mean": tau of the values themselves, for the standard error of their mean.
    At most S log10(S): chains that alternate can beat independent draws, but not without end.
    Shapes      x (chains, steps[, quantities])  ->  () or (quantities,), float64; NaN if a chain never moved.
    first, Raises  as `mixing`; ValueError for another method.
    Source      Vehtari et al. 2021, Sec. 3 and 4.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(METHODS)}")

    def size(block: Tensor) -> Tensor:
        halves = _chains.split(block)
        draws = halves.shape[0] * halves.shape[1]
        return draws / _chains.time_of(_chains.normal_scores(halves) if method == "bulk" else halves)

    return _per_quantity(_chains.by_chain(x, first), size)


def split_r_hat(x: Tensor, *, first: First | None = None) -> Tensor:
    """The greater of two R-hats of half chains: of the normal scores, and of those of |x - median|, which sees scales.

    R-hat compares the spread of all draws with that within half chains; it nears 1 from above. Below 1.01 is the rule.
    Where all half chains stand still, at different values, it is huge or infinite; where |x - median| is a constant
    (a fair coin), the first one stands alone.
    Shapes      x (chains, steps[, quantities])  ->  () or (quantities,), float64; NaN if a chain never moved.
    first, Raises  as `mixing`.
    Source      Vehtari et al. 2021, Sec. 4.
    """

    def greater(block: Tensor) -> Tensor:
        halves = _chains.split(block)
        folded = _chains.fold(halves)
        bulk = _chains.basic_r_hat(_chains.normal_scores(halves))
        tail = _chains.basic_r_hat(_chains.normal_scores(folded))
        return torch.where((folded == folded[:1, :1]).all(1).all(0), bulk, torch.maximum(bulk, tail))

    return _per_quantity(_chains.by_chain(x, first), greater)


def _per_quantity(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    x3 = _chains.checked(x)
    values = torch.where(_chains.stuck_chains(x3) > 0, torch.nan, _chains.by_quantity(function, x3))
    return values.squeeze(-1) if x.dim() == 2 else values
