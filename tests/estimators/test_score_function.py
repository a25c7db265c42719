"""What the conformance suite does not see: the baselines' optimality and timing, and where local credit goes."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from dither import Bernoulli, Categorical, PerNode, ScoreFunction, StraightThrough, exact, testing


def net(seed: int, *sizes: int) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        linear = nn.Linear(a, b).double()
        for p in linear.parameters():
            p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        layers += [linear, Bernoulli()]
    return nn.Sequential(*layers)


def cost_of(model: nn.Module, x: torch.Tensor):
    return lambda: torch.sin(2 * model(x).sum(1)) + 0.3 * (model[-2].weight.detach().sum() + x.sum(1)) ** 2  # type: ignore[index]


def equation_7(model: nn.Sequential, closure) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(E[(h - s)^2 L], E[(h - s)^2]) per unit of each node, by enumeration with the node's inputs and outputs in hand."""
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        m.register_forward_hook(lambda m, i, o, n=n: seen.__setitem__(n, (o - torch.sigmoid(i[0])).square()))
        for n, m in model.named_modules()
        if isinstance(m, Bernoulli)
    ]
    names = [n for n, m in model.named_modules() if isinstance(m, Bernoulli)]

    def moments() -> torch.Tensor:
        cost = closure().unsqueeze(1)
        weights = [seen[n] for n in names]
        return torch.cat([w * cost for w in weights] + weights, 1)

    expected = exact.expected_cost(model, moments).detach().mean(0)
    for hook in hooks:
        hook.remove()
    sizes = [dict(model.named_modules())[str(int(n) - 1)].out_features for n in names]
    parts = expected.split(sizes + sizes)
    return {n: (parts[i], parts[i + len(names)]) for i, n in enumerate(names)}


