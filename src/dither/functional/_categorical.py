"""Categorical units: the last dimension holds the K logits of one unit; samples are one-hot.

Every sampler draws by the Gumbel-max trick from the same uniform noise, so changing the gradient estimator never changes
the sample. Logits of -inf (forbidden category) and of +inf (certain category) are legal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dither import kernels
from dither.functional._bernoulli import attach, widen, without_infinities


def proper_logits(logits: Tensor) -> Tensor:
    """Wide logits in which categories at +inf share all the mass, written with finite numbers and -inf."""
    logits = widen(logits)
    certain = logits == torch.inf
    spread = torch.where(certain, torch.zeros_like(logits), -torch.inf)
    return torch.where(certain.any(-1, keepdim=True) & ~logits.isnan(), spread, logits)


def tempered_softmax(logits: Tensor, temperature: float) -> Tensor:
    """softmax(logits / temperature), where the division may not overflow: the greatest logit becomes 0 before it."""
    return torch.softmax((logits - logits.detach().amax(-1, keepdim=True)) / temperature, -1)


def gumbel(noise: Tensor) -> Tensor:
    """Standard Gumbel noise -log(-log(1 - u)); this form is finest in the upper tail, where maxima are decided."""
    return -torch.log(-torch.log1p(-noise))


def one_hot(index: Tensor, like: Tensor) -> Tensor:
    return (index.unsqueeze(-1) == torch.arange(like.shape[-1], device=like.device, dtype=torch.int64)).to(like.dtype)


def categorical_sample(logits: Tensor, noise: Tensor) -> Tensor:
    """One-hot sample without a gradient: argmax_k (logits_k + gumbel_k). noise: uniform, the shape of logits."""
    if logits.dtype != torch.float64:
        return kernels.categorical_from_uniform(logits, noise).to(logits.dtype)
    wide = proper_logits(logits.detach())
    return torch.add(kernels.categorical_from_uniform(wide, noise), torch.softmax(wide, -1), alpha=0)  # + 0 p carries NaN


def categorical_straight_through(logits: Tensor, noise: Tensor) -> Tensor:
    """One-hot sample with the derivative of its mean, softmax(logits). Biased (Bengio 2013, Sec. 3.2.1)."""
    path = torch.softmax(proper_logits(logits), -1).to(logits.dtype)
    return attach(categorical_sample(logits, noise), path)


def gumbel_softmax(logits: Tensor, noise: Tensor, *, temperature: float = 1.0, hard: bool = False) -> Tensor:
    """Concrete sample softmax((logits + gumbel) / temperature); with `hard`, its one-hot argmax with that gradient.

    temperature > 0: small is less biased and noisier. Reference: Jang et al. 2017; Maddison et al. 2017.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: it must be positive; 0.1 to 1 is usual")
    soft = tempered_softmax(proper_logits(logits) + gumbel(noise), temperature).to(logits.dtype)
    return attach(categorical_sample(logits, noise), soft) if hard else soft


def reinmax(logits: Tensor, noise: Tensor, *, temperature: float = 1.0) -> Tensor:
    """One-hot sample with ReinMax's gradient: second-order accurate, biased for costs beyond quadratic ones.

    With D the sample, p = softmax(a), q = (D + softmax(a / temperature)) / 2, the Jacobian used is
    2 (diag q - q q') - (diag p - p p') / 2. At temperature 1 it is ZGR, exact for quadratic costs.
    Reference: Liu et al. 2023, "Bridging discrete and backpropagation: straight-through and beyond", Algorithm 2.
    """
    return reinmax_given(logits, categorical_sample(logits, noise), temperature=temperature)


def reinmax_given(logits: Tensor, sample: Tensor, *, temperature: float = 1.0) -> Tensor:
    """`reinmax` of a one-hot sample that was drawn already."""
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: it must be positive; 1 to 2 is usual")
    wide = proper_logits(logits)
    p = torch.softmax(wide, -1)
    q = ((sample + tempered_softmax(wide, temperature)) / 2).detach()
    # softmax(a + const) with const = log q - a has value q and Jacobian diag q - q q'; written directly to allow zeros.
    # Only the derivative of a matters: with the value 0 nothing overflows.
    a = without_infinities(wide)
    a = a - a.detach()
    through_q = q * (a - (q * a).sum(-1, keepdim=True))
    return attach(sample, (2 * through_q - p / 2).to(logits.dtype))


def categorical_log_prob(logits: Tensor, sample: Tensor) -> Tensor:
    """log P of one-hot samples, shape of logits without the last dimension; float32 or wider."""
    log_p = torch.log_softmax(proper_logits(logits), -1)
    return torch.where(sample < 0.5, torch.zeros_like(log_p), log_p).sum(-1)  # a NaN sample keeps its NaN


def categorical_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats, shape of logits without the last dimension; categories of probability 0 add 0."""
    log_p = torch.log_softmax(proper_logits(logits), -1)
    p = log_p.exp()
    return -(p * torch.where(p > 0, log_p, torch.zeros_like(log_p))).sum(-1)
