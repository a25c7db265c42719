"""Corruptions made of others, or of a user's function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dither.corruption._base import Corruption, check_same, noise_of


class Custom(Corruption):
    """A corruption of your own: corrupt(x) -> x~, and log_prob(x~, x) -> (batch,) if its density is known."""

    def __init__(self, corrupt: Callable[[Tensor], Tensor], log_prob: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.corrupt, self.density = corrupt, log_prob

    def forward(self, x: Tensor) -> Tensor:
        corrupted = self.corrupt(x)
        if corrupted.shape != x.shape or corrupted.dtype != x.dtype:
            raise ValueError(
                f"corrupt(x) has shape {tuple(corrupted.shape)} and dtype {corrupted.dtype}, x {tuple(x.shape)} and {x.dtype}: "
                "they must be the same"
            )
        return corrupted

    def log_prob(self, corrupted: Tensor, x: Tensor) -> Tensor:
        check_same(corrupted, x)
        if self.density is None:
            raise NotImplementedError("this Custom corruption has no density: pass Custom(corrupt, log_prob)")
        value = self.density(corrupted, x)
        if value.shape != x.shape[:-1]:
            raise ValueError(f"log_prob has shape {tuple(value.shape)}: one value per example is needed, {tuple(x.shape[:-1])}")
        return value


class Joint(Corruption):
    """Parts of the units, each with a corruption of its own.

    >>> from dither.corruption import Resampling, SaltAndPepper
    >>> image_and_label = Joint([(SaltAndPepper(), 784), (Resampling(0.5, 10), 10)])
    >>> image_and_label(torch.zeros(2, 794)).shape
    torch.Size([2, 794])
    """

    def __init__(self, parts: Sequence[tuple[Corruption, int]]) -> None:
        super().__init__()
        self.parts, self.sizes = nn.ModuleList(part for part, _ in parts), sizes_of(parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(piece) for part, piece in zip(self.parts, split(x, self.sizes), strict=True)], -1)

    def log_prob(self, corrupted: Tensor, x: Tensor) -> Tensor:
        check_same(corrupted, x)
        pieces = zip(self.parts, split(corrupted, self.sizes), split(x, self.sizes), strict=True)
        return torch.stack([part.log_prob(after, before) for part, after, before in pieces]).sum(0)  # type: ignore[operator]


class Mixture(Corruption):
    """One of the parts, sampled for each example, corrupts it: `Mixture([SaltAndPepper(r) for r in (.3, .5, .7, .9)])`.

    A chain with several noise scales moves where the noise is strong. Where it is weak, the chain finds its way back to
    the data. It needs no walkback.
    weights         how probable each part is, up to their sum; positive, by default all equal.
    Formula         C(x~ | x) = sum_k w_k C_k(x~ | x)
    Raises          ValueError for fewer than two parts, and weights that do not fit.
    """

    weights: Tensor
    edges: Tensor

    def __init__(self, parts: Sequence[Corruption], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        if len(self.parts) < 2:
            raise ValueError(f"parts has {len(self.parts)} corruptions: at least two are needed; use a single one by itself")
        weights = [1.0] * len(self.parts) if weights is None else list(weights)
        if len(weights) != len(self.parts) or not all(0 < w < math.inf for w in weights):
            raise ValueError(f"weights is {weights}: {len(self.parts)} positive numbers are needed, one for each part")
        share = torch.tensor(weights, dtype=torch.float64, device="cpu") / math.fsum(weights)
        self.register_buffer("weights", share, persistent=False)
        self.register_buffer("edges", share.cumsum(0)[:-1].float(), persistent=False)

    def extra_repr(self) -> str:
        return f"weights={[round(w, 4) for w in self.weights.tolist()]}"

    def forward(self, x: Tensor) -> Tensor:
        u = noise_of("uniform", x[:, :1] if x.dim() == 2 else x).draw(x)
        sample = torch.bucketize(u, self.edges)  # the number of the part, (batch, 1)
        first, *others = self.parts
        corrupted = first(x)
        for index, part in enumerate(others, 1):
            corrupted = torch.where(sample == index, part(x), corrupted)
        return corrupted

    def log_prob(self, corrupted: Tensor, x: Tensor) -> Tensor:
        check_same(corrupted, x)
        densities = torch.stack([part.log_prob(corrupted, x) for part in self.parts], -1)  # type: ignore[operator]
        return torch.logsumexp(densities + self.weights.log().to(densities.dtype), -1)


def sizes_of(parts: Sequence[tuple[nn.Module, int]]) -> list[int]:
    """How many units each part has. Raises ValueError for no parts, or a size that is not positive."""
    sizes = [size for _, size in parts]
    if not sizes or not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(
            f"parts has the sizes {sizes}: pairs (part, units) are needed, at least one, of at least one unit each"
        )
    return sizes


def split(x: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """The parts of the last dimension, whose sizes must add up to it."""
    if sum(sizes) != x.shape[-1]:
        raise ValueError(f"x has {x.shape[-1]} units, the parts {list(sizes)} add up to {sum(sizes)}: they must be the same")
    return x.split(list(sizes), -1)
