"""Checks that an estimator must pass, each an exact sum over outcomes or an exact identity; none is a coin toss.

dither.testing.assert_unbiased(dither.ScoreFunction, net, closure)       one estimator on your own model
dither.testing.check_estimator(MyEstimator)                              the whole conformance, on a zoo of small nets
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from dither import exact
from dither.estimators.core.building import built, is_built, refuse_built
from dither.nodes import as_module, cost_alone, named_nodes
from dither.testing._zoo import Problem, deep_problems, rectifier_problem, smooth_problems, zoo

Build = Callable[[nn.Module], Any]
TOLERANCE = 1e-10
MAX_BITS = 12.0


class CheckFailed(AssertionError):
    """An estimator failed a check. `check`: its name; `problem`: on which problem."""

    def __init__(self, check: str, problem: str, what: str) -> None:
        super().__init__(f"[{check}] on {problem}: {what}")
        self.check, self.problem = check, problem


def bias(estimator: Any, closure: Callable[[], Tensor], *, max_outcomes: int = exact.MAX_OUTCOMES) -> dict[str, Tensor]:
    """The exact bias of an estimator per parameter of its model: enumerated expectation minus exact gradient.

    Also exact for the learning estimator: its baselines may update during the call, as they do in training. Outcomes are taken
    one after the other if the estimator's runs are (`vectorize=False`): they may then call other nodes each.
    """
    if not is_built(estimator):
        raise TypeError(
            f"estimator is {estimator!r}: one that was built on a model is needed, whose closure this is; build it, such as "
            "dither.DisARM(net)"
        )
    how: Any = {"max_outcomes": max_outcomes, "vectorize": getattr(estimator, "vectorize", True)}
    expected = exact.gradient(estimator.model, objective(estimator, closure), **how)
    mean = exact.moments(estimator, closure, frozen=False, variance=False, **how).mean
    return {name: mean[name] - expected[name] for name in expected}


def objective(estimator: Any, closure: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The cost per example whose expectation the estimator differentiates: the closure's, or, where it is a function of several
    samples (a multi-sample bound), that function of as many independent runs of the closure."""
    closure = cost_alone(closure)
    if not getattr(estimator, "multi_sample", False):
        return closure

    def joint() -> Tensor:
        costs = [closure() for _ in range(estimator.samples)]
        return estimator.value(torch.stack([c.reshape(len(c), -1).sum(1, keepdim=True) for c in costs]))

    return joint


def assert_unbiased(
    estimator: Any,
    model: nn.Module | Sequence[nn.Module],
    closure: Callable[[], Tensor],
    *,
    tolerance: float = TOLERANCE,
    max_outcomes: int = exact.MAX_OUTCOMES,
) -> None:
    """Raise CheckFailed unless the estimator's exact expectation is the exact gradient, per parameter.

    estimator: one built on the model, or anything that builds one (`partial(ScoreFunction, samples=2)`). The model should be
    in float64 and small: all outcomes of all its samples and examples are summed, at most max_outcomes.
    tolerance: absolute, relative to the largest entry of the exact gradient where that exceeds 1.
    """
    subject = built(estimator, as_module(model), "estimator")
    vectorize = getattr(subject, "vectorize", True)
    expected = exact.gradient(subject.model, objective(subject, closure), max_outcomes=max_outcomes, vectorize=vectorize)
    tolerance = max(tolerance, _accuracy(subject))
    errors = bias(subject, closure, max_outcomes=max_outcomes)
    scale = max(1.0, *(float(g.abs().max()) for g in expected.values()))
    for name, error in errors.items():
        worst = float(error.abs().max())
        if not worst <= tolerance * scale:
            at = tuple(int(i) for i in torch.unravel_index(error.abs().argmax(), error.shape))
            value, exactly = float(error[at] + expected[name][at]), float(expected[name][at])
            raise CheckFailed(
                "unbiased",
                "this model",
                f"{subject!r} is biased{_by_quadrature(subject)}: d/d {name}{list(at)} has expectation {value:.12g}, the exact "
                f"gradient is {exactly:.12g} (difference {worst:.3g}, tolerance {tolerance * scale:.3g})",
            )


def _by_quadrature(estimator: Any) -> str:
    exactly = _accuracy(estimator) <= TOLERANCE
    return (
        "" if exactly else f", by a quadrature that is good to {_accuracy(estimator):g} for usual temperatures and gentle costs"
    )


