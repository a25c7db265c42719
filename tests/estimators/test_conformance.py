"""Every estimator that the library exports, held against enumeration. Adding one adds nothing here."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dither import Exact, ScoreFunction, exact, testing
from every_configuration import ROWS

PROBLEMS = testing.default_problems()


class Learned(nn.Module):
    """A baseline of the mean logit, for units of any shape."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return 0.3 + self.slope * logits.flatten(1).mean(1)


@pytest.mark.parametrize("name", ROWS)
def test_estimator_conforms(name: str) -> None:
    assert testing.check_estimator(ROWS[name], problems=PROBLEMS) > 30


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_learned_baseline_conforms(samples: int) -> None:
    def build(model: nn.Module) -> ScoreFunction:
        return ScoreFunction(model, baseline=Learned(), samples=samples)

    assert testing.check_estimator(build, problems=testing.zoo(24, max_bits=4.0), skip=["scale"]) > 30


def test_learned_baseline_is_trained_by_its_squared_error_and_leaves_the_model_alone() -> None:
    problem = testing.random_problem(3, max_bits=4.0)
    baseline = Learned()
    estimator = ScoreFunction(problem.model, baseline=baseline)
    before = [p.grad for p in problem.model.parameters()]
    assert before == [None] * len(before)
    assert list(estimator.parameters()) == [baseline.slope]
    optimizer = torch.optim.SGD(estimator.parameters(), 0.05)
    torch.manual_seed(0)
    cost = problem.closure().sum(-1).mean() if problem.closure().dim() > 1 else problem.closure().mean()
    assert torch.isfinite(cost)
    for _ in range(5):
        optimizer.zero_grad()
        estimator(problem.closure).backward()
        assert baseline.slope.grad is not None and baseline.slope.grad.abs() > 0
        optimizer.step()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(100, 10**6), row=st.sampled_from(sorted(n for n in ROWS if ROWS[n].__class__ is partial)))
def test_bias_of_random_problems(seed: int, row: str) -> None:
    """Random shapes, depths, types, sharing and costs: unbiased rows have no bias, to 1e-10."""
    problem = testing.random_problem(seed, max_bits=5.0)
    if testing.fits(ROWS[row], problem):
        estimator = ROWS[row](problem.model)
        if estimator.unbiased:
            testing.assert_unbiased(estimator, problem.model, problem.closure)


@pytest.mark.parametrize("name", [n for n in ROWS if n.startswith(("Straight", "Deterministic"))])
def test_biased_rows_are_seen_to_be_biased_on_most_problems(name: str) -> None:
    seen = []
    for problem in testing.zoo(40, max_bits=4.0):
        estimator = ROWS[name](problem.model)
        if testing.fits(ROWS[name], problem, max_bits=10) and "saturated" not in problem.traits:
            seen.append(max(float(e.abs().max()) for e in testing.bias(estimator, problem.closure).values()) > 1e-3)
    assert len(seen) >= 15 and sum(seen) >= 0.95 * len(seen), f"bias seen on {sum(seen)} of {len(seen)}"


@pytest.mark.parametrize("seed", range(12))
def test_exact_gradient_against_central_differences(seed: int) -> None:
    """The oracle itself, against finite differences of the expected cost."""
    problem = testing.random_problem(seed, max_bits=6.0)
    gradient = exact.gradient(problem.model, problem.closure)
    generator = torch.Generator().manual_seed(seed)
    for name, p in problem.model.named_parameters():
        if name == "readout" and ("hard-cost" in problem.traits or "cost-parameters" not in problem.traits):
            continue  # the cost moves with it, but in steps or without a path: there the gradient is 0 by construction
        direction = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                p.add_(sign * 1e-5 * direction)
                cost = exact.expected_cost(problem.model, problem.closure)
                values.append(float(cost.sum() / cost.shape[0]))
                p.sub_(sign * 1e-5 * direction)
        slope = (values[0] - values[1]) / 2e-5
        assert slope == pytest.approx(float((gradient[name] * direction).sum()), rel=1e-5, abs=1e-5)


def test_exact_expected_cost_by_hand() -> None:
    """Two independent bits, P(1) = sigmoid(a): E[(h1 + 2 h2)^2] = p1 + 4 p2 + 4 p1 p2."""
    from dither import Bernoulli

    a = nn.Parameter(torch.tensor([[0.3, -1.1]], dtype=torch.float64))
    node = Bernoulli()
    closure = lambda: (node(a) @ torch.tensor([1.0, 2.0], dtype=torch.float64)) ** 2  # noqa: E731
    p1, p2 = torch.sigmoid(a.detach())[0]
    assert torch.allclose(exact.expected_cost(node, closure), p1 + 4 * p2 + 4 * p1 * p2, atol=1e-14)
    model = nn.ModuleDict({"node": node})
    loss = Exact(model)(closure)
    (gradient,) = torch.autograd.grad(loss, a)
    expected = torch.stack((p1 * (1 - p1) * (1 + 4 * p2), p2 * (1 - p2) * (4 + 4 * p1)))
    assert torch.allclose(gradient[0], expected, atol=1e-14)
