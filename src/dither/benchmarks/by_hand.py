"""The estimators of the benchmark `overhead` written by hand in plain torch, for one autoencoder with one binary layer.

They are what one would write for this one net: the encoder once, K samples from one call of torch.rand in a leading
dimension, one decoder call for all of them, a surrogate loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dither import noise
from dither.benchmarks.timing import Step
from dither.models.vae import BinaryVAE

Uniform = Callable[[int], Tensor]  # samples -> uniforms (samples, batch, latents)
DECAY = 0.99  # of the running mean


def cleared(model: torch.nn.Module, step: Step) -> Step:
    """The step, with gradients that start from None."""

    def run() -> None:
        for parameter in model.parameters():
            parameter.grad = None
        step()

    return run


def torch_uniform(x: Tensor, latents: int) -> Uniform:
    return lambda samples: torch.rand(samples, len(x), latents, dtype=torch.float32, device="cpu")


def keyed_uniform(x: Tensor, latents: int) -> Uniform:
    """dither's noise as its estimators take it: a seed from torch's generator, and a key for each sample."""

    def uniform(samples: int) -> Tensor:
        seed, shape = noise.draw_seed(), (len(x), latents)
        one = torch.func.vmap(lambda k: noise.uniform(seed, 0, k, shape, x), randomness="same")
        return one(torch.arange(samples, dtype=torch.int64, device="cpu"))

    return uniform


class Hand:
    """What the hand-written steps share: the net, its batch, and where uniforms come from."""

    def __init__(self, model: BinaryVAE, x: Tensor, samples: int, uniform: Uniform) -> None:
        self.model, self.x, self.samples, self.uniform = model, x, samples, uniform
        self.average: tuple[Tensor, float] | None = None  # weighted sum of the costs so far, and the sum of the weights

    def encoded(self) -> tuple[Tensor, Tensor]:
        """Logits, and KL(q || p) per example."""
        logits = self.model.encoder(self.x)
        kl = torch.sigmoid(logits) * logits - F.softplus(logits) + math.log(2)
        return logits, kl.sum(1)

    def distortion(self, z: Tensor) -> Tensor:
        """z (samples, batch, latents) -> (samples, batch)."""
        logits = self.model.decoder(z)
        return ((1 - self.x) * logits).sum(-1) - F.logsigmoid(logits).sum(-1)


def _score(hand: Hand, baseline: Callable[[Tensor], Tensor | float]) -> Tensor:
    logits, kl = hand.encoded()
    z = (hand.uniform(hand.samples) < logits.sigmoid()).to(logits.dtype)
    costs = kl + hand.distortion(z)
    log_q = (z * logits - F.softplus(logits)).sum(-1)
    fixed = costs.detach()
    return (costs + (fixed - baseline(fixed)) * log_q).mean()


def _leave_one_out(hand: Hand) -> Tensor:
    return _score(hand, lambda costs: (costs.sum(0) - costs) / (hand.samples - 1))


def _running_mean(hand: Hand) -> Tensor:
    def baseline(costs: Tensor) -> Tensor | float:
        total, weight = hand.average or (torch.zeros((), dtype=torch.float32, device="cpu"), 0.0)
        hand.average = (DECAY * total + (1 - DECAY) * costs.mean(), DECAY * weight + (1 - DECAY))
        return total / weight if weight else 0.0

    return _score(hand, baseline)


def _disarm(hand: Hand) -> Tensor:
    logits, kl = hand.encoded()
    p = logits.sigmoid().detach()
    u = hand.uniform(hand.samples // 2)
    z = torch.cat((u < p, 1 - u < p)).to(logits.dtype)
    costs = kl + hand.distortion(z)
    (b, antithetic), (f, f_antithetic) = z.chunk(2), costs.detach().chunk(2)
    gradient = 0.5 * (f - f_antithetic).unsqueeze(-1) * (b - antithetic) * torch.maximum(p, 1 - p)
    return costs.mean() + (gradient.mean(0) * logits).sum() / len(logits)


def _straight_through(hand: Hand) -> Tensor:
    logits, kl = hand.encoded()
    p = logits.sigmoid()
    z = (hand.uniform(hand.samples) < p).to(logits.dtype) + (p - p.detach())
    return (kl + hand.distortion(z)).mean()


HAND: dict[str, Callable[[Hand], Tensor]] = {
    "score-function:leave-one-out": _leave_one_out,
    "score-function:mean": _running_mean,
    "disarm": _disarm,
    "straight-through": _straight_through,
}