@pytest.mark.parametrize("seed", range(8))
def test_corollary_1_no_constant_has_less_variance_than_equation_7(seed: int) -> None:
    model = net(seed, 3, 2, 2) if seed % 2 else net(seed, 3, 3)
    x = torch.randn(1, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    closure = cost_of(model, x)
    best = equation_7(model, closure)
    estimator = ScoreFunction(model, baseline="optimal")

    def unit_variance(shift: dict[str, torch.Tensor]) -> torch.Tensor:
        """Of d / d bias, which for one example is (h - s)(L - b), all units in a row."""
        state = {}
        for name, (numerator, denominator) in best.items():
            state[f"baseline.{name}.numerator"] = numerator + shift.get(name, 0) * denominator
            state[f"baseline.{name}.denominator"] = denominator
        estimator.load_state_dict(state)
        variance = exact.moments(estimator, closure).variance
        return torch.cat([variance[f"{int(n) - 1}.bias"] for n in best])

    least = unit_variance({})
    generator = torch.Generator().manual_seed(seed)
    for scale in (1e-3, 0.1, 3.0):
        shift = {n: scale * torch.randn(len(d), generator=generator, dtype=torch.float64) for n, (_, d) in best.items()}
        # the excess is exactly E[(h - s)^2] shift^2: Eq. 8 and 9 of the paper
        excess = torch.cat([d * shift[n] ** 2 for n, (_, d) in best.items()])
        assert torch.allclose(unit_variance(shift) - least, excess, rtol=1e-6, atol=1e-12)
        assert (excess > 0).all()


def test_optimal_baseline_learns_equation_7() -> None:
    model = net(3, 2, 3)
    x = torch.tensor([[0.4, -1.0]], dtype=torch.float64)
    closure = cost_of(model, x)
    estimator = ScoreFunction(model, baseline="optimal", samples=20_000, decay=0.0)
    torch.manual_seed(1)
    estimator(closure)
    state = estimator.state_dict()
    learned = state["baseline.1.numerator"] / state["baseline.1.denominator"]
    numerator, denominator = equation_7(model, closure)["1"]
    assert torch.allclose(learned, numerator / denominator, atol=0.05)
    plain_mean = exact.expected_cost(model, closure).mean().detach()
    assert (numerator / denominator - plain_mean).abs().max() > 0.2, "the case must tell Eq. 7 from the mean"


def test_first_call_has_no_baseline_and_the_second_the_first_ones_costs() -> None:
    model, x = net(0, 2, 2), torch.ones(3, 2, dtype=torch.float64)
    estimator = ScoreFunction(model, baseline="mean", decay=0.75)
    constant = 4.0
    torch.manual_seed(0)
    first = torch.autograd.grad(estimator(lambda: model(x).sum(1) * 0 + constant), model[0].bias)[0]
    assert first.abs().max() > 0
    second = torch.autograd.grad(estimator(lambda: model(x).sum(1) * 0 + constant), model[0].bias)[0]
    assert torch.allclose(second, torch.zeros_like(second), atol=1e-12), "the mean of constant costs is the constant"


def test_moving_averages_forget_at_the_stated_rate() -> None:
    model, x = net(0, 2, 2), torch.ones(3, 2, dtype=torch.float64)
    estimator = ScoreFunction(model, baseline="mean", decay=0.9)
    for cost in (1.0, 2.0, 5.0):
        estimator(lambda c=cost: model(x).sum(1) * 0 + c)
    state = estimator.state_dict()
    value = state["baseline.1.numerator"] / state["baseline.1.denominator"]
    weights = [0.1 * 0.81, 0.1 * 0.9, 0.1]
    expected = sum(w * c for w, c in zip(weights, (1, 2, 5), strict=True)) / sum(weights)
    assert torch.allclose(value, torch.full_like(value, expected), atol=1e-12)


def test_leave_one_out_by_hand() -> None:
    from dither.estimators.core.baselines.baseline import LeaveOneOut

    credit = torch.tensor([[1.0], [2.0], [6.0]])
    assert LeaveOneOut().value(None, credit).flatten().tolist() == [4.0, 3.5, 1.5]  # type: ignore[arg-type]


# --- local credit ---------------------------------------------------------------------------------------------------------
def influence(model: nn.Module, closure) -> list[list[list[int]]]:
    return [node.influence.int().tolist() for node in ScoreFunction(model).credit_report(closure).nodes.values()]


X = torch.tensor([[0.3, -0.2], [1.0, 0.5]], dtype=torch.float64)
EYE, FULL = [[1, 0], [0, 1]], [[1, 1], [1, 1]]
CLOSURES = {
    "elementwise": (lambda h: (h - 0.3) ** 2, EYE),
    "comparison": (lambda h: (h > 0.5).double(), EYE),
    "stack": (lambda h: torch.stack((h[:, 0].exp(), h[:, 1].sin()), 1), EYE),
    "in place": (lambda h: _filled(h), EYE),
    "product of columns": (lambda h: torch.stack((h[:, 0] * h[:, 1], h[:, 1]), 1), [[1, 0], [1, 1]]),
    "matrix product": (lambda h: h @ torch.ones(2, 2, dtype=torch.float64), FULL),
    "zero weights are no proof": (lambda h: h @ torch.eye(2, dtype=torch.float64), FULL),
    "cumulative sum": (lambda h: h.cumsum(1), [[1, 1], [0, 1]]),
    "argmax": (lambda h: h.argmax(1, keepdim=True).double() + torch.zeros(2, 2, dtype=torch.float64), FULL),
    "lookup": (lambda h: torch.arange(4.0).double()[h.long()], EYE),
    "softmax": (lambda h: h.softmax(1), FULL),
    "sum kept": (lambda h: h - h.mean(1, keepdim=True), FULL),
    "view": (lambda h: h.reshape(-1).view(2, 2).t().t(), EYE),
    "flipped": (lambda h: h[:, [1, 0]], FULL),
    "where": (lambda h: torch.where(h[:, :1] > 0, h, -h), [[1, 1], [0, 1]]),
}


def _filled(h: torch.Tensor) -> torch.Tensor:
    cost = torch.zeros(2, 2, dtype=torch.float64)
    cost[:, 1] += h[:, 1]
    cost[:, 0] = 2 * h[:, 0]
    return cost


@pytest.mark.parametrize("name", CLOSURES)
def test_locality_is_found_and_never_too_narrow(name: str) -> None:
    terms, expected = CLOSURES[name]
    model = net(5, 2, 2)
    closure = lambda: terms(model(X)) + 0.0  # noqa: E731
    if "." not in name and name != "in place":
        assert influence(model, closure) == [expected]
        testing.assert_unbiased(ScoreFunction, model, closure)
    else:
        assert influence(model, lambda: _filled(model(X))) == [expected]


@pytest.mark.parametrize("leak", ["item", "bool", "numpy", "tolist"])
def test_values_that_leave_for_python_end_local_credit(leak: str) -> None:
    model = net(5, 2, 2)

    def closure() -> torch.Tensor:
        h = model(X).detach()
        value = {
            "item": lambda: h[0, 0].item(),
            "bool": lambda: float(bool(h[0, 0] > 0)),
            "numpy": lambda: float(h.numpy()[0, 0]),
            "tolist": lambda: h.tolist()[0][0],
        }[leak]()
        return torch.full((2, 2), 1.0 + value, dtype=torch.float64)

    credit = ScoreFunction(model).credit_report(closure)["1"]
    assert credit.influence.int().tolist() == FULL
    assert credit.reason is not None and "test_score_function.py" in credit.reason


@pytest.mark.parametrize("baseline", [None, "mean", "optimal"])
def test_credit_has_one_shape_whether_or_not_connections_are_known(baseline) -> None:
    """A baseline kept for units must fit the calls in which every unit is credited with every term, and those after them."""
    model, steps = net(5, 2, 2), torch.tensor([1.0, -2.0], dtype=torch.float64)

    def known() -> torch.Tensor:
        return (model(X) * steps) ** 2

    def unknown() -> torch.Tensor:
        h = model(X)
        return (h * steps + float(h.detach().sum() > 9)) ** 2

    estimator = ScoreFunction(model, baseline=baseline)
    for closure in (known, unknown, known, unknown):
        estimator(closure).backward()
    testing.assert_unbiased(estimator, model, known)


def test_locality_follows_units_through_later_layers() -> None:
    model = net(6, 2, 2, 2)

    def closure() -> torch.Tensor:
        h = model[1](model[0](X))
        g = model[3](torch.stack((h[:, 0], h[:, 0] * 2), 1))  # the second layer hears the first unit only
        return torch.cat((g, h[:, 1:]), 1)

    assert influence(model, closure) == [[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 0]]]
    testing.assert_unbiased(ScoreFunction, model, closure)


