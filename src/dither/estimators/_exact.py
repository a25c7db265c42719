from __future__ import annotations

import torch
from torch import Tensor, nn

from dither import exact
from dither.estimators.core.auxiliary import WithAux
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.execution import require_called
from dither.estimators.core.mappable import Vectorize
from dither.estimators.core.nesting import refuse_inner_losses, refuse_shared, returned
from dither.estimators.core.pooling import pools
from dither.estimators.core.shapes import batch_mean
from dither.estimators.core.site import Closure, check_costs, checked_cost
from dither.nodes import taken_over


class Exact(Estimator):
    """The exact gradient, by summing over all joint outcomes of the nodes. For small nets, and to evaluate the others.

    >>> import torch, dither
    >>> node, logits = dither.Bernoulli(), torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    >>> estimator = dither.Exact(node)
    >>> loss = estimator(lambda: node(logits).prod(1))  # 1 if all three are: with probability 1/8
    >>> loss.detach(), estimator.evaluations
    (tensor(0.1250, dtype=torch.float64), 8)
    >>> torch.autograd.grad(loss, logits)[0]
    tensor([[0.0625, 0.0625, 0.0625]], dtype=torch.float64)

    Estimates   d E[L] / d theta without error (continuous nodes: to the accuracy of their quadrature).
    Formula     d / d theta of the sum over outcomes h of P(h; theta) L(h; theta)                                    (1)
    Requires    one evaluation of the closure on every outcome at once: 2^n for n binary units per example.
    Raises      exact.TooManyOutcomes, with the count, beyond max_outcomes.
    """

    unbiased = True
    reference = "enumeration"
    composable = False
    credits_batches = False
    keeps_graph = False
    records = False
    oracle = exact.Oracle(enumerates=True)
    former_order = ("max_outcomes",)

    def __init__(self, model: nn.Module, *, max_outcomes: int = exact.MAX_OUTCOMES, vectorize: Vectorize = "auto") -> None:
        super().__init__(model, vectorize=vectorize)
        self.max_outcomes = max_outcomes
        self.outcomes = 0

    @property
    def evaluations(self) -> int:
        """The number of joint outcomes, known after the first call."""
        return self.outcomes or 1

    def estimate(self, closure: Closure) -> Tensor:
        self.calls += 1
        refuse_shared(type(self).__name__, self.nodes)
        pools(self, closure)
        # the sum of (1), whose graph is the gradient
        result, failure = (
            self.mappable.tried(self, closure, lambda: self._sum(closure, True)) if self.vectorize else (None, None)
        )
        result = self._sum(closure, False) if result is None else result
        if failure is not None:
            failure.tell("Exact", "the runs")
        require_called(result.calls > 0, self)
        self.outcomes = result.outcomes
        if isinstance(closure, WithAux) and closure.found:  # of one sample: the tensors of outcomes are gone
            with torch.no_grad(), taken_over(self.nodes.values(), only=type(self).__name__):
                closure()
            closure.give_last()
        check_costs(
            result.cost.unsqueeze(0), [], f"call {self.calls} of Exact", torch.zeros((), dtype=torch.float32, device="cpu")
        )
        return returned(type(self).__name__, batch_mean(result.cost.sum(-1)))

    def _sum(self, closure: Closure, vectorize: bool) -> exact.Expectation:
        return exact.expectation(self.nodes, lambda: self._cost(closure), max_outcomes=self.max_outcomes, vectorize=vectorize)

    def _cost(self, closure: Closure) -> Tensor:
        cost = checked_cost(closure())
        refuse_inner_losses(cost)
        return cost
