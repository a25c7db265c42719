from __future__ import annotations

import math

import torch
from torch import Tensor

from dither import functional, kernels
from dither.functional import proper_logits, widen
from dither.kernels import Key
from dither.nodes.checks import is_concrete, require_sampler
from dither.nodes.node import Kernel, Node, Sampler


class Categorical(Node):
    """Stochastic one-of-K unit: `logits (batch, *units, K) -> one-hot`, P = softmax over the last dimension.

    >>> import torch, dither
    >>> dither.Categorical()(torch.tensor([[0.0, torch.inf, 0.0]]))
    tensor([[0., 1., 0.]])

    A logit of -inf forbids its category; a unit whose logits are all -inf is a ValueError.
    sampler: how it backpropagates with no estimator running, `(logits, noise) -> one-hot`; default
        `functional.categorical_straight_through`.
    """

    discrete = True
    elementwise = False
    one_hot = True
    score_broadcasts = True
    straight_through = staticmethod(functional.categorical_straight_through)
    former_order = ("sampler",)

    def __init__(self, *, sampler: Sampler = functional.categorical_straight_through) -> None:
        super().__init__()
        require_sampler(sampler, "; the number of categories is the size of the logits' last dimension")
        self.sampler = sampler

    def forward(self, logits: Tensor) -> Tensor:
        if isinstance(logits, Tensor) and (logits.dim() < 2 or logits.shape[-1] < 2):
            raise ValueError(
                f"Categorical: logits has shape {tuple(logits.shape)}; (batch, *units, categories) with at least two "
                "categories is needed. For one binary unit use Bernoulli"
            )
        return super().forward(logits)

    def propagate(self, logits: Tensor, noise: Tensor, sampler: Sampler | None = None) -> Tensor:
        return _possible(logits, (sampler or self.sampler)(logits, noise))

    def kernel(self, sampler: Sampler | None) -> Kernel | None:
        return _KERNELS.get(sampler or self.sampler)

    def sampling_kernel(self) -> Kernel:
        return _sample

    def mean(self, logits: Tensor) -> Tensor:
        return _possible(logits, torch.softmax(proper_logits(logits), -1).to(logits.dtype))

    def mode(self, logits: Tensor) -> Tensor:
        index = logits.argmax(-1, keepdim=True)
        hard = (index == torch.arange(logits.shape[-1], device=logits.device, dtype=torch.int64)).to(logits.dtype)
        return torch.add(hard, self.mean(logits), alpha=0)  # carries NaN

    def mean_vjp(self, logits: Tensor, gradient: Tensor) -> Tensor:
        p = torch.softmax(proper_logits(logits.detach()), -1)
        return p * (gradient - (p * gradient).sum(-1, keepdim=True))

    def unit_shape(self, logit_shape: tuple[int, ...]) -> tuple[int, ...]:
        return logit_shape[:-1]

    def sample(self, logits: Tensor, noise: Tensor) -> Tensor:
        return _possible(logits, functional.categorical_sample(logits, noise))

    def log_prob(self, logits: Tensor, sample: Tensor) -> Tensor:
        return functional.categorical_log_prob(logits, sample)

    def score(self, logits: Tensor, sample: Tensor) -> Tensor:
        return sample - torch.softmax(proper_logits(logits.detach()), -1)

    def probabilities(self, logits: Tensor) -> Tensor:
        return torch.softmax(proper_logits(logits), -1)

    def outcomes(self, logits: Tensor) -> Tensor:
        return torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device)

    def indicator(self, logits: Tensor, sample: Tensor) -> Tensor:
        return sample

    def sample_of(self, logits: Tensor, indicator: Tensor) -> Tensor:
        return indicator

    def relaxation(self, logits: Tensor, noise: Tensor) -> Tensor:
        """a + Gumbel(u)."""
        return proper_logits(logits) + functional.gumbel(noise)

    def relaxation_given(self, logits: Tensor, sample: Tensor, noise: Tensor) -> Tensor:
        """-log E_k of the sample, -log(E_j / p_j + E_k) of the others, E exponential (Tucker et al. 2017, App. C)."""
        log_p = torch.log_softmax(proper_logits(logits), -1)
        return functional.conditional_gumbel(log_p, sample, noise.to(widen(logits).dtype))

    def soften(self, relaxed: Tensor, temperature: float) -> Tensor:
        return functional.tempered_softmax(relaxed, temperature)

    def partition(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        log_weight = torch.log_softmax(proper_logits(logits), -1).movedim(-1, 0)
        # u = 0 is infinite Gumbel noise: that category wins. A sampler that uses more of the noise than the winner
        # (Gumbel-softmax) becomes NaN, which the oracle reports, instead of a wrong expectation.
        count = logits.shape[-1]
        winner = torch.eye(count, dtype=torch.bool, device=logits.device).view(count, *[1] * (logits.dim() - 1), count)
        # A forbidden category has weight 0, and its place takes another sample: -inf + inf would have none.
        noise = torch.where(winner & (logits != -torch.inf), 0.0, log_weight.new_full((), 0.5))
        return noise, log_weight


def _possible(logits: Tensor, output: Tensor) -> Tensor:
    """The output, unless a unit has none because all its logits are -inf. Kernels that draw the noise ask it themselves."""
    # The sum says at once whether any unit has none. Elsewhere its NaN is seen in the cost, like that of a NaN logit.
    if output.is_cpu and is_concrete(output):
        with torch._C.DisableTorchFunction():  # no part of what a closure does (`estimators.core.structure`)
            if math.isnan(output.detach().sum()):
                kernels.require_possible(logits, logits.shape[-1])
    return output


def _sample(logits: Tensor, key: Key) -> Tensor:
    if logits.dtype != torch.float64:
        return kernels.categorical(logits, key)
    # In float64 the kernel takes the first of several +inf, and of several -inf: as in functional.categorical_sample.
    wide = proper_logits(logits.detach())
    return torch.add(kernels.categorical(wide, key), torch.softmax(wide, -1), alpha=0)  # + 0 p carries NaN


def _straight_through(logits: Tensor, key: Key) -> Tensor:
    path = torch.softmax(proper_logits(logits), -1).to(logits.dtype)
    return functional.attach(_sample(logits, key), path)


_KERNELS: dict[Sampler, Kernel] = {
    functional.categorical_sample: _sample,
    functional.categorical_straight_through: _straight_through,
}
