"""Checks that an estimator must pass, each an exact sum over outcomes or an exact identity; none is a coin toss.

dither.testing.assert_unbiased(dither.ScoreFunction, net, closure)       one estimator on your own model
dither.testing.check_estimator(MyEstimator)                              the whole conformance, on a zoo of small nets
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from dither import exact
from dither.estimators.core.building import refuse_built
from dither.nodes import named_nodes
from dither.testing._unbiased import TOLERANCE, CheckFailed, accuracy, assert_unbiased, bias, objective
from dither.testing._zoo import Problem, deep_problems, rectifier_problem, smooth_problems, zoo

Build = Callable[[nn.Module], Any]
MAX_BITS = 12.0


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
    quadrature = accuracy(estimator) > TOLERANCE
    if quadrature and "smooth" not in problem.traits:
        return False
    max_bits = max_bits + 2 if quadrature else max_bits
    return _enumerates(estimator) or exact.outcomes(estimator, problem.closure) <= 2**max_bits


def _supported(build: Build, problem: Problem) -> bool:
    requires = getattr(getattr(build, "func", build), "requires", ())
    return all(node.has(c) for node in named_nodes(problem.model).values() if node.discrete for c in requires)


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
        if not abs(value - expected) <= max(TOLERANCE, accuracy(estimator)) * max(1, abs(expected)):
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
                raise CheckFailed("unbiased", p.name, str(failure), cause=failure.cause) from None
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
