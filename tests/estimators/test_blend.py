"""Blend: what it learns, which kind is biased, and its exact error beside that of its parents."""

from functools import partial

import pytest
import torch

from dither import Bernoulli, Blend, ScoreFunction, StraightThrough, exact, testing
from dither.estimators.blend._blend import INPUTS


def error(estimator, problem) -> tuple[float, float]:
    """Exact squared bias and total variance."""
    gradient = exact.gradient(problem.model, problem.closure)
    moments = exact.moments(estimator, problem.closure, max_outcomes=1 << 20)
    bias = sum(float((moments.mean[n] - gradient[n]).square().sum()) for n in gradient)
    return bias, sum(float(v.sum()) for v in moments.variance.values())


def net(depth: int, seed: int):
    without = ("twice", "hard-cost", "saturated", "local")
    return testing.random_problem(seed, max_bits=4.0, depth=depth, kinds=("binary", "signed"), without=without)


@pytest.mark.parametrize(
    ("depth", "seed"), [(1, 3), (2, 1), *(pytest.param(*more, marks=pytest.mark.long) for more in ((2, 3), (3, 1), (3, 2)))]
)
def test_prediction_errs_less_than_both_parents(depth: int, seed: int) -> None:
    problem = net(depth, seed)
    torch.manual_seed(0)
    # 600 calls at .998 err too much to be sure, .86 to 1.4 over five seeds; these: at most .998 over two
    blend = Blend(problem.model, decay=0.9992, vectorize=False)
    for _ in range(1500):
        blend(problem.closure)
    parents = [ScoreFunction(problem.model, baseline="leave-one-out", samples=2), StraightThrough(problem.model, samples=2)]
    assert sum(error(blend, problem)) < 0.999 * min(sum(error(parent, problem)) for parent in parents)


def test_one_layer_weights_tend_to_those_of_least_error() -> None:
    """On one unit everything is known: the learned weight against the closed-form one from enumerated moments."""
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), Bernoulli()).double()
    with torch.no_grad():
        model[0].weight.fill_(0.7)
        model[0].bias.fill_(-0.2)
    x = torch.ones(1, 1, dtype=torch.float64)

    def closure():
        return torch.exp(1.5 * model(x)).sum(1)

    torch.manual_seed(0)
    blend = Blend(model, decay=0.9998, warmup=0)
    for _ in range(2500):
        blend(closure)
    gradient = float(exact.gradient(model, closure)["0.bias"])
    parts = [ScoreFunction(model, baseline="leave-one-out", samples=2), StraightThrough(model, samples=2)]
    moments = [exact.moments(p, closure) for p in parts]
    mean = [float(m.mean["0.bias"]) for m in moments]
    variance = [float(m.variance["0.bias"]) for m in moments]
    both = exact.moments(Blend(model, warmup=10**9), closure)  # before it has learned it is its unbiased parent
    assert float(both.mean["0.bias"]) == pytest.approx(gradient, abs=1e-12)
    outcomes = [(h, g) for h in (0.0, 1.0) for g in (0.0, 1.0)]
    p = float(torch.sigmoid(torch.tensor(0.5, dtype=torch.float64)))
    f = {0.0: 1.0, 1.0: float(torch.exp(torch.tensor(1.5, dtype=torch.float64)))}
    slope = {h: 1.5 * f[h] for h in f}
    cross = sum(
        (p if h else 1 - p) * (p if g else 1 - p)
        * ((f[h] - f[g]) * (h - g) / 2) * (p * (1 - p) * (slope[h] + slope[g]) / 2)
        for h, g in outcomes
    )  # fmt: skip
    covariance = cross - mean[0] * mean[1]
    spread = variance[0] + variance[1] - 2 * covariance + (mean[1] - mean[0]) ** 2
    best = (variance[0] - covariance) / spread  # of the biased parent, the two weights summing to one
    row = blend.report()[0]
    assert row["weights"]["biased"] == pytest.approx(best, abs=0.07)
    assert row["weights"]["biased"] + row["weights"]["unbiased"] == pytest.approx(1, abs=1e-9)
    assert row["mse"] < min(row["unbiased_mse"], row["biased_mse"])
    assert row["unbiased_mse"] == pytest.approx(variance[0], rel=0.1)
    assert row["biased_mse"] == pytest.approx(variance[1] + (mean[1] - gradient) ** 2, rel=0.25)


