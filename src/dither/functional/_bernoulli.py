"""Binary units: P(h = 1) = sigmoid(a), h = 1[u < sigmoid(a)] with u uniform in (0, 1).

The paper prints h = 1[z > sigmoid(a)] (Bengio 2013, Eq. 2); its proof needs P(h = 1) = sigmoid(a), hence "<" here.
All functions take logits a of any shape and return a tensor of that shape and dtype; noise is float32 and the comparison is
made in float32 or wider, as u (1 + e^-a) < 1, by a rule that gives the same bits on every processor (`dither.kernels`). The
samplers take drawn noise only: nodes go straight to a kernel where one draws it on the fly. Infinite logits are legal (p = 0 or
1); a NaN logit gives a NaN sample, never a silent 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dither import kernels
from dither.kernels import widen as widen


def attach(value: Tensor, path: Tensor) -> Tensor:
    """`value`, exactly, with the gradient of `path` (which must be finite or NaN, so that path - path is 0 or NaN)."""
    return value + (path - path.detach())


def without_infinities(logits: Tensor) -> Tensor:
    # inf - inf would be NaN in `attach`; a unit with p = 0 or 1 exactly has no gradient to lose.
    return torch.where(logits.isinf(), torch.zeros_like(logits), logits)


def bernoulli_sample(logits: Tensor, noise: Tensor) -> Tensor:
    """Hard sample in {0, 1} without a gradient: 1[noise < sigmoid(logits)].

    noise: uniform in (0, 1), the shape of logits.
    """
    return kernels.bernoulli_from_uniform(logits, noise).to(logits.dtype)


def bernoulli_straight_through(logits: Tensor, noise: Tensor) -> Tensor:
    """Hard sample whose derivative with respect to the logits is 1 (Hinton 2012; Bengio 2013, Sec. 3.2.1). Biased."""
    return attach(bernoulli_sample(logits, noise), without_infinities(logits))


def bernoulli_straight_through_sigmoid(logits: Tensor, noise: Tensor) -> Tensor:
    """Hard sample with the derivative of its mean, sigmoid'(a) = p (1 - p). Biased, exact if the cost is linear in h."""
    return attach(bernoulli_sample(logits, noise), torch.sigmoid(widen(logits)).to(logits.dtype))


def bernoulli_straight_through_clipped(logits: Tensor, noise: Tensor) -> Tensor:
    """Hard sample whose derivative with respect to the logits is 1 where |a| <= 1 and 0 beyond (Hubara et al. 2016, Eq. 4:
    the gradient of a hard tanh). Biased."""
    return attach(bernoulli_sample(logits, noise), logits.clamp(-1, 1))


def bernoulli_slope_annealed(logits: Tensor, noise: Tensor, *, slope: float | Tensor = 1.0) -> Tensor:
    """Straight-through sigmoid' of steeper logits, P(h = 1) = sigmoid(slope a) (Chung et al. 2016, Sec. 3.3). Biased.

    slope: > 0, raised from 1 during training; the unit becomes a deterministic step as it grows.
    """
    if isinstance(slope, (int, float)) and not slope > 0:
        raise ValueError(f"slope is {slope}: it must be positive; raise it from 1 during training")
    return bernoulli_straight_through_sigmoid(slope * logits, noise).to(logits.dtype)


def bernoulli_reinmax(logits: Tensor, noise: Tensor, *, temperature: float = 1.0) -> Tensor:
    """ReinMax for a binary unit, the two-category case of `reinmax` with logits (0, a). Biased, second-order accurate.

    d h / d a := 2 q (1 - q) - p (1 - p) / 2  with p = sigmoid(a), q = (h + sigmoid(a / temperature)) / 2.
    Reference: Liu et al. 2023, "Bridging discrete and backpropagation", Eq. 7 (temperature 1: also ZGR, Shekhovtsov 2023).
    """
    return bernoulli_reinmax_given(logits, bernoulli_sample(logits, noise), temperature=temperature)


def bernoulli_reinmax_given(logits: Tensor, sample: Tensor, *, temperature: float = 1.0) -> Tensor:
    """`bernoulli_reinmax` of a sample that was drawn already."""
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: it must be positive; 1 to 2 is usual")
    a = widen(logits.detach())
    p, q = torch.sigmoid(a), (sample + torch.sigmoid(a / temperature)) / 2
    derivative = 2 * q * (1 - q) - p * (1 - p) / 2
    return attach(sample, derivative.to(logits.dtype) * without_infinities(logits))


def bernoulli_log_prob(logits: Tensor, sample: Tensor) -> Tensor:
    """log P(sample) of {0, 1} samples, log sigmoid((2 h - 1) a): finite for every drawn sample, also at infinite logits,
    where the textbook h log p + (1 - h) log(1 - p) is NaN. float32 or wider; differentiable in the logits."""
    return F.logsigmoid((2 * sample - 1) * widen(logits))


def bernoulli_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats, log(1 + e^-|a|) + |a| e^-|a| / (1 + e^-|a|): exact 0 at infinite logits. float32 or wider."""
    m = widen(logits).abs().clamp(max=1e4)  # e^-1e4 is 0 in every dtype, and inf * 0 would be NaN
    t = torch.exp(-m)
    return torch.log1p(t) + m * t / (1 + t)
