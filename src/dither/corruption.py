"""Corruption processes C(x~ | x): callables that hide part of their input, with the density where it is known.

>>> import torch
>>> from dither import corruption
>>> corrupt = corruption.SaltAndPepper(rate=0.4)
>>> x = torch.ones(2, 3)
>>> corrupt(x).shape
torch.Size([2, 3])
>>> corrupt.log_prob(x, x).exp()  # (1 - .4 + .4 / 2)^3
tensor([0.5120, 0.5120])

The noise is keyed as that of nodes is: `torch.manual_seed` governs it, and it follows the examples (`noise.examples`).
What is kept carries its gradient. Source: Bengio, Yao, Alain and Vincent 2013 (generalized denoising auto-encoders),
Sec. 2; the corruption must leave several inputs possible, or the identity is what a model learns.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither import kernels, noise

_FIRST = torch.tensor(0)


class Corruption(nn.Module):
    """Base: `x (batch, units) -> x~` of the same shape and dtype, fresh noise at every call, also in `.eval()`.

    Raises      ValueError for x of another shape, TypeError for x that is not floating-point.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A draw of x~; what is kept of x carries its gradient."""

    def log_prob(self, corrupted: Tensor, x: Tensor) -> Tensor:
        """log C(x~ | x), summed over units: (..., units), (..., units) -> (...,). -inf for what cannot happen.

        A probability where x~ has finitely many values, else a density. float32 or wider; NaN where a row has one.
        """
        raise NotImplementedError(f"{type(self).__name__} has no known density; energies and exact chains need one")


class SaltAndPepper(Corruption):
    """Each unit becomes `low` with probability rate / 2, `high` with rate / 2, and is kept with 1 - rate.

    >>> SaltAndPepper(0.4)
    SaltAndPepper(rate=0.4, low=0.0, high=1.0)

    Source: GDAE paper, Sec. 4; GSN paper, Sec. 7 (rate .4).
    """

    def __init__(self, rate: float = 0.4, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        self.rate, self.low, self.high = _rate(rate), _finite("low", low), _finite("high", high)
        if low == high:
            raise ValueError(f"low and high are both {low}: salt and pepper are two different values; see Masking for one")

    def extra_repr(self) -> str:
        return f"rate={self.rate}, low={self.low}, high={self.high}"

    def forward(self, x: Tensor) -> Tensor:
        keyed = _keyed("uniform", x)
        # The kernel knows no gradient, and has low and high as float32, which `log_prob` would not find again in float64.
        if x.dtype == torch.float64 or (x.requires_grad and torch.is_grad_enabled()):
            u = keyed.draw(x)
            return x.masked_fill(u < self.rate, self.high).masked_fill(u < self.rate / 2, self.low)
        return kernels.salt_and_pepper(x, keyed.key, self.rate, self.low, self.high)

    def log_prob(self, corrupted: Tensor, x: Tensor) -> Tensor:
        _same(corrupted, x)
        spoilt = _number(corrupted == self.low, x) + _number(corrupted == self.high, x)
        return _total(corrupted, x, _number(corrupted == x, x) * (1 - self.rate) + spoilt * (self.rate / 2))


class Masking(Corruption):
    """Each unit becomes `value` with probability `rate`, and is kept with 1 - rate."""

    def __init__(self, rate: float = 0.5, value: float = 0.0) -> None:
        super().__init__()
        self.rate, self.value = _rate(rate), _finite("value", value)

    def extra_repr(self) -> str:
        return f"rate={self.rate}, value={self.value}"

    def forward(self, x: Tensor) -> Tensor:
        return x.masked_fill(_keyed("uniform", x).draw(x) < self.rate, self.value)

    def log_prob(self, corrupted: Tensor, x: Tensor) -> Tensor:
        _same(corrupted, x)
        kept, spoilt = _number(corrupted == x, x), _number(corrupted == self.value, x)
        return _total(corrupted, x, kept * (1 - self.rate) + spoilt * self.rate)


class Gaussian(Corruption):
    """x + scale z with standard normal z. scale: standard deviation, in the units of x."""

    def __init__(self, scale: float = 0.5) -> None:
        super().__init__()
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale is {scale}: it must be positive and finite, or the identity is all there is to learn")
        self.scale = scale

    def extra_repr(self) -> str:
        return f"scale={self.scale}"

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * _keyed("normal", x).draw(x).to(x.dtype)

    def log_prob(self, corrupted: Tensor, x: Tensor) -> Tensor:
        _same(corrupted, x)
        z = (kernels.widen(corrupted) - kernels.widen(x)) / self.scale
        return (-z.square() / 2 - math.log(self.scale) - math.log(2 * math.pi) / 2).sum(-1)


class Resampling(Corruption):
    """Each one-hot variable is drawn anew, uniformly, with probability `rate`: x (batch, variables * categories)."""

    def __init__(self, rate: float = 0.5, categories: int = 2) -> None:
        super().__init__()
        self.rate, self.categories = _rate(rate), categories
        if type(categories) is not int or categories < 2:
            raise ValueError(f"categories is {categories!r}: an integer of at least 2 is needed")

    def extra_repr(self) -> str:
        return f"rate={self.rate}, categories={self.categories}"

    def forward(self, x: Tensor) -> Tensor:
        shaped = self._shaped(x)
        u = _keyed("uniform", shaped[..., 0]).draw(shaped)
        drawn = (u / self.rate * self.categories).long().clamp(max=self.categories - 1)  # uniform where u < rate
        fresh = F.one_hot(drawn, self.categories).to(x.dtype)
        return torch.where((u < self.rate).unsqueeze(-1), fresh, shaped).flatten(-2)

    def log_prob(self, corrupted: Tensor, x: Tensor) -> Tensor:
        _same(corrupted, x)
        after = self._shaped(corrupted)
        one_hot = ((after == 0) | (after == 1)).all(-1) & (after.sum(-1) == 1)  # or it was not drawn anew
        kept = _number((after == self._shaped(x)).all(-1), x)
        return _total(corrupted, x, kept * (1 - self.rate) + _number(one_hot, x) * (self.rate / self.categories))

    def _shaped(self, x: Tensor) -> Tensor:
        if x.shape[-1] % self.categories:
            raise ValueError(f"x has {x.shape[-1]} units, no multiple of categories={self.categories}: give one-hot variables")
        return x.unflatten(-1, (-1, self.categories))


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
        _same(corrupted, x)
        if self.density is None:
            raise NotImplementedError("this Custom corruption has no density: pass Custom(corrupt, log_prob)")
        value = self.density(corrupted, x)
        if value.shape != x.shape[:-1]:
            raise ValueError(f"log_prob has shape {tuple(value.shape)}: one value per example is needed, {tuple(x.shape[:-1])}")
        return value


class Joint(Corruption):
    """Parts of the units, each with a corruption of its own: `Joint([(SaltAndPepper(), 784), (Resampling(.5, 10), 10)])`."""

    def __init__(self, parts: Sequence[tuple[Corruption, int]]) -> None:
        super().__init__()
        self.parts, self.sizes = nn.ModuleList(part for part, _ in parts), sizes_of(parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(piece) for part, piece in zip(self.parts, split(x, self.sizes), strict=True)], -1)

    def log_prob(self, corrupted: Tensor, x: Tensor) -> Tensor:
        _same(corrupted, x)
        pieces = zip(self.parts, split(corrupted, self.sizes), split(x, self.sizes), strict=True)
        return torch.stack([part.log_prob(after, before) for part, after, before in pieces]).sum(0)  # type: ignore[operator]


def sizes_of(parts: Sequence[tuple[nn.Module, int]]) -> list[int]:
    """How many units each part has; ValueError for no parts, or sizes that are none."""
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


def _keyed(kind: str, x: Tensor) -> noise.Keyed:
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}: a corruption needs a floating-point tensor; convert with x.float()")
    if x.dim() != 2:
        raise ValueError(f"x has shape {tuple(x.shape)}: (batch, units) is needed; use x.flatten(1), or x.unsqueeze(0) for one")
    return noise.Keyed(kind, noise.draw_seed(), 0, _FIRST, tuple(x.shape), x.device, True)  # type: ignore[arg-type]


def _rate(rate: float) -> float:
    if not 0 < rate <= 1:
        raise ValueError(
            f"rate is {rate}: it must be above 0 and at most 1; a corruption that keeps everything leaves only the identity to "
            "learn, and a chain that never moves (GDAE paper, Sec. 2.3)"
        )
    return float(rate)


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}: a finite number is needed, as data are")
    return float(value)


def _same(corrupted: Tensor, x: Tensor) -> None:
    if corrupted.shape != x.shape:
        raise ValueError(f"corrupted has shape {tuple(corrupted.shape)} and x {tuple(x.shape)}: they must be the same")


def _number(happened: Tensor, like: Tensor) -> Tensor:
    """1 or 0, wide enough for a probability of 784 units."""
    return happened.to(torch.promote_types(like.dtype, torch.float32))


def _total(corrupted: Tensor, x: Tensor, probability: Tensor) -> Tensor:
    """The log of the product over units; a NaN, which equals nothing, does not pass for an impossible value."""
    return torch.where((corrupted.isnan() | x.isnan()).any(-1), torch.nan, probability.log().sum(-1))