def test_locality_of_categorical_units_reduces_variance() -> None:
    model = nn.Sequential(nn.Linear(2, 6), nn.Unflatten(1, (2, 3)), Categorical()).double()
    target = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    local = lambda: (model(X) * target).sum(-1).exp()  # noqa: E731
    whole = lambda: local().sum(1)  # noqa: E731
    assert influence(model, local) == [EYE]
    variances = []
    for closure in (local, whole):
        moments = exact.moments(ScoreFunction(model), closure)
        variances.append(sum(float(v.sum()) for v in moments.variance.values()))
    assert variances[0] < 0.5 * variances[1]


def test_locality_is_traced_again_when_asked_or_when_shapes_change() -> None:
    model = net(5, 2, 2)
    estimator = ScoreFunction(model)
    estimator.examples = "separate"  # no look at them, which runs the closure
    runs = 0

    def closure() -> torch.Tensor:
        nonlocal runs
        runs += 1
        return model(X) ** 2

    for _ in range(3):
        estimator(closure)
    assert runs == 5, "at the first call one that is watched, and one that is traced"
    estimator.locality.forget()
    estimator(closure)
    assert runs == 7


# --- per node -------------------------------------------------------------------------------------------------------------
def test_per_node_gives_each_node_its_own_estimator() -> None:
    """Score above, straight-through below: the lower layer's gradient is straight-through's, the upper's unbiased."""
    model = net(2, 2, 2, 2)
    closure = cost_of(model, X)
    mixed = PerNode(model, {"1": StraightThrough, "3": ScoreFunction})
    assert not mixed.unbiased
    truth = exact.gradient(model, closure)
    mean = exact.moments(mixed, closure).mean
    assert torch.allclose(mean["2.weight"], truth["2.weight"], atol=1e-10)
    assert (mean["0.weight"] - truth["0.weight"]).abs().max() > 1e-3


def test_per_node_patterns_first_match_wins_and_state_is_kept_apart() -> None:
    model = net(2, 2, 2, 2)
    closure = cost_of(model, X)
    both = PerNode(model, {"1": partial(ScoreFunction, baseline="mean"), "*": partial(ScoreFunction, baseline="optimal")})
    both(closure)
    assert sorted(both.state_dict()) == [
        "estimators.*.baseline.3.denominator",
        "estimators.*.baseline.3.numerator",
        "estimators.1.baseline.1.denominator",
        "estimators.1.baseline.1.numerator",
    ]
    again = PerNode(model, {"1": partial(ScoreFunction, baseline="mean"), "*": partial(ScoreFunction, baseline="optimal")})
    again.load_state_dict(both.state_dict())
    assert both.unbiased and sorted(again.state_dict()) == sorted(both.state_dict())


def test_split_sums_finds_the_terms_of_a_summed_cost() -> None:
    """The same seed: equal to the gradient of the closure that returns the terms; other costs are left as they are."""
    node = Bernoulli()
    model = torch.nn.ModuleDict({"node": node})
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)

    def terms() -> torch.Tensor:
        return torch.sin(2 * node(logits)) * torch.arange(1.0, 6.0, dtype=torch.float64)

    def gradient(closure, **options) -> torch.Tensor:
        torch.manual_seed(0)
        return torch.autograd.grad(ScoreFunction(model, samples=2, **options)(closure), logits)[0]

    local, whole = gradient(terms), gradient(lambda: terms().sum(1))
    assert not torch.allclose(local, whole)
    for summed in (lambda: terms().sum(1), lambda: torch.sum(terms(), 1), lambda: terms().sum(dim=-1)):
        assert torch.allclose(gradient(summed, split_sums=True), local)
    assert torch.allclose(5 * gradient(lambda: terms().mean(1), split_sums=True), local)
    assert torch.allclose(gradient(lambda: terms().sum(1) + 0, split_sums=True), whole)