@pytest.mark.parametrize("seed", [1, 3])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_control_variate_stays_unbiased_with_any_state(depth: int, seed: int) -> None:
    problem = net(depth, seed)
    blend = Blend(problem.model, kind="control-variate", warmup=0)
    torch.manual_seed(1)
    for _ in range(3):
        blend(problem.closure)
    blend.load_state_dict({n: 3 * t + 1 for n, t in blend.state_dict().items()})
    testing.assert_unbiased(blend, problem.model, problem.closure, max_outcomes=1 << 20)
    assert blend.unbiased and not Blend(problem.model).unbiased


def test_control_variate_has_less_variance_than_its_unbiased_parent() -> None:
    problem = net(1, 3)
    torch.manual_seed(0)
    blend = Blend(problem.model, kind="control-variate", decay=0.998)
    for _ in range(400):
        blend(problem.closure)
    parent = ScoreFunction(problem.model, baseline="leave-one-out", samples=2)
    assert error(blend, problem)[1] < 0.9 * error(parent, problem)[1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"samples": 1}, "at least 2"),
        ({"kind": "both"}, "must be 'prediction' or"),
        ({"inputs": ()}, "one or more of"),
        ({"inputs": ("biased", "biased")}, "each once"),
        ({"inputs": ("momentum",)}, "one or more of"),
        ({"decay": 1.0}, "between 0 and 1"),
    ],
)
def test_bad_arguments(arguments, text) -> None:
    with pytest.raises(ValueError, match=text):
        Blend(net(1, 0).model, **arguments)


def test_other_units_than_learned_are_refused() -> None:
    node = Bernoulli()
    model = torch.nn.ModuleDict({"node": node})
    blend = Blend(model)
    a, b = (torch.zeros(2, n, requires_grad=True) for n in (3, 4))
    blend(lambda: node(a).sum(1) ** 2)
    with pytest.raises(ValueError, match="the same units in every call"):
        blend(lambda: node(b).sum(1) ** 2)


@pytest.mark.parametrize("build", [Blend, partial(Blend, inputs=INPUTS), partial(Blend, kind="control-variate")])
def test_saturated_logits_and_constant_costs_stay_finite(build) -> None:
    node = Bernoulli()
    logits = torch.tensor([[50.0, -50.0, torch.inf, -torch.inf, 0.3]], requires_grad=True)
    blend = build(torch.nn.ModuleDict({"node": node}), warmup=2)
    for _ in range(6):
        for closure in (lambda: node(logits).sum(1) ** 2, lambda: 0 * node(logits).sum(1) + 2):
            (gradient,) = torch.autograd.grad(blend(closure), logits)
            assert torch.isfinite(gradient).all()


def test_control_variate_keeps_to_units_that_share_a_term() -> None:
    """Terms linear in one unit each: its own unit explains all of a term's variance, the other units none of it."""
    node = Bernoulli()
    model = torch.nn.ModuleDict({"node": node})
    model["logits"] = torch.nn.Linear(1, 4, bias=False).double()
    x, scale = torch.ones(1, 1, dtype=torch.float64), torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)

    def closure():
        return node(model["logits"](x)) * scale

    torch.manual_seed(0)
    blend = Blend(model, kind="control-variate", decay=0.998)
    for _ in range(300):
        blend(closure)
    variance = [
        float(sum(v.sum() for v in exact.moments(e, closure).variance.values()))
        for e in (blend, ScoreFunction(model, baseline="leave-one-out", samples=2))
    ]
    assert variance[0] < 0.05 * variance[1]
