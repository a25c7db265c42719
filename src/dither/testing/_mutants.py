"""Mutants: estimators that are wrong in one way each, to show that the checks would notice.

Each entry of MUTANTS is (a builder, the check that must catch it). Several are faults found in published code.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import torch
from torch import Tensor

from dither.estimators import ScoreFunction, StraightThrough
from dither.estimators.core import Call, Estimator, Site
from dither.estimators.core.baselines.baseline import LeaveOneOut
from dither.estimators.core.baselines.moving import Optimal, RunningMean
from dither.functional import bernoulli_log_prob, score_function_surrogate
from dither.nodes import taken_over


def _score(credit: Tensor, log_prob: Tensor) -> Tensor:
    return (credit.detach() * log_prob).flatten(2).sum(-1).mean()


def _by(call: Call, sample: Tensor) -> tuple[Tensor, Tensor]:
    return call.output(sample), sample


class ScaledByAThousandth(ScoreFunction):
    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        return 1.001 * super().surrogate(site, costs)


class WrongSign(ScoreFunction):
    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        return -super().surrogate(site, costs)


class MissingCentring(ScoreFunction):
    """h L instead of (h - sigmoid(a)) L."""

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        path = site.sample.detach() * site.logits
        return _score(site.over_units(costs.sum(-1)), path if site.node.binary else path.sum(-1))


class SigmoidPrimeFactor(ScoreFunction):
    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        return _score(site.over_units(costs.sum(-1)), site.log_prob * site.log_prob.detach().exp())


class LostPathwiseTerm(ScoreFunction):
    """The cost's own derivative never reaches the parameters behind the last node."""

    def forward(self, closure):
        return super().forward(lambda: closure().detach())


class OnlyTheLastLayer(ScoreFunction):
    def surrogate(self, site: Site, costs: Tensor) -> Tensor | None:
        return super().surrogate(site, costs) if site.node is list(self.nodes.values())[-1] else None


class DroppedUnit(ScoreFunction):
    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        credit = site.over_units(costs.sum(-1))
        return _score(credit, site.log_prob.flatten(2)[..., 1:] if site.log_prob.dim() > 2 else site.log_prob)


class CountedTwice(ScoreFunction):
    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        return super().surrogate(site, costs) * (2 if site.name == next(iter(self.nodes)) else 1)


class SummedOverBatch(ScoreFunction):
    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        return super().surrogate(site, costs) * costs.shape[1]


class SummedOverSamples(ScoreFunction):
    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        return super().surrogate(site, costs) * costs.shape[0]


class LeakAcrossExamples(ScoreFunction):
    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        return super().surrogate(site, costs.roll(1, 1))


class LeakAcrossSamples(ScoreFunction):
    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        return super().surrogate(site, costs.roll(1, 0))


class CreditOwnTermOnly(ScoreFunction):
    """Local credit that forgets what a unit does to the terms of others."""

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        site.influence = torch.eye(site.log_prob[0, 0].numel(), costs.shape[-1], dtype=torch.bool, device="cpu")
        return super().surrogate(site, costs)


class ClippedCost(ScoreFunction):
    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        return super().surrogate(site, costs.clamp(-0.5, 0.5))


class HalfPrecisionCost(ScoreFunction):
    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        return super().surrogate(site, costs.half().to(costs.dtype))


class EntropyBonus(ScoreFunction):
    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        return super().surrogate(site, costs) + 1e-6 * (site.log_prob.exp() * site.log_prob).sum()


class BaselineOfTheBatch(RunningMean):
    """The mean of the very costs it is subtracted from."""

    def value(self, site: Site, credit: Tensor) -> Tensor:
        return credit.mean((0, 1), keepdim=True)


class BaselineFoldsInTheCurrentCost(RunningMean):
    """A moving average updated before it is used: scales the gradient by the decay."""

    def value(self, site: Site, credit: Tensor) -> Tensor | float:
        super().update(site, credit)
        return super().value(site, credit)

    def update(self, site: Site, credit: Tensor, value: Tensor | float = 0.0) -> None:
        pass


class LearnsBeforeUse(ScoreFunction):
    """The same, while it learns; frozen it is right."""

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        credit = site.credit(costs)
        if self.learning:
            self.baseline.update(site, credit, 0.0)
        baseline = self.baseline.value(site, credit)
        return score_function_surrogate(credit, site.log_prob, baseline).sum() / credit.shape[:2].numel()


class BaselineOfTheSample(LeaveOneOut):
    """Leave-one-out that leaves nobody out."""

    def value(self, site: Site, credit: Tensor) -> Tensor:
        return credit.mean(0, keepdim=True)


class BaselineLooksAtTheSample(Optimal):
    def value(self, site: Site, credit: Tensor) -> Tensor:
        return super().value(site, credit) * site.score_weight


class UndetachedBaseline(ScoreFunction):
    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        credit = site.over_units(costs.sum(-1))
        return ((credit - site.log_prob) * site.log_prob).flatten(2).sum(-1).mean()


class MisprintedThreshold(ScoreFunction):
    """h = 1[z > sigmoid(a)], Eq. 2 as printed."""

    def sample(self, call: Call):
        if not call.node.binary:
            return super().sample(call)
        return _by(call, 1 - call.sample())


class WrongTemperature(ScoreFunction):
    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        if site.node.one_hot:
            return super().surrogate(site, costs)
        return _score(site.over_units(costs.sum(-1)), bernoulli_log_prob(site.logits / 1.1, site.sample))


