"""Noise and bias of one estimator on one problem: measured over independent samples, and summed over all outcomes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import dither
from dither import exact, methods
from dither.experiments.variance_units.growth import Point
from dither.experiments.variance_units.problem import Units

# By the name of the method, without its arguments.
ONE_A_CALL = {"spsa"}  # the others give a sample of the gradient for each example
LEARN_ON_ONE = {"blend"}  # its weights depend on the noise of the batch, so it learns on one example a call
NOT_SUMMED = {"rebar", "node-perturbation", "spsa"}  # they use the noise's value: `exact.moments` has their mean only
LEARN_ROWS = 256  # examples of a call that learns baselines


@dataclass(frozen=True)
class Effort:
    """The options of the experiment that say how much is measured."""

    draws: int
    single_draws: int
    work: int
    warmup: int
    single_warmup: int
    max_outcomes: int


@dataclass(frozen=True)
class Moments:
    """mean and variance (layers, width) of one sample of the gradient.

    error: the standard error of the variance in all; mean_error: the squared one of the mean.
    """

    mean: Tensor
    variance: Tensor
    error: float
    mean_error: Tensor


@dataclass(frozen=True)
class Subject:
    """An estimator on a problem. local: the cost is one term for each group, else one number."""

    method: str
    problem: Units
    estimator: dither.Estimator
    local: bool

    @property
    def name(self) -> str:
        return self.method.partition(":")[0]

    def closure(self) -> Tensor:
        terms = self.problem.costs()
        return terms if self.local else terms.sum(1)


def points(
    spellings: Sequence[str], effort: Effort, width: int, layers: int, seed: int
) -> Iterator[tuple[tuple[str, str, str], Point]]:
    """((credit, method, how), point) for all that can be known of one problem."""
    problem = Units(width, layers, seed)
    truth = problem.gradient()
    for method in spellings:
        for credit in ("global", "local"):
            subject = Subject(method, problem, methods.build(method, problem), credit == "local")
            if subject.local and not subject.estimator.local_credit:
                continue  # it would be the same again
            yield (credit, method, "measured"), _point(seed, subject, truth, measured(subject, effort, width * layers, seed))
            if (moments := summed(subject, effort)) is not None:
                yield (credit, method, "exact"), _point(seed, subject, truth, moments)


def measured(subject: Subject, effort: Effort, units: int, seed: int) -> Moments:
    torch.manual_seed(seed)
    subject.problem.replicate(1)
    subject.estimator(subject.closure)  # learns the layout, and with one example, for little, the locality
    evaluations = subject.estimator.evaluations
    batched = subject.name not in ONE_A_CALL
    rows = max(4, min(effort.draws, effort.work // (units * evaluations))) if batched else effort.single_draws
    learn(subject, effort, rows)
    return moments_of(subject, rows, batched)


def learn(subject: Subject, effort: Effort, rows: int) -> None:
    """Calls that learn the estimator's state, if it has any."""
    if not subject.estimator.state_dict():
        return
    single = subject.name in LEARN_ON_ONE
    subject.problem.replicate(1 if single else min(rows, LEARN_ROWS))
    for _ in range(effort.single_warmup if single else effort.warmup):
        subject.estimator(subject.closure)


def moments_of(subject: Subject, rows: int, batched: bool) -> Moments:
    """Over `rows` independent samples, of one call or of one call each."""
    calls, examples = (1, rows) if batched else (rows, 1)
    subject.problem.replicate(examples)
    parts = []
    with subject.estimator.frozen():
        for _ in range(calls):
            (gradient,) = torch.autograd.grad(subject.estimator(subject.closure), subject.problem.logits)
            parts.append(gradient * len(gradient))
    samples = torch.cat(parts)
    mean, variance = samples.mean(0), samples.var(0)
    distance = (samples - mean).square().flatten(1).sum(1)
    return Moments(mean, variance, float(distance.std()) / len(samples) ** 0.5, variance / len(samples))


def summed(subject: Subject, effort: Effort) -> Moments | None:
    """Exactly; None where that takes too many outcomes, or is not possible."""
    subject.problem.replicate(1)
    if subject.name in NOT_SUMMED or exact.outcomes(subject.estimator, subject.closure) > effort.max_outcomes:
        return None
    moments = exact.moments(subject.estimator, subject.closure, max_outcomes=effort.max_outcomes)
    mean, variance = moments.mean["logits"][0], moments.variance["logits"][0]
    return Moments(mean, variance, 0.0, torch.zeros_like(mean))


def _point(seed: int, subject: Subject, truth: Tensor, moments: Moments) -> Point:
    bias, mean_error = moments.mean - truth, moments.mean_error
    spread = 4 * (bias.square() * mean_error).sum() + 2 * mean_error.square().sum()
    return Point(
        seed=seed,
        evaluations=subject.estimator.evaluations,
        signal=float(truth.square().sum()),
        variance=float(moments.variance.sum()),
        variance_error=moments.error,
        bias2=float(bias.square().sum() - mean_error.sum()),
        bias2_error=float(spread.sqrt()),
        first_signal=float(truth[0].square().sum()),
        first_variance=float(moments.variance[0].sum()),
    )
