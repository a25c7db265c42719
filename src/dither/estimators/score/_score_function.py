from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

import torch
from torch import Tensor, nn

from dither.estimators.core.baselines.baseline import Baseline, LeaveOneOut, Zero
from dither.estimators.core.baselines.moving import per_logit
from dither.estimators.core.baselines.named import BaselineName, make_baseline
from dither.estimators.core.call import Call
from dither.estimators.core.credit import Credits
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.mappable import Vectorize
from dither.estimators.core.merged import merged
from dither.estimators.core.shapes import divided, flat_units
from dither.estimators.core.site import Site
from dither.functional import score_function_surrogate, widen


class ScoreFunction(Estimator):
    """Score-function (REINFORCE) gradient, with a choice of baselines.

    >>> import torch, dither
    >>> node = dither.Bernoulli()
    >>> node.logits = torch.nn.Parameter(torch.zeros(1, 4, dtype=torch.float64))
    >>> terms = lambda: 1 + node(node.logits)  # (batch, terms): the exact gradient is 1/4 for each unit
    >>> variance = lambda estimator, cost: dither.exact.moments(estimator, cost).variance["logits"].sum()
    >>> variance(dither.ScoreFunction(node), lambda: terms().sum(1))
    tensor(36.7500, dtype=torch.float64)
    >>> variance(dither.ScoreFunction(node), terms)  # local credit
    tensor(2.2500, dtype=torch.float64)
    >>> variance(dither.ScoreFunction(node, baseline="leave-one-out", samples=2), terms)
    tensor(0.2500, dtype=torch.float64)

    Estimates   d E[L] / d theta for every parameter, through every discrete node; unbiased. Continuous nodes (NoisyReLU,
                ...) keep back-propagation, which is unbiased for them.
    Formula     sum_i (L - b_i) d log P(h_i) / d theta + d L / d theta                                  (1; Corollary 1)
                d log P(h_i) / d a_i = h_i - sigmoid(a_i) for a binary unit                               (2; Theorem 1)
                Mean over K samples and the batch.
    Baselines   None      b = 0: Theorem 1.
                "mean"     moving average of the cost over previous calls.
                "optimal"  per logit, E[(h - s)^2 L] / E[(h - s)^2] over previous calls: of all constants the one of
                           minimum variance (Eq. 7).
                "leave-one-out"  mean of the example's other samples; needs samples >= 2.
                nn.Module  learned from the node's logits by squared error; add estimator.parameters() to the optimizer.
    Local cost  a closure that returns (batch, terms) gives each unit the credit of those terms only that it can influence,
                found by tracing the closure once (an evaluation more at the first call).
    split_sums  take the cost apart by itself: where what the closure returns, (batch,), is the plain sum or mean of a tensor
                over all but the batch, that tensor's entries are the terms, and credit is local with no change to the closure.
    credit      declares it instead: "global", "aligned" (unit t answers for term t), "causal" (for t and later terms), a bool
                tensor (units, terms), or a dict of these by names of nodes.
    Requires    samples evaluations of the closure; any cost, differentiable or not.
    decay       of the moving averages, per call.
    any_order   make the loss differentiable to any order, by torch.autograd.grad(loss, ..., create_graph=True): every
                derivative of it is an unbiased estimate of that derivative of the expected cost. The costs are then
                L exp(l - constant(l)), l = sum of log P over the units that influence them; the factor is 1 (DiCE)  (3)
    vectorize   "auto": the samples are one vmap over the closure, so that all that precedes the first node is computed once,
                or a loop where vmap cannot take the closure, which is told. False: a loop.
    repeated    the closure runs once, on a batch that holds each example once for each sample (dither.repeat_rows).
    Raises      ValueError for a scalar cost; FloatingPointError, naming node and call, for a non-finite one.
    Reference   Bengio 2013, Theorem 1 and Corollary 1 (Eq. 7); Williams 1992; Kool et al. 2019 for leave-one-out; Foerster
                et al. 2018, "DiCE: the infinitely differentiable Monte Carlo estimator", for any_order.
    """

    unbiased = True
    reference = "Bengio 2013, Theorem 1 and Corollary 1"
    local_credit = True
    former_order = ("baseline", "samples")

    def __init__(
        self,
        model: nn.Module,
        *,
        baseline: BaselineName | nn.Module | Baseline | None = None,
        samples: int = 1,
        decay: float = 0.99,
        any_order: bool = False,
        split_sums: bool = False,
        credit: Credits = "traced",
        vectorize: Vectorize = "auto",
        repeated: bool = False,
    ) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize, repeated=repeated)
        self.credit = credit
        self.any_order, self.split_sums = any_order, split_sums
        self.composable = not any_order  # type: ignore[misc]  # then the costs themselves carry factors, and PerNode's do not
        self.credits_batches = not any_order
        self.baseline = make_baseline(baseline, decay, not any_order, tuple(n for n, v in self.nodes.items() if v.discrete))
        if samples < self.baseline.minimum_samples:
            raise ValueError(
                f"samples={samples} with baseline={baseline!r}: it needs samples >= {self.baseline.minimum_samples}, because "
                "an example's baseline comes from its other samples; use baseline='optimal' for one sample"
            )

    @classmethod
    def fewest_samples(cls, words: Collection[str] = ()) -> int:
        return 2 if "leave-one-out" in words else 1

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        names: tuple[BaselineName | None, ...] = (None, "mean", "optimal", "leave-one-out")
        kinds: list[tuple[BaselineName | None, int]] = [(b, k) for b in names for k in (1, 2, 3)]
        rows: dict[str, Callable[[nn.Module], Estimator]] = {
            f"{cls.__name__}-{baseline}-{samples}": partial(cls, baseline=baseline, samples=samples)
            for baseline, samples in kinds
            if samples >= make_baseline(baseline, 0.9).minimum_samples
        }
        return (
            rows
            | {f"{cls.__name__}-any-order": partial(cls, baseline="optimal", any_order=True)}
            | {f"{cls.__name__}-split-sums": partial(cls, baseline="optimal", split_sums=True)}
        )

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        if not call.node.discrete:
            return call.propagate(), None
        sample = call.sample()
        return call.output(sample), sample

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        learner, credit = self.baseline, site.credit(costs)  # L, of those terms that a unit can influence
        baseline = learner.value(site, credit)  # b, of previous calls or other samples
        surrogate = self._surrogate(site, credit, baseline)  # the sum of (1); d L / d theta is in the loss's value
        fit = learner.loss(site, credit, baseline)
        if self.learning and torch.is_grad_enabled():
            learner.update(site, credit, baseline)
        return surrogate if fit is None else surrogate + fit

    def _surrogate(self, site: Site, credit: Tensor, baseline: Tensor | float) -> Tensor:
        """Its gradient is (L - b) d log P, the mean over samples and examples, whatever units there are."""
        if self.any_order:  # (3) for the baseline: b (1 - exp(l - constant(l))), of mean zero in every derivative
            one = (site.log_prob - site.log_prob.detach()).exp()
            constant = baseline.to(one.device).detach() if isinstance(baseline, Tensor) else baseline
            estimate = constant * (1 - one)  # the costs carry their own factors
        elif site.score is None:  # (1) by differentiating log P
            estimate = score_function_surrogate(credit, site.log_prob, baseline)
        else:  # (1) by (2), the score in closed form: log P need be neither computed nor differentiated
            if isinstance(baseline, Tensor) and baseline.dim() != len(site.shape) - 2:
                baseline = per_logit(baseline, site)  # one for all of a unit's logits
            centred = per_logit(credit, site) - baseline
            if (runs := credit.shape[0]) > 1:
                centred = divided(centred, runs)  # before the product, which is larger
            return site.along_logits(centred * site.score)
        return estimate.sum() / max(credit.shape[:2].numel(), 1)

    def assemble(self, costs: Tensor, sites: list[Site]) -> Tensor:
        if not self.any_order:
            alone = isinstance(self.baseline, (Zero, LeaveOneOut))  # keeps nothing of a call
            return super().assemble(costs, merged(sites) if alone else sites)
        log_prob: Tensor | float = 0.0
        for site in sites:
            units = flat_units(site.log_prob)
            own = units.sum(-1, True) if site.influence is None else units @ site.influence.to(units.dtype)
            if site.rows is not None:
                own = own.new_zeros(len(own), costs.shape[1], own.shape[-1]).index_add(1, site.rows, own)
            log_prob = log_prob + own
        if isinstance(log_prob, Tensor):  # (3)
            costs = widen(costs) * (log_prob - log_prob.detach()).exp()
        return super().assemble(costs, sites)