class CreditsAnotherSample(ScoreFunction):
    """Gives one sample and credits another, as a sample drawn again in the backward pass would be."""

    def sample(self, call: Call):
        output, sample = super().sample(call)
        return output, sample.flip(0) if sample is not None else None


class OneUniformForAllUnits(ScoreFunction):
    def sample(self, call: Call):
        if not call.node.binary:
            return super().sample(call)
        noise = call.noise()
        return _by(call, call.node.sample(call.logits, noise[..., :1].expand_as(noise)))


class UnkeyedNoise(ScoreFunction):
    def sample(self, call: Call):
        if not call.node.discrete:
            return super().sample(call)
        noise = call.noise()
        return _by(call, call.node.sample(call.logits, torch.rand(noise.shape, dtype=noise.dtype, device="cpu")))


class AntitheticTakenForIndependent(ScoreFunction):
    """The second sample uses 1 - u of the first, while leave-one-out takes the two for independent."""

    def sample(self, call: Call):
        if not call.node.binary:
            return super().sample(call)
        noise = call.noise()
        if int(call.run) == 0:
            self._first = getattr(self, "_first", {}) | {call.site: noise}
        return _by(call, call.node.sample(call.logits, noise if int(call.run) == 0 else 1 - self._first[call.site]))


class ContaminatedValue(ScoreFunction):
    def forward(self, closure):
        loss = super().forward(closure)
        return loss + 1e-3


class NaNBecomesZero(ScoreFunction):
    def forward(self, closure):
        return super().forward(lambda: closure().nan_to_num(0, 0, 0))


class LeavesNodesTakenOver(ScoreFunction):
    def forward(self, closure):
        with suppress(KeyError):
            return super().forward(closure)
        self.left = taken_over(self.nodes.values(), handler=self.handler)  # kept, or its collection would leave it
        self.left.__enter__()
        raise KeyError("planned")


class ForgetsItsState(ScoreFunction):
    def state_dict(self, **kwargs) -> dict[str, Tensor]:
        return {}


class SecretEvaluation(ScoreFunction):
    def forward(self, closure):
        closure()
        return super().forward(closure)


class ClaimsToBeUnbiased(StraightThrough):
    unbiased = True


class ClaimsToBeBiased(ScoreFunction):
    unbiased = False


class Unrepeatable(ScoreFunction):
    """Perturbs the estimate by something that torch's generator does not govern, with mean zero."""

    count = 0

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        type(self).count += 1
        sign = 1 if self.count % 2 else -1
        return super().surrogate(site, costs) + sign * site.log_prob.sum()


_two = partial(ScoreFunction, samples=2)
MUTANTS: dict[str, tuple[Callable[..., Estimator], str]] = {
    "scaled by 1.001": (ScaledByAThousandth, "unbiased"),
    "wrong sign": (WrongSign, "unbiased"),
    "missing centring": (MissingCentring, "unbiased"),
    "sigmoid' factor": (SigmoidPrimeFactor, "unbiased"),
    "lost pathwise term": (LostPathwiseTerm, "unbiased"),
    "only the last layer": (OnlyTheLastLayer, "unbiased"),
    "dropped unit": (DroppedUnit, "unbiased"),
    "counted twice": (CountedTwice, "unbiased"),
    "summed over the batch": (SummedOverBatch, "unbiased"),
    "summed over samples": (partial(SummedOverSamples, samples=2), "unbiased"),
    "leak across examples": (LeakAcrossExamples, "unbiased"),
    "leak across samples": (partial(LeakAcrossSamples, samples=2), "unbiased"),
    "credit to the own term only": (CreditOwnTermOnly, "unbiased"),
    "clipped cost": (ClippedCost, "scale"),
    "half-precision cost": (HalfPrecisionCost, "unbiased"),
    "entropy bonus": (EntropyBonus, "scale"),
    "baseline of the batch": (lambda m: ScoreFunction(m, baseline=BaselineOfTheBatch(0.9)), "unbiased"),
    "baseline folds in the current cost": (lambda m: ScoreFunction(m, baseline=BaselineFoldsInTheCurrentCost(0.9)), "unbiased"),
    "baseline learns before it is used": (partial(LearnsBeforeUse, baseline="mean", decay=0.9), "unbiased"),
    "leave-one-out leaves nobody out": (partial(_two, baseline=BaselineOfTheSample()), "unbiased"),
    "baseline looks at the sample": (lambda m: ScoreFunction(m, baseline=BaselineLooksAtTheSample(0.9)), "unbiased"),
    "undetached baseline": (UndetachedBaseline, "scale"),
    "misprinted threshold": (MisprintedThreshold, "value"),
    "wrong temperature": (WrongTemperature, "unbiased"),
    "credits another sample": (CreditsAnotherSample, "unbiased"),
    "one uniform for all units": (OneUniformForAllUnits, "value"),
    "unkeyed noise": (UnkeyedNoise, "value"),
    "antithetic taken for independent": (
        partial(AntitheticTakenForIndependent, samples=2, baseline="leave-one-out", vectorize=False),
        "value",
    ),
    "contaminated value": (ContaminatedValue, "value"),
    "NaN becomes zero": (NaNBecomesZero, "non-finite"),
    "leaves nodes taken over": (LeavesNodesTakenOver, "restores"),
    "forgets its state": (partial(ForgetsItsState, baseline="mean"), "state"),
    "secret evaluation": (SecretEvaluation, "evaluations"),
    "claims to be unbiased": (ClaimsToBeUnbiased, "unbiased"),
    "claims to be biased": (ClaimsToBeBiased, "biased"),
    "unrepeatable": (Unrepeatable, "reproducible"),
}
