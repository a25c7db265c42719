from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dither import functional
from dither.nodes.node import Node, Sampler


class Binomial(Node):
    """How many of `count` coins fall: `logits (batch, *units) -> {0, ..., count}`, each coin with P = sigmoid(logits)."""

    discrete = True

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def propagate(self, logits: Tensor, noise: Tensor, sampler: Sampler | None = None) -> Tensor:
        if sampler is not None:
            return sampler(logits, noise)
        return functional.attach(self.sample(logits, noise), self.mean(logits))

    def mean(self, logits: Tensor) -> Tensor:
        return self.count * torch.sigmoid(logits)

    def mode(self, logits: Tensor) -> Tensor:
        return torch.floor((self.count + 1) * torch.sigmoid(logits)).clamp(max=self.count)

    def sample(self, logits: Tensor, noise: Tensor) -> Tensor:
        below = self.probabilities(logits.detach()).cumsum(-1)[..., :-1]
        count = (noise.unsqueeze(-1) >= below).sum(-1)
        return torch.add(count, self.mean(logits.detach()), alpha=0)  # carries NaN

    def log_prob(self, logits: Tensor, sample: Tensor) -> Tensor:
        n, ways = torch.tensor(float(self.count), dtype=logits.dtype), torch.lgamma
        coefficient = ways(n + 1) - ways(sample + 1) - ways(n - sample + 1)
        return coefficient + sample * F.logsigmoid(logits) + (n - sample) * F.logsigmoid(-logits)

    def score(self, logits: Tensor, sample: Tensor) -> Tensor:
        return sample - self.count * torch.sigmoid(logits.detach())

    def probabilities(self, logits: Tensor) -> Tensor:
        return self.log_prob(logits.unsqueeze(-1), self.outcomes(logits)).exp()

    def outcomes(self, logits: Tensor) -> Tensor:
        return torch.arange(self.count + 1, dtype=logits.dtype, device=logits.device)

    def partition(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        p = self.probabilities(logits).movedim(-1, 0)
        return (p.cumsum(0) - p / 2).detach(), p.log()
