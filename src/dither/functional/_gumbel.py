"""Relaxations of the Gumbel family: of binary units, and averaged over the noise that would have given the same sample.

All draw their sample from the first noise as `bernoulli_sample` and `categorical_sample` do, bit for bit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dither.functional._bernoulli import attach, bernoulli_sample, widen, without_infinities
from dither.functional._categorical import categorical_sample, proper_logits


def _require_positive(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: it must be positive; 0.1 to 1 is usual")


def _require_draws(extra_noise: Tensor, logits: Tensor) -> None:
    if extra_noise.shape[1:] != logits.shape or not len(extra_noise):
        raise ValueError(
            f"extra_noise has shape {tuple(extra_noise.shape)}: (k, *logits.shape) with k >= 1 is needed, here "
            f"(k, {', '.join(map(str, logits.shape))})"
        )


def bernoulli_gumbel_softmax(logits: Tensor, noise: Tensor, *, temperature: float = 1.0, hard: bool = False) -> Tensor:
    """Binary concrete sample sigmoid((a - logit u) / temperature); with `hard`, the bit 1[u < sigmoid(a)] with that gradient.

    It is `gumbel_softmax` of the logits (0, a): the difference of two Gumbel variables is logistic, as -logit u is.
    temperature > 0: small is less biased and noisier. Reference: Maddison et al. 2017, Sec. 3.3; Jang et al. 2017.
    """
    _require_positive(temperature)
    u = noise.to(widen(logits).dtype)
    soft = torch.sigmoid((widen(logits) - u.log() + torch.log1p(-u)) / temperature).to(logits.dtype)
    return attach(bernoulli_sample(logits, noise), soft) if hard else soft


def bernoulli_gumbel_rao(logits: Tensor, noise: Tensor, extra_noise: Tensor, *, temperature: float = 1.0) -> Tensor:
    """`gumbel_rao` of a binary unit: the hard binary concrete sample, its gradient averaged over k draws of the noise that
    would have given the same bit. extra_noise: uniform, shape (k, *logits.shape)."""
    _require_positive(temperature)
    _require_draws(extra_noise, logits)
    h = bernoulli_sample(logits, noise)
    a = without_infinities(widen(logits))
    gap = conditional_logit(a.detach(), h, extra_noise.to(a.dtype))
    path = torch.sigmoid((gap + (a - a.detach())) / temperature).mean(0)
    return attach(h, path.to(logits.dtype))


def conditional_logit(logits: Tensor, sample: Tensor, noise: Tensor) -> Tensor:
    """a - logit u for u uniform among those that give the bit `sample`: below sigmoid(a), or above. Its sign is the bit's.

    For h = 1, u = p e with e uniform, so a - logit u = log((1 + (1 - e) e^a) / e) = log(1 + (1 - e) / e (1 + e^a)).
    """
    sign = 2 * sample - 1
    return sign * F.softplus(torch.log1p(-noise) - noise.log() - F.logsigmoid(-sign * logits))


def gumbel_rao(logits: Tensor, noise: Tensor, extra_noise: Tensor, *, temperature: float = 1.0) -> Tensor:
    """One-hot sample with the gradient of `gumbel_softmax(hard=True)`, averaged over k draws of the Gumbel noise given the
    sample: same expectation, less variance. Biased as Gumbel-softmax is.

    extra_noise: uniform, shape (k, *logits.shape). Given that category i won, the greatest perturbed logit is
    t = logsumexp(a) - log E_i and the others are -log(E_j e^-a_j + e^-t), E exponential. The gradient goes through
    softmax((a + G) / temperature) with the Gumbel noise G = perturbed logits - a held *constant*: straight-through
    Gumbel-softmax differentiates at given G, so E[d / d a | sample] is the average of that derivative over G | sample. Were G
    differentiated as a function of a, as the paper's text has it, the expectation would be another.
    Reference: Paulus, Maddison, Krause 2021, "Rao-Blackwellizing the straight-through Gumbel-softmax gradient estimator".
    """
    _require_positive(temperature)
    _require_draws(extra_noise, logits)
    hard = categorical_sample(logits, noise)
    wide = proper_logits(logits)
    perturbed = conditional_gumbel(wide.detach(), hard, extra_noise.to(wide.dtype))
    a = without_infinities(wide)
    lead = perturbed.amax(-1, keepdim=True)
    path = torch.softmax((perturbed - lead + (a - a.detach())) / temperature, -1).mean(0)
    return attach(hard, path.to(logits.dtype))


def conditional_gumbel(logits: Tensor, sample: Tensor, noise: Tensor) -> Tensor:
    """Gumbel-perturbed logits a + G given the one-hot `sample` that they lead to. Logits: finite or -inf; noise: uniform."""
    exponential = -torch.log1p(-noise)
    won = sample > 0.5
    top = torch.logsumexp(logits, -1, keepdim=True) - torch.where(won, exponential, 0).sum(-1, keepdim=True).log()
    others = -torch.logaddexp(exponential.log() - logits, -top)
    return torch.where(won, top, others)
