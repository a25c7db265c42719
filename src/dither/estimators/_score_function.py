from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from dither.estimators._baselines import Baseline, Learned, make_baseline
from dither.estimators._estimator import Estimator
from dither.estimators._site import Site
from dither.functional import score_function_surrogate
from dither.functional._bernoulli import widen
from dither.nodes import Node


class ScoreFunction(Estimator):
    """Score-function (REINFORCE) gradient, with a choice of baselines.

    Estimates   d E[L] / d theta for every parameter, through every discrete node; unbiased. Continuous nodes (NoisyReLU,
                ...) keep back-propagation, which is unbiased for them.
    Formula     sum_i (L - b_i) d log P(h_i) / d theta + d L / d theta; for a binary unit the first is (h_i - sigmoid(a_i))
                (L - b_i) times d a_i / d theta. Mean over K samples and the batch.
    Baselines   None      b = 0.
                "mean"     moving average of the cost over previous calls.
                "optimal"  per unit, E[(h - s)^2 L] / E[(h - s)^2] over previous calls: of all constants the least variance.
                "leave-one-out"  mean of the example's other samples; needs samples >= 2.
                nn.Module  learned from the node's logits by squared error; add estimator.parameters() to the optimizer.
    Local cost  a closure that returns (batch, terms) gives each unit the credit of those terms only that it can influence,
                found by tracing the closure once (an evaluation more at the first call).
    Requires    samples evaluations of the closure; any cost, differentiable or not.
    decay       of the moving averages, per call.
    vectorize   run the samples as one vmap over the closure, so that all that precedes the first node is computed once.
    Raises      ValueError for a scalar cost; FloatingPointError, naming node and call, for a non-finite one.
    Reference   Bengio 2013, Theorem 1 and Corollary 1 (Eq. 7); Williams 1992; Kool et al. 2019 for leave-one-out.
    """

    unbiased = True
    reference = "Bengio 2013, Theorem 1 and Corollary 1"
    local_credit = True

    def __init__(
        self,
        model: nn.Module,
        baseline: str | nn.Module | Baseline | None = None,
        samples: int = 1,
        *,
        decay: float = 0.99,
        vectorize: bool = True,
    ) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize)
        self.baseline = make_baseline(baseline, decay)
        if samples < self.baseline.minimum_samples:
            raise ValueError(
                f"samples={samples} with baseline={baseline!r}: it needs samples >= {self.baseline.minimum_samples}, because "
                "an example's baseline comes from its other samples; use baseline='optimal' for one sample"
            )

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        kinds = [(b, k) for b in (None, "mean", "optimal", "leave-one-out") for k in (1, 2, 3)]
        return {
            f"{cls.__name__}-{baseline}-{samples}": partial(cls, baseline=baseline, samples=samples)
            for baseline, samples in kinds
            if samples >= make_baseline(baseline, 0.9).minimum_samples
        }

    def respond(self, node: Node, logits: Tensor, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        if not node.discrete:
            return node.propagate(logits, noise), None
        outcome = node.outcome(logits, noise)
        return node.emit(logits, outcome), outcome

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        credit = self.credit(site, costs)
        baseline = self.baseline.value(site, credit)
        estimate = score_function_surrogate(credit, site.log_prob, baseline)
        surrogate = estimate.sum() / credit.shape[:2].numel()  # mean over samples and examples, whatever units there are
        fit = self.baseline.loss(site, credit, baseline)
        if self.learning and torch.is_grad_enabled():
            self.baseline.update(site, credit)
        return surrogate if fit is None else surrogate + fit

    def credit(self, site: Site, costs: Tensor) -> Tensor:
        """The cost that each unit is credited with, (K, batch, *units), or with ones for units when all share it."""
        costs = widen(costs)
        if site.influence is not None:
            return (costs @ site.influence.to(costs.dtype).T).view(site.log_prob.shape)
        return site.over_units(costs.sum(-1))

    def state_dict(self) -> dict[str, Tensor]:
        return {f"baseline.{name}": tensor for name, tensor in self.baseline.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        wrong = [name for name in state if not name.startswith("baseline.")]
        if wrong:
            raise ValueError(f"the state of ScoreFunction holds baseline.* only, got {', '.join(wrong)}")
        self.baseline.load_state_dict({name.removeprefix("baseline."): tensor for name, tensor in state.items()})

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.baseline.module.parameters() if isinstance(self.baseline, Learned) else iter(())
