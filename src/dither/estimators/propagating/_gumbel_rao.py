from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from dither import functional
from dither.estimators.core.call import Call
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.mappable import Vectorize
from dither.exact import Oracle
from dither.nodes import Node

_GIVEN_SAMPLE = 1  # the stream of noise that is drawn given the sample


class GumbelRao(Estimator):
    """Gumbel-Rao: straight-through Gumbel-softmax, averaged over the noise that would have given the same sample.

    >>> import torch, dither
    >>> node, logits = dither.Bernoulli(), torch.zeros(1000, 1, dtype=torch.float64, requires_grad=True)
    >>> estimators = dither.GumbelSoftmax(node), dither.GumbelRao(node, draws=20), dither.GumbelRao(node, draws=1000)
    >>> for estimator in estimators:
    ...     _ = torch.manual_seed(0)  # the same samples
    ...     gradient = 1000 * torch.autograd.grad(estimator(lambda: node(logits).sum(1)), logits)[0]
    ...     round(gradient.mean().item(), 2), round(gradient.std().item(), 2), estimator.evaluations
    (0.22, 0.18, 1)
    (0.22, 0.04, 1)
    (0.21, 0.01, 1)

    Estimates   d E[L] / d theta, with the expectation of GumbelSoftmax at this temperature (for one layer of units), and less
                variance: the average is over noise alone, and costs no evaluation of the closure. As the temperature goes to
                0 with many draws it becomes ReinMax at temperature 1 (ZGR), which needs neither.
    Formula     d L / d a := mean over k draws of (d softmax((a + G_k) / temperature) / d a)' d L / d z      (1; Sec. 3)
                with the Gumbel noise G_k given z, held constant.
    Requires    samples evaluations of the closure; a cost differentiable in the units' outputs; nodes with a relaxation.
    draws       k, 10 to 100 are usual; memory of k times the logits.
    Oracles     dither.exact sees the outcomes exactly and the draws as fixed quadrature nodes, evenly spread.
    Reference   Paulus, Maddison, Krause 2021, Sec. 3; Shekhovtsov 2023 for the limit.
    """

    unbiased = False
    credits_examples = False
    reference = "Paulus, Maddison, Krause 2021"
    requires = ("relaxation",)
    former_order = ("temperature", "draws", "samples")

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float = 0.5,
        draws: int = 20,
        samples: int = 1,
        vectorize: Vectorize = "auto",
        repeated: bool = False,
    ) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize, repeated=repeated)
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}: it must be positive; 0.1 to 1 is usual")
        if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
            raise ValueError(f"draws is {draws!r}: it must be a positive integer, such as 20")
        self.temperature = temperature
        self.draws = draws

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        return {f"{cls.__name__}-{k}": partial(cls, samples=k) for k in (1, 2)}

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        node, logits = call.node, call.logits
        if not node.discrete:
            return call.propagate(), None
        hard, a = call.sample(), functional.without_infinities(functional.widen(logits))
        wide = logits.unsqueeze(1).expand(logits.shape[0], self.draws, *logits.shape[1:])
        extra = replace(call, logits=wide).noise(stream=_GIVEN_SAMPLE).movedim(1, 0).to(a.dtype)
        # the noise given the sample is held constant: see functional.gumbel_rao
        relaxed = node.relaxation_given(logits.detach(), hard, extra) + (a - a.detach())
        path = node.soften(relaxed, self.temperature).mean(0)  # (1)
        return call.output(functional.attach(hard, path.to(logits.dtype))), None


# --- for oracles ----------------------------------------------------------------------------------------------------------
def _partition(estimator: GumbelRao, node: Node, logits: Tensor, stream: int) -> tuple[Tensor, Tensor] | None:
    """One part, a lattice of the golden ratio over draws and categories. logits: with the draws in the second dimension."""
    if stream != _GIVEN_SAMPLE or not node.discrete:
        return None
    units = node.unit_shape(tuple(logits.shape[2:]))
    width = logits.shape[2 + len(units) :].numel()
    steps = torch.arange(1, estimator.draws + 1, dtype=torch.float64, device="cpu").unsqueeze(-1)
    ratios = 0.618033988749895 ** torch.arange(1, width + 1, dtype=torch.float64, device="cpu")
    lattice = (0.5 + steps * ratios) % 1
    shape = (1, 1, estimator.draws, *[1] * len(units), *logits.shape[2 + len(units) :])
    noise = lattice.reshape(shape).expand(1, *logits.shape).to(logits)
    return noise, torch.zeros((1, logits.shape[0], estimator.draws, *units), dtype=logits.dtype, device=logits.device)


GumbelRao.oracle = Oracle(partition=_partition)
