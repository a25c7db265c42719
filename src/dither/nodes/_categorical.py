from __future__ import annotations

import torch
from torch import Tensor

from dither import functional
from dither.functional._categorical import _proper
from dither.nodes._node import Node, Sampler, sampled
from dither.noise import Keyed


class Categorical(Node):
    """Stochastic one-of-K unit: `logits (batch, *units, K) -> one-hot`, P = softmax over the last dimension.

    >>> import torch, dither
    >>> dither.Categorical()(torch.tensor([[0.0, torch.inf, 0.0]]))
    tensor([[0., 1., 0.]])

    A logit of -inf forbids its category. sampler: how it back-propagates with no estimator running,
    `(logits, noise) -> one-hot`; default `functional.categorical_straight_through`.
    """

    discrete = True
    takes_keys = True
    elementwise = False

    def __init__(self, sampler: Sampler = functional.categorical_straight_through) -> None:
        super().__init__()
        self.sampler = sampler

    def forward(self, logits: Tensor) -> Tensor:
        if isinstance(logits, Tensor) and (logits.dim() < 2 or logits.shape[-1] < 2):
            raise ValueError(
                f"Categorical: logits has shape {tuple(logits.shape)}; (batch, *units, categories) with at least two "
                "categories is needed. For one binary unit use Bernoulli"
            )
        return super().forward(logits)

    def propagate(self, logits: Tensor, noise: Tensor | Keyed, sampler: Sampler | None = None) -> Tensor:
        return sampled(sampler or self.sampler, logits, noise)

    def mean(self, logits: Tensor) -> Tensor:
        return torch.softmax(_proper(logits), -1).to(logits.dtype)

    def mode(self, logits: Tensor) -> Tensor:
        index = logits.argmax(-1, keepdim=True)
        hard = (index == torch.arange(logits.shape[-1], device=logits.device)).to(logits.dtype)
        return torch.add(hard, self.mean(logits), alpha=0)  # carries NaN

    def outcome(self, logits: Tensor, noise: Tensor | Keyed) -> Tensor:
        return functional.categorical_sample(logits, noise)

    def emit(self, logits: Tensor, outcome: Tensor) -> Tensor:
        return outcome

    def log_prob(self, logits: Tensor, outcome: Tensor) -> Tensor:
        return functional.categorical_log_prob(logits, outcome)

    def score(self, logits: Tensor, outcome: Tensor) -> Tensor:
        return outcome - torch.softmax(_proper(logits.detach()), -1)

    def score_weight(self, logits: Tensor, outcome: Tensor) -> Tensor:
        return self.score(logits, outcome).square().sum(-1)

    def cells(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        log_weight = torch.log_softmax(_proper(logits), -1).movedim(-1, 0)
        # u = 0 is infinite Gumbel noise: that category wins. A sampler that uses more of the noise than the winner
        # (Gumbel-softmax) becomes NaN, which the oracle reports, instead of a wrong expectation.
        count = logits.shape[-1]
        winner = torch.eye(count, dtype=torch.bool, device=logits.device).view(count, *[1] * (logits.dim() - 1), count)
        noise = torch.where(winner, 0.0, 0.5).expand(count, *logits.shape)
        return noise.to(log_weight.dtype), log_weight
