from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from dither import functional, kernels
from dither.functional import widen
from dither.nodes.checks import require_sampler
from dither.nodes.node import Kernel, Node, Sampler

_KERNELS: dict[Sampler, Kernel] = {
    functional.bernoulli_sample: kernels.bernoulli,
    functional.bernoulli_straight_through: partial(kernels.bernoulli, gradient="identity"),
    functional.bernoulli_straight_through_sigmoid: partial(kernels.bernoulli, gradient="sigmoid"),
    functional.bernoulli_straight_through_clipped: partial(kernels.bernoulli, gradient="clipped"),
}


class Bernoulli(Node):
    """Stochastic binary unit: `logits (batch, *units) -> {0, 1}`, P(1) = sigmoid(logits), same shape and dtype.

    >>> import torch, dither
    >>> node = dither.Bernoulli(values=(-1, 1))
    >>> node(torch.tensor([[-torch.inf, torch.inf]]))
    tensor([[-1.,  1.]])

    values: the outputs (off, on). Gradients follow the chain rule through low + (high - low) h.
    sampler: how it backpropagates with no estimator running, `(logits, noise) -> h`; default
        `functional.bernoulli_straight_through_sigmoid`.
    Source: Bengio 2013, Sec. 3.
    """

    discrete = True
    binary = True
    score_broadcasts = True
    former_order = ("values", "sampler")

    def __init__(
        self, *, values: tuple[float, float] = (0, 1), sampler: Sampler = functional.bernoulli_straight_through_sigmoid
    ) -> None:
        super().__init__()
        if not isinstance(values, (tuple, list)):
            raise TypeError(
                f"values is {values!r}: two different outputs (off, on) are needed, such as (0, 1); a probability p is given "
                "by logits, dither.Bernoulli()(torch.logit(p)), and the number of units is theirs too"
            )
        if len(values) != 2 or values[0] == values[1]:
            raise ValueError(f"values is {values!r}: two different outputs (off, on) are needed, such as (0, 1)")
        require_sampler(sampler)
        self.values = values
        self.sampler = sampler

    def _affine(self, h: Tensor) -> Tensor:
        low, high = self.values
        return h if (low, high) == (0, 1) else low + (high - low) * h

    def propagate(self, logits: Tensor, noise: Tensor, sampler: Sampler | None = None) -> Tensor:
        return self._affine((sampler or self.sampler)(logits, noise))

    def kernel(self, sampler: Sampler | None) -> Kernel | None:
        kernel = _KERNELS.get(sampler or self.sampler)
        if kernel is None or self.values == (0, 1):
            return kernel
        return lambda logits, key: self._affine(kernel(logits, key))

    def sampling_kernel(self) -> Kernel:
        return kernels.bernoulli

    def mean(self, logits: Tensor) -> Tensor:
        return self._affine(torch.sigmoid(widen(logits)).to(logits.dtype))

    def mode(self, logits: Tensor) -> Tensor:
        return self._affine(torch.add((logits > 0).to(logits.dtype), torch.sigmoid(logits), alpha=0))  # carries NaN

    def mean_vjp(self, logits: Tensor, gradient: Tensor) -> Tensor:
        p = torch.sigmoid(widen(logits.detach()))
        return p * (1 - p) * ((self.values[1] - self.values[0]) * gradient)

    def sample(self, logits: Tensor, noise: Tensor) -> Tensor:
        return functional.bernoulli_sample(logits, noise)

    def output(self, logits: Tensor, sample: Tensor) -> Tensor:
        return self._affine(sample)

    def log_prob(self, logits: Tensor, sample: Tensor) -> Tensor:
        return functional.bernoulli_log_prob(logits, sample)

    def score(self, logits: Tensor, sample: Tensor) -> Tensor:
        return sample - torch.sigmoid(widen(logits.detach()))

    def probabilities(self, logits: Tensor) -> Tensor:
        a = widen(logits)
        return torch.stack((torch.sigmoid(a), torch.sigmoid(-a)), -1)

    def outcomes(self, logits: Tensor) -> Tensor:
        # 1 first: then the inverse of the cumulative probability is 1[u < sigmoid(a)], the sampler's own rule
        return torch.tensor((1.0, 0.0), dtype=logits.dtype, device=logits.device)

    def relaxation(self, logits: Tensor, noise: Tensor) -> Tensor:
        """a - logit u."""
        u = noise.to(widen(logits).dtype)
        return widen(logits) - u.log() + torch.log1p(-u)

    def relaxation_given(self, logits: Tensor, sample: Tensor, noise: Tensor) -> Tensor:
        """softplus(softplus(a) - logit v) for 1, -softplus(softplus(-a) - logit v) for 0 (Tucker et al. 2017, App. C)."""
        return functional.conditional_logit(widen(logits), sample, noise.to(widen(logits).dtype))

    def soften(self, relaxed: Tensor, temperature: float) -> Tensor:
        return torch.sigmoid(relaxed / temperature)

    def partition(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        a = widen(logits)
        p = torch.sigmoid(a.detach())
        return torch.stack(((1 + p) / 2, p / 2)), torch.stack((F.logsigmoid(-a), F.logsigmoid(a)))
