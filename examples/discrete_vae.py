"""A variational autoencoder whose code of a digit is 32 bits.

The encoder gives each bit a probability, the bits are sampled, and the decoder sees nothing but them. The cost of an image is
the negative evidence lower bound: cross-entropy of its 64 binary pixels, plus the divergence of the code from the prior. How
the encoder learns through hard bits is the estimator's choice. Look at `elbo`, the bound of held-out digits in nats.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

import dither

leave_one_out = partial(dither.ScoreFunction, baseline="leave-one-out", samples=4)
ESTIMATORS = {"straight-through": dither.StraightThrough, "leave-one-out": leave_one_out, "disarm": dither.DisARM}


class AutoEncoder(nn.Module):
    def __init__(self, node, bits, hidden):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, hidden), nn.LeakyReLU(), nn.Linear(hidden, bits))
        self.code = node()
        self.decoder = nn.Sequential(nn.Linear(bits, hidden), nn.LeakyReLU(), nn.Linear(hidden, 64))
        self.prior = nn.Parameter(torch.zeros(bits))

    def forward(self, x):
        logits = self.encoder(x - 0.5)
        code = self.code(logits)
        return logits, code, F.binary_cross_entropy_with_logits(self.decoder(2 * code - 1), x, reduction="none").sum(-1)

    def negative_elbo(self, x):
        logits, _, reconstruction = self(x)
        divergence = torch.sigmoid(logits) * (logits - self.prior) + F.logsigmoid(-logits) - F.logsigmoid(-self.prior)
        return reconstruction + divergence.sum(-1)

    def log_weight(self, x):
        """log p(x, code) / q(code | x) of a sampled code."""
        logits, code, reconstruction = self(x)
        log_p, log_q = (
            dither.functional.bernoulli_log_prob(self.prior, code),
            dither.functional.bernoulli_log_prob(logits, code),
        )
        return (log_p - log_q).sum(-1) - reconstruction


def build(node=dither.Bernoulli, bits=32, hidden=256):
    return AutoEncoder(node, bits, hidden)


def train(make=leave_one_out, *, node=dither.Bernoulli, steps=3000, seed=0, lr=2e-3, part="test"):
    torch.manual_seed(seed)
    digits = dither.data.digits()
    x, held_out = ((split.x > 0.5).float() for split in (digits.train, getattr(digits, part)))
    net = build(node)
    estimator = make(net)  # the only line that changes between estimators
    optimizer = torch.optim.Adam(net.parameters(), lr)
    for _ in range(steps):
        batch = x[torch.randint(len(x), (128,))]
        optimizer.zero_grad()
        estimator(lambda: net.negative_elbo(batch)).backward()
        optimizer.step()
    with torch.no_grad():
        elbo = -torch.stack([net.negative_elbo(held_out) for _ in range(20)]).mean()
        weights = torch.stack([net.log_weight(held_out) for _ in range(100)])
        return {"elbo": float(elbo), "tighter_bound": float((weights.logsumexp(0) - torch.tensor(100).log()).mean())}


if __name__ == "__main__":
    print(train())
