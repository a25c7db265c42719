"""Second and third derivatives of the loss: their exact expectation against those of the exact expected cost."""

import pytest
import torch
from torch import Tensor

from dither import Exact, ScoreFunction, exact, testing

PROBLEMS = [testing.random_problem(seed, max_bits=3.0, without=("hard-cost", "saturated")) for seed in range(8)]


def derivatives(loss: Tensor, parameters: list[Tensor], order: int) -> list[Tensor]:
    """Directional derivatives of order 1 ... `order` along a fixed direction."""
    generator = torch.Generator().manual_seed(1)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    actual, value = [], loss
    for _ in range(order):
        grads = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True)
        value = sum((g * d).sum() for g, d in zip(grads, direction, strict=True) if g is not None)
        assert isinstance(value, Tensor)
        actual.append(value)
    return [value.detach() for value in actual]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
@pytest.mark.parametrize(("baseline", "samples"), [(None, 1), ("optimal", 1), ("leave-one-out", 2)])
def test_derivatives_of_every_order_are_unbiased(problem, baseline, samples) -> None:
    estimator = ScoreFunction(problem.model, baseline=baseline, samples=samples, any_order=True)
    torch.manual_seed(0)
    estimator(problem.closure)  # gives the moving averages a value
    parameters = list(problem.model.parameters())
    cost = exact.expected_cost(problem.model, problem.closure)
    expected = derivatives(cost.sum() / len(cost), parameters, 3)
    actual = derivatives(exact.expected_loss(estimator, problem.closure, max_outcomes=1 << 20), parameters, 3)
    for a, b in zip(actual, expected, strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("problem", PROBLEMS[:3], ids=lambda p: p.name)
def test_without_any_order_second_derivatives_are_missing(problem) -> None:
    """What the factors are for: the test above would notice their loss."""
    parameters = list(problem.model.parameters())
    cost = exact.expected_cost(problem.model, problem.closure)
    expected = derivatives(cost.sum() / len(cost), parameters, 2)[1]
    loss = exact.expected_loss(ScoreFunction(problem.model), problem.closure, max_outcomes=1 << 20)
    if "cost-parameters" in problem.traits:  # there the cost has a second derivative of its own
        assert abs(float(derivatives(loss, parameters, 2)[1] - expected)) > 1e-3
    else:
        with pytest.raises(RuntimeError, match="does not require grad"):
            derivatives(loss, parameters, 2)


def test_exact_differentiates_to_any_order() -> None:
    """Exact is a plain sum: its second derivative against central differences of its first."""
    problem = PROBLEMS[1]  # the cost's own parameters are parameters of the model
    assert "cost-parameters" in problem.traits
    parameters = list(problem.model.parameters())
    first, second = derivatives(Exact(problem.model)(problem.closure), parameters, 2)
    generator = torch.Generator().manual_seed(1)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    slopes = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(sign * 1e-5 * d)
        slopes.append(float(derivatives(Exact(problem.model)(problem.closure), parameters, 1)[0]))
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(sign * 1e-5 * d)
    assert (slopes[0] - slopes[1]) / 2e-5 == pytest.approx(float(second), rel=1e-5)
    assert float(first) == pytest.approx(sum(slopes) / 2, rel=1e-5)