def assert_mean(values: Tensor, expected: Tensor | float, *, comparisons: int = 1000, alpha: float = 1e-6) -> None:
    """A z-test that the mean of independent `values` (draws in the first dimension) is `expected`, elementwise.

    The false-alarm rate alpha is that of a whole suite of `comparisons` such comparisons (Bonferroni): by default |z| > 6.1.
    A bias b of a quantity with standard deviation s is seen from about (12 s / b)^2 draws on.
    """
    draws = values.shape[0]
    if draws < 30:
        raise ValueError(f"values has {draws} draws in its first dimension: a z-test needs 30 or more")
    limit = float(torch.special.ndtri(torch.tensor(1 - alpha / (2 * comparisons), dtype=torch.float64, device="cpu")))
    values = values.double()
    error = (values.mean(0) - torch.as_tensor(expected, dtype=torch.float64, device="cpu")).abs()
    noise = values.std(0) / draws**0.5
    z = torch.where(noise > 0, error / noise, torch.where(error > 1e-12, torch.inf, torch.zeros_like(error)))
    if not bool((z <= limit).all()):
        raise AssertionError(
            f"mean off by z = {float(z.max()):.2f} standard errors at flat index {int(z.argmax())} of {z.numel()} after "
            f"{draws} draws; the limit is {limit:.2f} (false-alarm rate {alpha:g} for {comparisons} comparisons)"
        )


# --- the conformance ----------------------------------------------------------------------------------------------------
def check_estimator(
    build: Build,
    *,
    problems: Iterable[Problem] | None = None,
    max_bits: float = MAX_BITS,
    skip: Collection[str] = (),
) -> int:
    """Run every check on every problem that is small enough; raise CheckFailed at the first that fails.

    build: anything that builds the estimator on a model. What the estimator declares (`unbiased`, `evaluations`) is read,
    and then proved. skip: names of checks that do not apply ("scale", for a baseline with a scale of its own). Returns
    the number of (check, problem) pairs that passed.
    """
    refuse_built(build, "build", "give its class or functools.partial of it; assert_unbiased takes one on your own model")
    problems = list(zoo(24, max_bits=4.0) if problems is None else problems)
    fitting = _fitting(build, problems, max_bits)
    passed = 0
    for name, check in CHECKS.items():
        if name not in skip:
            passed += check(build, fitting if name in ("bias", "vectorize") else fitting[:6])
    return passed


def _fitting(build: Build, problems: list[Problem], max_bits: float) -> list[Problem]:
    fitting = [problem for problem in problems if fits(build, problem, max_bits=max_bits)]
    if not fitting:
        raise ValueError(
            f"no problem has at most 2^{max_bits:g} joint outcomes with this estimator's samples: give smaller ones"
        )
    return fitting


def fits(build: Build, problem: Problem, *, max_bits: float = MAX_BITS) -> bool:
    """Whether the estimator takes the problem's nodes and cost, and its joint outcomes are few enough to be summed.

    One that oracles find by quadrature (`accuracy`) takes problems with the trait "smooth" only, with four times the outcomes.
    """
    try:
        estimator = build(problem.model)
    except TypeError:
        if _supported(build, problem):
            raise
        return False
    if "hard-cost" in problem.traits and not getattr(estimator, "any_cost", True):
        return False
    quadrature = _accuracy(estimator) > TOLERANCE
    if quadrature and "smooth" not in problem.traits:
        return False
    max_bits = max_bits + 2 if quadrature else max_bits
    return _enumerates(estimator) or exact.outcomes(estimator, problem.closure) <= 2**max_bits


def _supported(build: Build, problem: Problem) -> bool:
    requires = getattr(getattr(build, "func", build), "requires", ())
    return all(node.has(c) for node in named_nodes(problem.model).values() if node.discrete for c in requires)


def _accuracy(estimator: Any) -> float:
    return getattr(estimator, "oracle", exact.Oracle(accuracy=0.0)).accuracy


def _enumerates(estimator: Any) -> bool:
    return getattr(estimator, "oracle", exact.Oracle()).enumerates


def _gradient(estimator: Any, problem: Problem, closure: Callable[[], Tensor] | None = None) -> Tensor:
    loss = estimator(closure or problem.closure)
    return exact.concatenate(exact.parameter_gradients(loss, exact.trainable(problem.model).values()))


def _warm(estimator: Any, problem: Problem) -> None:
    """Baselines at arbitrary values: unbiasedness may not depend on their being good."""
    torch.manual_seed(1)
    for _ in range(2):
        estimator(problem.closure)
    estimator.load_state_dict(
        {n: t + torch.rand_like(t) if t.is_floating_point() else t for n, t in estimator.state_dict().items()}
    )


def _value(build: Build, problems: list[Problem]) -> int:
    for p in problems:
        estimator = build(p.model)
        _warm(estimator, p)
        if not getattr(estimator, "stochastic", True):
            continue
        value = float(exact.moments(estimator, p.closure, max_outcomes=1 << 20, frozen=False, variance=False).value)
        cost = exact.expected_cost(p.model, objective(estimator, p.closure)).detach()
        expected = float(cost.sum() / cost.shape[0])
        if not abs(value - expected) <= max(TOLERANCE, _accuracy(estimator)) * max(1, abs(expected)):
            raise CheckFailed("value", p.name, f"the loss's expected value is {value:.12g}, the expected cost {expected:.12g}")
    return len(problems)


