"""The arithmetic of `_mixing`: chains (chains, steps, quantities) checked, split, ranked; their autocovariance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

MIN_STEPS = 12  # halves of 6: with fewer, Geyer's sum has no pair to look at and the effective size is whatever the cap says
BLOCK = 1 << 22  # numbers of one block of quantities in float64: the transform below holds a few times as many


First = Literal["chains", "steps"]


def by_chain(x: Tensor, first: First | None, name: str = "x") -> Tensor:
    """x with chains in its first dimension, steps in its second. Raises ValueError where it is not said which comes first."""
    if first not in ("chains", "steps"):
        shape = f" of shape {tuple(x.shape)}" if isinstance(x, Tensor) else ""
        raise ValueError(
            f"first is {first!r} for {name}{shape}: say which dimension comes first, first='steps' for (steps, chains, ...) "
            "as chains.run returns it, or first='chains' for (chains, steps, ...)"
        )
    return x.transpose(0, 1) if first == "steps" and isinstance(x, Tensor) and x.dim() > 1 else x


def checked(x: Tensor, name: str = "x") -> Tensor:
    """x as (chains, steps, quantities). Raises ValueError for another shape, too few steps, NaN or infinity."""
    if not isinstance(x, Tensor) or x.is_complex():
        kind = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name} is {kind}, expected a tensor of real numbers: torch.as_tensor makes one")
    if x.dim() not in (2, 3) or 0 in x.shape:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, expected (chains, steps) or (chains, steps, quantities), none of them 0: "
            "a single chain is x.unsqueeze(0)"
        )
    if x.shape[1] < MIN_STEPS:
        raise ValueError(f"{name} has {x.shape[1]} steps, at least {MIN_STEPS} are needed: run the chains longer")
    if x.is_floating_point() and not bool(x.isfinite().all()):
        bad = (~x.isfinite()).nonzero()[0].tolist()
        raise ValueError(f"{name}{bad} is {x[tuple(bad)].item()}, expected finite numbers: find out where the chain left them")
    return x.detach().unsqueeze(-1) if x.dim() == 2 else x.detach()


def by_quantity(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(float64 block), a few quantities at a time so that memory stays bounded; they are last, in and out."""
    width = max(1, BLOCK // (x.shape[0] * x.shape[1]))
    return torch.cat([function(block.double()) for block in x.split(width, -1)], -1)


def stuck_chains(x: Tensor) -> Tensor:
    """How many chains never leave their first value, int64 (quantities,)."""
    return (x == x[:, :1]).all(1).sum(0)


def autocovariance(x: Tensor) -> Tensor:
    """c_t = sum_s (x_s - mean)(x_{s+t} - mean) / n of each chain, (chains, steps, quantities)."""
    n = x.shape[1]  # a transform of less than twice the length would wrap the end of a chain onto its beginning
    transform = torch.fft.rfft(x - x.mean(1, keepdim=True), 2 * n, dim=1)
    return torch.fft.irfft(transform.abs().square(), 2 * n, dim=1)[:, :n] / n


def split(x: Tensor) -> Tensor:
    """Every chain in two halves, (2 chains, steps // 2, quantities); the middle step of an odd number is left out."""
    half = x.shape[1] // 2
    return torch.cat((x[:, :half], x[:, -half:]))


def fold(x: Tensor) -> Tensor:
    """|x - median over all chains and steps|: chains that agree in location but not in scale differ in this."""
    ordered = x.flatten(0, 1).sort(0).values
    count = len(ordered)
    return (x - (ordered[(count - 1) // 2] + ordered[count // 2]) / 2).abs()


def normal_scores(x: Tensor) -> Tensor:
    """Phi^-1((r - 3/8) / (S + 1/4)) of the ranks r = 1 .. S among all chains, ties at their mean rank (Blom 1958)."""
    values = x.flatten(0, 1).T.contiguous()
    ordered = values.sort(1).values
    below, upto = torch.searchsorted(ordered, values), torch.searchsorted(ordered, values, right=True)
    rank = (below + upto + 1).double() / 2
    return torch.special.ndtri((rank - 0.375) / (values.shape[1] + 0.25)).T.reshape(x.shape)


def basic_r_hat(x: Tensor) -> Tensor:
    """sqrt(var+ / W), (quantities,): W the mean variance within chains, var+ = (n-1)/n W + variance of their means."""
    within, between = x.var(1).mean(0), x.mean(1).var(0)
    return (between / within + (x.shape[1] - 1) / x.shape[1]).sqrt()


def time_of(x: Tensor) -> Tensor:
    """tau = 1 + 2 sum_t rho_t of these chains together, (quantities,), by Geyer's initial monotone positive sequence.

    rho_t = 1 - (W - mean_c c_t) / var+, so that chains which disagree count as slow. Pairs P_k = rho_2k + rho_2k+1 are
    summed up to the first that is not positive, none above the one before it. Of that first one rho_2k counts once if
    it is positive, which helps chains that alternate. tau >= 1 / log10(n), or a lucky chain could claim any size.
    """
    chains, n, _ = x.shape
    covariance = autocovariance(x).mean(0)
    within = covariance[0] * (n / (n - 1))
    total = covariance[0] + (x.mean(1).var(0) if chains > 1 else 0)
    rho = 1 - (within - covariance) / total
    rho[0] = 1
    pairs = rho[: (n - 1) // 2 * 2].unflatten(0, (-1, 2)).sum(1)
    # Where every pair is positive, the last one stands in for the one that ends the sum.
    ends = torch.cat((pairs[:-1] <= 0, torch.ones_like(pairs[:1], dtype=torch.bool))).int().argmax(0)
    before_end = torch.arange(len(pairs), device=x.device, dtype=torch.int64).unsqueeze(1) < ends
    summed = (pairs.cummin(0).values * before_end).sum(0)
    tail = rho.gather(0, 2 * ends.unsqueeze(0)).squeeze(0).clamp(min=0)
    floor = 1 / torch.log10(torch.tensor(float(chains * n), dtype=x.dtype, device=x.device))
    return torch.maximum(2 * summed - 1 + tail, floor)
