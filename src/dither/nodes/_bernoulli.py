from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dither import functional
from dither.functional._bernoulli import widen
from dither.nodes._node import Node, Sampler, sampled
from dither.noise import Keyed


class Bernoulli(Node):
    """Stochastic binary unit: `logits (batch, *units) -> {0, 1}`, P(1) = sigmoid(logits), same shape and dtype.

    >>> import torch, dither
    >>> node = dither.Bernoulli(values=(-1, 1))
    >>> node(torch.tensor([[-torch.inf, torch.inf]]))
    tensor([[-1.,  1.]])

    values: the outputs (off, on). Gradients follow the chain rule through low + (high - low) h.
    sampler: how it back-propagates with no estimator running, `(logits, noise) -> h`; default
        `functional.bernoulli_straight_through_sigmoid`.
    Source: Bengio 2013, Sec. 3.
    """

    discrete = True
    takes_keys = True

    def __init__(
        self, values: tuple[float, float] = (0, 1), sampler: Sampler = functional.bernoulli_straight_through_sigmoid
    ) -> None:
        super().__init__()
        if len(values) != 2 or values[0] == values[1]:
            raise ValueError(f"values is {values!r}: two different outputs (off, on) are needed, such as (0, 1)")
        self.values = values
        self.sampler = sampler

    def extra_repr(self) -> str:
        return "" if self.values == (0, 1) else f"values={self.values}"

    def _affine(self, h: Tensor) -> Tensor:
        low, high = self.values
        return h if (low, high) == (0, 1) else low + (high - low) * h

    def propagate(self, logits: Tensor, noise: Tensor | Keyed, sampler: Sampler | None = None) -> Tensor:
        return self._affine(sampled(sampler or self.sampler, logits, noise))

    def mean(self, logits: Tensor) -> Tensor:
        return self._affine(torch.sigmoid(widen(logits)).to(logits.dtype))

    def mode(self, logits: Tensor) -> Tensor:
        return self._affine(torch.add((logits > 0).to(logits.dtype), torch.sigmoid(logits), alpha=0))  # carries NaN

    def outcome(self, logits: Tensor, noise: Tensor | Keyed) -> Tensor:
        return functional.bernoulli_sample(logits, noise)

    def emit(self, logits: Tensor, outcome: Tensor) -> Tensor:
        return self._affine(outcome)

    def log_prob(self, logits: Tensor, outcome: Tensor) -> Tensor:
        return functional.bernoulli_log_prob(logits, outcome)

    def score(self, logits: Tensor, outcome: Tensor) -> Tensor:
        return outcome - torch.sigmoid(widen(logits.detach()))

    def score_weight(self, logits: Tensor, outcome: Tensor) -> Tensor:
        return self.score(logits, outcome).square()

    def cells(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        a = widen(logits)
        p = torch.sigmoid(a.detach())
        return torch.stack(((1 + p) / 2, p / 2)), torch.stack((F.logsigmoid(-a), F.logsigmoid(a)))
