from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from dither import functional
from dither.estimators._call import Call
from dither.estimators._estimator import Estimator
from dither.nodes import Bernoulli, Categorical, Node

_GIVEN_SAMPLE = 1  # the stream of noise that is drawn given the sample


class GumbelRao(Estimator):
    """Gumbel-Rao: straight-through Gumbel-softmax, averaged over the noise that would have given the same sample.

    Estimates   d E[L] / d theta, with the expectation of GumbelSoftmax at this temperature (for one layer of units), and less
                variance: the average is over noise alone, and costs no evaluation of the closure. As the temperature goes to
                0 with many draws it becomes ReinMax at temperature 1 (ZGR), which needs neither.
    Formula     d L / d a := mean over k draws of (d softmax((a + G_k) / temperature) / d a)' d L / d z, with G_k given z.
    Requires    samples evaluations of the closure; a cost differentiable in the units' outputs. Bernoulli and Categorical.
    draws       k, 10 to 100 are usual; memory of k times the logits.
    Oracles     dither.exact sees the outcomes exactly and the draws as fixed points, evenly spread.
    Reference   Paulus, Maddison, Krause 2021, Sec. 3; Shekhovtsov 2023 for the limit.
    """

    unbiased = False
    reference = "Paulus, Maddison, Krause 2021"
    supports = (Bernoulli, Categorical)

    def __init__(
        self,
        model: nn.Module,
        temperature: float = 0.5,
        draws: int = 20,
        samples: int = 1,
        *,
        vectorize: bool = True,
    ) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize)
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}: it must be positive; 0.1 to 1 is usual")
        if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
            raise ValueError(f"draws is {draws!r}: it must be a positive integer, such as 20")
        self.temperature = temperature
        self.draws = draws

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        return {f"{cls.__name__}-{k}": partial(cls, samples=k) for k in (1, 2)}

    def answer(self, call: Call) -> tuple[Tensor, Tensor | None]:
        node, logits = call.node, call.logits
        if not isinstance(node, (Bernoulli, Categorical)):
            return node.propagate(logits, call.noise()), None
        wide = logits.unsqueeze(1).expand(logits.shape[0], self.draws, *logits.shape[1:])
        extra = replace(call, logits=wide).noise(stream=_GIVEN_SAMPLE).movedim(1, 0)
        rao = functional.bernoulli_gumbel_rao if isinstance(node, Bernoulli) else functional.gumbel_rao
        sampler = partial(rao, extra_noise=extra, temperature=self.temperature)
        return node.propagate(logits, call.noise(), sampler), None

    def cells(self, node: Node, logits: Tensor, stream: int) -> tuple[Tensor, Tensor] | None:
        if stream != _GIVEN_SAMPLE or not isinstance(node, (Bernoulli, Categorical)):
            return None
        # One cell: a lattice of the golden ratio over draws and categories.
        width = logits.shape[-1] if isinstance(node, Categorical) else 1
        steps = torch.arange(1, self.draws + 1, dtype=torch.float64).unsqueeze(-1)
        ratios = 0.618033988749895 ** torch.arange(1, width + 1, dtype=torch.float64)
        lattice = (0.5 + steps * ratios) % 1
        units = logits.shape[2:-1] if isinstance(node, Categorical) else logits.shape[2:]
        shape = (1, 1, self.draws, *[1] * len(units), *([width] if isinstance(node, Categorical) else []))
        noise = lattice.reshape(shape).expand(1, *logits.shape).to(logits)
        weight = torch.zeros((1, logits.shape[0], self.draws, *units), dtype=logits.dtype, device=logits.device)
        return noise, weight