def _bias(build: Build, problems: list[Problem]) -> int:
    declared, seen = True, 0
    for p in problems:
        estimator = build(p.model)
        declared = estimator.unbiased
        _warm(estimator, p)
        if declared:
            try:
                assert_unbiased(estimator, p.model, p.closure, max_outcomes=1 << 20)
            except CheckFailed as failure:
                raise CheckFailed("unbiased", p.name, str(failure)) from None
        else:
            errors = bias(estimator, p.closure, max_outcomes=1 << 20)
            seen += max(float(e.abs().max()) for e in errors.values()) > 1e-3
    if not declared and not seen:
        raise CheckFailed("biased", "every problem", "declared biased, but no bias above 1e-3 was found: declare it unbiased")
    return len(problems)


def _reproducible(build: Build, problems: list[Problem]) -> int:
    for p in problems:
        gradients = []
        for _ in range(2):
            torch.manual_seed(3)
            gradients.append(_gradient(build(p.model), p))
            torch.rand(7, dtype=torch.float32, device="cpu")
        if not torch.equal(gradients[0], gradients[1]):
            raise CheckFailed("reproducible", p.name, "two calls after torch.manual_seed(3) gave different gradients")
    return len(problems)


def _restores(build: Build, problems: list[Problem]) -> int:
    for p in problems:
        estimator, nodes = build(p.model), named_nodes(p.model)

        def fails(problem: Problem = p) -> Tensor:
            problem.closure()
            raise KeyError("planned")

        for run in (p.closure, fails):
            with suppress(KeyError):
                estimator(run)
            held = [name for name, node in nodes.items() if node._handler is not None or node._source is not None]
            if held:
                raise CheckFailed("restores", p.name, f"nodes {held} are still taken over after the call (by {run.__name__})")
    return len(problems)


def _evaluations(build: Build, problems: list[Problem]) -> int:
    for p in problems:
        estimator = build(p.model)
        if _enumerates(estimator):
            continue
        estimator.vectorize = False
        estimator.locality.static = True  # else a run that does something new is made once more
        estimator.examples = "separate"  # else a closure that is new is looked at
        estimator(p.closure)  # the first call may trace locality
        calls = 0

        def counted(problem: Problem = p) -> Tensor:
            nonlocal calls
            calls += 1
            return problem.closure()

        estimator(counted)
        if calls != estimator.evaluations:
            raise CheckFailed("evaluations", p.name, f"{calls} evaluations of the closure, {estimator.evaluations} declared")
    return len(problems)


def _vectorize(build: Build, problems: list[Problem]) -> int:
    """What runs in one vmap is what oracles see in a loop: noise shared between runs is the same noise in both."""
    for p in problems:
        if _enumerates(build(p.model)):
            continue
        gradients = []
        for vectorize in (True, False):
            torch.manual_seed(4)
            estimator = build(p.model)
            estimator.vectorize = vectorize
            gradients.append(_gradient(estimator, p))
        if not torch.allclose(gradients[0], gradients[1], rtol=1e-9, atol=1e-11):
            raise CheckFailed("vectorize", p.name, "runs in one vmap and runs in a loop give different gradients")
    return len(problems)


def _scale(build: Build, problems: list[Problem]) -> int:
    for p in problems:
        gradients = []
        for factor in (1.0, 1024.0):
            torch.manual_seed(5)
            estimator = build(p.model)
            if getattr(estimator, "multi_sample", False):
                return len(problems)  # its objective is not linear in the costs
            closure = lambda f=factor, q=p: f * q.closure()  # noqa: E731
            _gradient(estimator, p, closure)
            gradients.append(_gradient(estimator, p, closure) / factor)
        if not torch.allclose(gradients[0], gradients[1], rtol=1e-9, atol=1e-11):
            raise CheckFailed("scale", p.name, "the gradient of 1024 times the cost is not 1024 times the gradient")
    return len(problems)


def _state(build: Build, problems: list[Problem]) -> int:
    for p in problems:
        torch.manual_seed(6)
        first, second = build(p.model), build(p.model)
        for _ in range(3):
            first(p.closure)
        second.load_state_dict({n: t.clone() for n, t in first.state_dict().items()})
        torch.manual_seed(7)
        expected = _gradient(first, p)
        torch.manual_seed(7)
        if not torch.equal(_gradient(second, p), expected):
            raise CheckFailed("state", p.name, "an estimator that loaded another's state_dict gives another gradient")
    return len(problems)


def _refuses_nonfinite(build: Build, problems: list[Problem]) -> int:
    for p in problems:
        for value in (torch.nan, torch.inf):
            estimator = build(p.model)
            try:
                estimator(lambda v=value, q=p: q.closure() + v)
            except FloatingPointError:
                continue
            raise CheckFailed("non-finite", p.name, f"a cost of {value} raised no FloatingPointError")
    return len(problems)


CHECKS = {
    "value": _value,
    "reproducible": _reproducible,
    "restores": _restores,
    "evaluations": _evaluations,
    "vectorize": _vectorize,
    "scale": _scale,
    "state": _state,
    "non-finite": _refuses_nonfinite,
    "bias": _bias,
}


def default_problems() -> list[Problem]:
    """The zoo of the library's own suite: 24 small nets, one to three layers of one kind, one net with continuous noise, and
    a few smooth ones."""
    return [*zoo(24, max_bits=4.0), *deep_problems(), rectifier_problem(), *smooth_problems()]
