"""The elementary functions of csrc/src/elementary.h in torch, bit for bit: float32 operations, each rounded once.

Slow, so the reference asks them only where ordinary functions cannot tell: they are what all paths agree upon.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_ROOT_HALF = 0x3F3504F3


def fma(a: Tensor | float, b: Tensor, c: Tensor | float) -> Tensor:
    """a b + c rounded once. The product is exact in float64; its sum is rounded to odd there, so that rounding it again
    to float32 is right."""
    product = _float32(a).double() * b.double()
    other = _float32(c).double()
    total = product + other
    back = total - product
    rest = (product - (total - back)) + (other - back)
    inexact = (rest != 0) & total.isfinite()
    toward_zero = total.view(torch.int64) - ((rest < 0) != (total < 0)).to(torch.int64)
    odd = torch.where(inexact, toward_zero | 1, total.view(torch.int64))
    return odd.view(torch.float64).float()


def nearly_fma(a: Tensor | float, b: Tensor, c: Tensor | float) -> Tensor:
    """`fma` but for two roundings, which differ from one once in some 2^29 times; several times as fast."""
    return (_float32(a).double() * b.double() + _float32(c).double()).float()


def _float32(x: Tensor | float) -> Tensor:
    return x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float32, device="cpu")


def _polynomial(x: Tensor, *coefficients: float, fma: Callable[..., Tensor] = fma) -> Tensor:
    total: Tensor | float = coefficients[0]
    for c in coefficients[1:]:
        total = fma(total, x, c)
    assert isinstance(total, Tensor)
    return total


def exponential(x: Tensor) -> Tensor:
    """e^x, 0 below -87 and infinite above 88."""
    clamped = x.clamp(-87, 88)
    log2e = torch.tensor(1.44269504, dtype=torch.float32, device="cpu")
    t = clamped * log2e.to(x.device)
    rest = fma(1.9259630e-8, clamped, fma(1.44269504, clamped, -t))
    f = (t - t.floor()) + rest
    p = _polynomial(f, 0.00021612915, 0.0012467846, 0.0096754516, 0.055485282, 0.24022931, 0.69314706, 1.0)
    e = torch.ldexp(p, torch.nan_to_num(t.floor()).to(torch.int32))
    e = torch.where(x < -87, torch.zeros_like(e), torch.where(x > 88, torch.full_like(e, math.inf), e))
    return torch.where(x.isnan(), x, e)


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    shifted = x.contiguous().view(torch.int32) - _ROOT_HALF
    f = ((shifted & 0x7FFFFF) + _ROOT_HALF).view(torch.float32) - 1
    return (shifted >> 23).float(), f


_LOG1P = (0.087004304, -0.14267486, 0.14914769, -0.16577585, 0.19963063, -0.25001338, 0.3333391, -0.5)
_SINE = (-0.0046016611, 0.079680033, -0.64596349, -4.3711388e-8)
_COSINE = (0.00090376654, -0.020860165, 0.25366923, -1.2337005, 1.0)


def _joined(power: Tensor, f: Tensor, fma: Callable[..., Tensor] = fma) -> Tensor:
    p = _polynomial(f, *_LOG1P, fma=fma)
    rest = fma(-2.12194440e-4, power, (f * f) * p)
    return fma(0.693359375, power, f + rest)


def logarithm(x: Tensor) -> Tensor:
    """log x of normal positive numbers."""
    return _joined(*_split(x))


def exponential_of(u: Tensor) -> Tensor:
    """-log(1 - u)."""
    power, f = _split(1 - u)
    return -_joined(power, torch.where(power == 0, -u, f))


def gumbel(u: Tensor) -> Tensor:
    """-log(-log(1 - u)), infinite at 0."""
    return torch.where(u > 0, -logarithm(exponential_of(u)), math.inf)


def normals(scaled_uniform: Tensor, word: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(-2 log u) (cos, sin)(2 pi word 2^-32) for 2^32 u (float32) and 32-bit words (int64)."""
    power, f = _split(scaled_uniform)
    radius = (
        (-2 * _joined(power - 32, f, nearly_fma)).double().sqrt().float()
    )  # torch.sqrt of float32 is not always rounded right
    quarter = ((word + (1 << 29)) & 0xFFFFFFFF) >> 30
    within = word - (quarter << 30)
    t = torch.where(within >= 1 << 31, within - (1 << 32), within).float() * 2.0**-30
    square = t * t
    sine = nearly_fma(t, _float32(1.5707964).to(t.device), t * _polynomial(square, *_SINE, fma=nearly_fma))
    cosine = _polynomial(square, *_COSINE, fma=nearly_fma)
    odd = (quarter & 1) == 1
    signed_cosine = torch.where(odd, sine, cosine) * (1 - 2 * ((quarter ^ (quarter >> 1)) & 1)).float()
    signed_sine = torch.where(odd, cosine, sine) * (1 - 2 * (quarter >> 1)).float()
    return radius * signed_cosine, radius * signed_sine


def below_sigmoid(uniform: Tensor, logits: Tensor) -> Tensor:
    """u < sigmoid(a), as u (1 + e^-a) < 1."""
    return fma(uniform, exponential(-logits), uniform) < 1
