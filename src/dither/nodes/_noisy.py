"""Nodes through which ordinary back-propagation is right: noise enters a semi-hard non-linearity (Bengio 2013, Sec. 2)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from dither import functional, kernels
from dither.functional import widen
from dither.nodes.node import Kernel, Node, Sampler

_TAIL = 9.5  # standard deviations; beyond lies 1e-21 of the mass
_NOWHERE = 40.0  # standard deviations, beyond which the normal density is 0 in float64


def _normal_cdf(z: Tensor) -> Tensor:
    return torch.special.erfc(-math.sqrt(0.5) * z) / 2  # torch's ndtr has no digits in the lower tail


class NoisyReLU(Node):
    """Noisy rectifier max(0, a + scale z), z standard normal: `logits (batch, *units)`, same shape and dtype.

    A unit that is off on average still fires, and learns, now and then. The gradient through it is unbiased.
    scale: standard deviation of the noise, in the units of the logits. Source: Bengio 2013, Sec. 2.
    """

    discrete = False
    noise_kind = "normal"
    former_order = ("scale",)

    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__()
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale is {scale}: it must be positive and finite; use torch.nn.ReLU for no noise")
        self.scale = scale

    def propagate(self, logits: Tensor, noise: Tensor, sampler: Sampler | None = None) -> Tensor:
        return functional.noisy_relu(logits, noise, scale=self.scale)

    def kernel(self, sampler: Sampler | None) -> Kernel:
        return lambda logits, key: kernels.noisy_relu(logits, key, self.scale)

    def mean(self, logits: Tensor) -> Tensor:
        """a Phi(a / s) + s phi(a / s)."""
        a = widen(logits)
        z = (a / self.scale).clamp(-_NOWHERE, _NOWHERE)  # where the density is 0, its product with infinity would be NaN
        density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
        return (a.clamp(min=-_NOWHERE * self.scale) * _normal_cdf(z) + self.scale * density).to(logits.dtype)

    def mode(self, logits: Tensor) -> Tensor:
        return torch.relu(logits)

    def partition(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        # Below the kink the output is 0, above it smooth: integrate each side by itself.
        kink = (-widen(logits) / self.scale).clamp(-_NOWHERE, _TAIL)
        t, w = (torch.as_tensor(v, dtype=kink.dtype, device=logits.device) for v in np.polynomial.legendre.leggauss(64))
        t, w = (v.to(logits.device).view(-1, *[1] * logits.dim()) for v in ((t + 1) / 2, w / 2))
        low = kink.clamp(-_TAIL, _TAIL - 0.01)  # an interval, if a negligible one: the logarithm of its length is taken
        z = low + (_TAIL - low) * t
        log_density = torch.log(w) + torch.log(_TAIL - low) - z.square() / 2 - math.log(2 * math.pi) / 2
        below = torch.log(_normal_cdf(kink).clamp(min=torch.finfo(kink.dtype).tiny))
        return torch.cat(((kink - 1).unsqueeze(0), z)), torch.cat((below.unsqueeze(0), log_density))


def _normal_rule(scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights for E f(scale z): equal steps h, whose error e^(-2 pi d / h) needs f analytic only within d of the
    real line. tanh has poles at d = pi / (2 scale): right to 1e-8 for a smooth cost of it, to 1e-5 for one with poles half as
    near; 40 Gauss-Hermite points are off by 1e-6 at scale 1 and 1e-3 at 2 for the smooth one."""
    if scale == 0:
        return np.zeros(1), np.ones(1)
    z = np.linspace(-6.8, 6.8, 40 * max(1, math.ceil(scale)))
    w = np.exp(-(z**2) / 2)
    return z, w / w.sum()


class NoisyTanh(Node):
    """tanh(a + before z_1) + after z_2 with standard normal z: `logits (batch, *units)`, same shape and dtype.

    The hidden unit of generative stochastic networks: noise before and after the non-linearity. The gradient through it is
    unbiased. `deterministic` of either kind gives tanh(a).
    """

    discrete = False
    noise_kind = "normal"
    former_order = ("before", "after")

    def __init__(self, *, before: float = 1.0, after: float = 0.0) -> None:
        super().__init__()
        if min(before, after) < 0 or not math.isfinite(before + after):
            raise ValueError(f"before={before}, after={after}: standard deviations must be finite and not negative")
        self.before, self.after = before, after

    def noise_shape(self, logits: Tensor) -> tuple[int, ...]:
        return (*logits.shape, 2)

    def propagate(self, logits: Tensor, noise: Tensor, sampler: Sampler | None = None) -> Tensor:
        return functional.noisy_tanh(logits, noise, before=self.before, after=self.after)

    def kernel(self, sampler: Sampler | None) -> Kernel:
        return lambda logits, key: kernels.noisy_tanh(logits, key, self.before, self.after)

    def mean(self, logits: Tensor) -> Tensor:
        return torch.tanh(logits)

    def mode(self, logits: Tensor) -> Tensor:
        return torch.tanh(logits)

    def partition(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        rules = [_normal_rule(self.before), _normal_rule(self.after)]
        z = np.stack([g.ravel() for g in np.meshgrid(rules[0][0], rules[1][0], indexing="ij")], -1)
        w = np.outer(rules[0][1], rules[1][1]).ravel()
        dtype = widen(logits).dtype
        noise = torch.as_tensor(z, dtype=dtype, device=logits.device).view(-1, *[1] * logits.dim(), 2)
        log_weight = torch.as_tensor(np.log(w), dtype=dtype, device=logits.device)
        parts = len(w)
        return noise.expand(parts, *logits.shape, 2), log_weight.view(-1, *[1] * logits.dim()).expand(parts, *logits.shape)
