from __future__ import annotations

from torch import Tensor

from dither.estimators.core.call import Call
from dither.estimators.core.estimator import Estimator


class Deterministic(Estimator):
    """Plain back-propagation through the network of means: what training without hard decisions would do.

    >>> import torch, dither
    >>> node, logits = dither.Bernoulli(), torch.zeros(1, 2, dtype=torch.float64)
    >>> cost = lambda: node(logits).square().sum(1)
    >>> round(dither.Deterministic(node)(cost).item(), 4)  # E[h]^2 of two units
    0.5
    >>> round(dither.Exact(node)(cost).item(), 4)  # E[h^2]
    1.0

    Estimates   d L(E[h]) / d theta, the gradient of another network's cost, in which every node gives its mean; biased
                for the stochastic one, without variance. The yardstick that stochastic training is compared with.
    Requires    one evaluation of the closure; a cost differentiable in the nodes' outputs.
    """

    unbiased = False
    credits_examples = False
    stochastic = False
    reference = "plain back-propagation"

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        return call.node.mean(call.logits), None
