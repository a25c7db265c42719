"""Corruptions of each unit, or each one-hot variable, by itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dither import functional, kernels
from dither.corruption._base import Corruption, check_same, checked_finite, checked_rate, indicator, log_product, noise_of


class SaltAndPepper(Corruption):
    """Each unit becomes `low` with probability rate / 2, `high` with rate / 2, and stays as it is with 1 - rate.

    >>> SaltAndPepper(0.4)
    SaltAndPepper(rate=0.4, low=0.0, high=1.0)

    Source: GDAE paper, Sec. 4; GSN paper, Sec. 7 (rate .4).
    """

    def __init__(self, rate: float = 0.4, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        self.rate, self.low, self.high = checked_rate(rate), checked_finite("low", low), checked_finite("high", high)
        if low == high:
            raise ValueError(f"low and high are both {low}: salt and pepper are two different values; see Masking for one")

    def extra_repr(self) -> str:
        return f"rate={self.rate}, low={self.low}, high={self.high}"

    def forward(self, x: Tensor) -> Tensor:
        uniform = noise_of("uniform", x)
        # The native operator has no gradient, and low and high as float32, which `log_prob` would miss in float64.
        if x.dtype == torch.float64 or (x.requires_grad and torch.is_grad_enabled()):
            u = uniform.draw(x)
            return x.masked_fill(u < self.rate, self.high).masked_fill(u < self.rate / 2, self.low)
        return kernels.salt_and_pepper(x, uniform.key, self.rate, self.low, self.high)

    def log_prob(self, corrupted: Tensor, x: Tensor) -> Tensor:
        check_same(corrupted, x)
        same, extreme = indicator(corrupted == x, x), indicator(corrupted == self.low, x) + indicator(corrupted == self.high, x)
        return log_product(corrupted, x, same * (1 - self.rate) + extreme * (self.rate / 2))


class Masking(Corruption):
    """Each unit becomes `value` with probability `rate`, and stays as it is with 1 - rate."""

    def __init__(self, rate: float = 0.5, value: float = 0.0) -> None:
        super().__init__()
        self.rate, self.value = checked_rate(rate), checked_finite("value", value)

    def extra_repr(self) -> str:
        return f"rate={self.rate}, value={self.value}"

    def forward(self, x: Tensor) -> Tensor:
        return x.masked_fill(noise_of("uniform", x).draw(x) < self.rate, self.value)

    def log_prob(self, corrupted: Tensor, x: Tensor) -> Tensor:
        check_same(corrupted, x)
        same, masked = indicator(corrupted == x, x), indicator(corrupted == self.value, x)
        return log_product(corrupted, x, same * (1 - self.rate) + masked * self.rate)


class Gaussian(Corruption):
    """x + scale z with standard normal z. scale: the standard deviation, in the units of x."""

    def __init__(self, scale: float = 0.5) -> None:
        super().__init__()
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale is {scale}: it must be positive and finite, or the identity is all there is to learn")
        self.scale = scale

    def extra_repr(self) -> str:
        return f"scale={self.scale}"

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * noise_of("normal", x).draw(x).to(x.dtype)

    def log_prob(self, corrupted: Tensor, x: Tensor) -> Tensor:
        check_same(corrupted, x)
        z = (kernels.widen(corrupted) - kernels.widen(x)) / self.scale
        return (-z.square() / 2 - math.log(self.scale) - math.log(2 * math.pi) / 2).sum(-1)


class Resampling(Corruption):
    """Each one-hot variable is sampled anew, uniformly, with probability `rate`: x (batch, variables * categories)."""

    def __init__(self, rate: float = 0.5, categories: int = 2) -> None:
        super().__init__()
        self.rate, self.categories = checked_rate(rate), categories
        if type(categories) is not int or categories < 2:
            raise ValueError(f"categories is {categories!r}: an integer of at least 2 is needed")

    def extra_repr(self) -> str:
        return f"rate={self.rate}, categories={self.categories}"

    def forward(self, x: Tensor) -> Tensor:
        shaped = self._shaped(x)
        u = noise_of("uniform", shaped[..., 0]).draw(shaped)
        index = (u / self.rate * self.categories).long().clamp(max=self.categories - 1)  # uniform where u < rate
        sample = functional.one_hot(index, shaped)  # F.one_hot looks at values, which vmap forbids
        return torch.where((u < self.rate).unsqueeze(-1), sample, shaped).flatten(-2)

    def log_prob(self, corrupted: Tensor, x: Tensor) -> Tensor:
        check_same(corrupted, x)
        after = self._shaped(corrupted)
        one_hot = ((after == 0) | (after == 1)).all(-1) & (after.sum(-1) == 1)  # or it is no sample
        same = indicator((after == self._shaped(x)).all(-1), x)
        return log_product(corrupted, x, same * (1 - self.rate) + indicator(one_hot, x) * (self.rate / self.categories))

    def _shaped(self, x: Tensor) -> Tensor:
        if x.shape[-1] % self.categories:
            raise ValueError(f"x has {x.shape[-1]} units, no multiple of categories={self.categories}: give one-hot variables")
        return x.unflatten(-1, (-1, self.categories))
