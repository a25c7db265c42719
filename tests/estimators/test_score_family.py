"""The multi-sample bound, sums over single units, sets without replacement, and the learned baseline: against enumeration."""

from __future__ import annotations

import math
from functools import partial
from itertools import permutations, product

import pytest
import torch
from torch import Tensor, nn

from dither import (
    NVIL,
    VIMCO,
    Bernoulli,
    Categorical,
    LocalExpectation,
    ScoreFunction,
    SumAndSample,
    UnorderedSet,
    exact,
    testing,
)

ONE_CATEGORICAL = [
    testing.random_problem(s, max_bits=4.0, depth=1, kinds=("categorical",), without=("twice",)) for s in range(8)
]


class Net(nn.Module):
    """Its logits are its parameters, for a batch of one."""

    def __init__(self, node: nn.Module, logits: list) -> None:
        super().__init__()
        self.node = node
        self.logits = nn.Parameter(torch.tensor(logits, dtype=torch.float64))

    def forward(self) -> Tensor:
        return self.node(self.logits.unsqueeze(0))


def bumpy(h: Tensor) -> Tensor:
    weights = torch.arange(1.0, h[0].numel() + 1, dtype=h.dtype)
    z = h.flatten(1) @ weights
    return torch.sin(1.3 * z) + 0.2 * (z - 1) ** 3


def moments(estimator, net: Net) -> tuple[Tensor, Tensor]:
    actual = exact.moments(estimator, lambda: bumpy(net()), max_outcomes=1 << 18)
    return actual.mean["logits"], actual.variance["logits"]


# --- VIMCO --------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [2, 3])
def test_vimco_bound_and_gradient_by_hand(count: int) -> None:
    """All joint outcomes of K samples of one unit written out, without the library's nodes."""
    net = Net(Bernoulli(), [0.4])
    cost = {0: 0.7, 1: -1.1}

    def bound() -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for h in product((0, 1), repeat=count):
            log_q = sum(nn.functional.logsigmoid((2 * b - 1) * net.logits[0]) for b in h)
            # an importance weight p(x, h) / q(h): the bound's dependence on q is in the closure too
            log_w = torch.stack([-cost[b] - nn.functional.logsigmoid((2 * b - 1) * net.logits[0]) for b in h])
            total = total + log_q.exp() * (math.log(count) - log_w.logsumexp(0))
        return total

    def closure() -> Tensor:
        h = net()[:, 0]
        return cost[0] + (cost[1] - cost[0]) * h + nn.functional.logsigmoid((2 * h - 1) * net.logits[0])

    actual = exact.moments(VIMCO(net, samples=count), closure)
    expected = bound()
    assert float(actual.value) == pytest.approx(float(expected.detach()), abs=1e-12)
    assert torch.allclose(actual.mean["logits"], torch.autograd.grad(expected, net.logits)[0], atol=1e-12)


def test_vimco_bound_falls_towards_the_marginal_likelihood() -> None:
    net = Net(Bernoulli(), [0.4, -0.3])
    closure = lambda: bumpy(net()) + 1.0  # noqa: E731
    bounds = [float(exact.moments(VIMCO(net, samples=k), closure, variance=False).value) for k in (2, 3, 4)]
    mean = float(exact.expected_cost(net, closure).detach())
    limit = -math.log(float(exact.expected_cost(net, lambda: torch.exp(-closure())).detach()))
    assert mean > bounds[0] > bounds[1] > bounds[2] > limit


def test_vimco_signals_of_one_call_by_hand() -> None:
    """Each sample's signal: the bound, minus the bound with its weight replaced by the geometric mean of the others."""
    net, seen = Net(Bernoulli(), [0.4, -0.3]), []

    def closure() -> Tensor:
        seen.append(net().detach()[0])
        return bumpy(seen[-1].unsqueeze(0))

    estimator = VIMCO(net, samples=4, vectorize=False)
    estimator.examples = "separate"  # no look at them, which runs the closure
    torch.manual_seed(1)
    (grad,) = torch.autograd.grad(estimator(closure), net.logits)
    w = [math.exp(-float(bumpy(h.unsqueeze(0)))) for h in seen]
    assert len({round(x, 9) for x in w}) >= 3, "samples must differ"
    expected = torch.zeros(2, dtype=torch.float64)
    for k, h in enumerate(seen):
        others = [x for j, x in enumerate(w) if j != k]
        signal = math.log(sum(w) / 4) - math.log((sum(others) + math.prod(others) ** (1 / 3)) / 4)
        expected -= signal * (h - torch.sigmoid(net.logits.detach()))
    assert torch.allclose(grad, expected, atol=1e-12)


def test_vimco_baseline_takes_variance_off() -> None:
    net = Net(Bernoulli(), [0.4, -0.3])
    closure = lambda: bumpy(net()) + 4.0  # noqa: E731

    class Plain(VIMCO):
        def surrogate(self, site, costs):
            signal = site.over_units(self.value(costs).expand(costs.shape[:2]))
            return (signal.detach() * site.log_prob).sum() / costs.shape[1]

    mine, plain = (exact.moments(kind(net, samples=3), closure) for kind in (VIMCO, Plain))
    assert torch.allclose(mine.mean["logits"], plain.mean["logits"], atol=1e-12)
    assert (mine.variance["logits"] < 0.2 * plain.variance["logits"]).all()


def test_vimco_is_finite_for_weights_that_overflow() -> None:
    a = nn.Parameter(torch.zeros(4, 3))
    net = nn.ModuleDict({"node": Bernoulli()})
    torch.manual_seed(0)
    loss = VIMCO(net, samples=5)(lambda: 1e4 * (net["node"](a).sum(1) - 1))
    (grad,) = torch.autograd.grad(loss, a)
    assert torch.isfinite(loss) and torch.isfinite(grad).all() and grad.abs().max() > 0


def test_terms_are_summed_before_the_bound_is_taken() -> None:
    net = Net(Bernoulli(), [0.4, -0.3])
    parts = lambda: torch.stack((bumpy(net()), net().sum(1)), 1)  # noqa: E731
    whole, split = (exact.moments(VIMCO(net, samples=2), c) for c in (lambda: parts().sum(1), parts))
    assert torch.allclose(whole.mean["logits"], split.mean["logits"], atol=1e-13)
    assert torch.allclose(whole.value, split.value, atol=1e-13)


@pytest.mark.parametrize("build", [VIMCO, UnorderedSet])
def test_one_sample_is_refused(build) -> None:
    with pytest.raises(ValueError, match="samples is 1"):
        build(Categorical(), samples=1)


# --- local expectations and sum-and-sample ----------------------------------------------------------------------------
ONE_UNIT = {"binary": (Bernoulli, [0.7]), "categorical": (Categorical, [[0.3, -1.0, 0.9, 0.1]])}


@pytest.mark.parametrize("kind", ONE_UNIT)
def test_local_expectation_of_one_unit_is_exact_in_every_call(kind: str) -> None:
    node, logits = ONE_UNIT[kind]
    net = Net(node(), logits)
    truth = exact.gradient(net, lambda: bumpy(net()))["logits"]
    for build in (LocalExpectation, partial(SumAndSample, categories=3), partial(SumAndSample, categories=9)):
        estimator = build(net)
        for seed in range(8):
            torch.manual_seed(seed)
            (grad,) = torch.autograd.grad(estimator(lambda: bumpy(net())), net.logits)
            assert torch.allclose(grad, truth, atol=1e-12)
        assert estimator.evaluations == (2 if kind == "binary" else 4)


def test_summing_more_takes_variance_off() -> None:
    net = Net(Categorical(), [[0.3, -1.0, 0.9, 0.1]])
    spread = [float(moments(SumAndSample(net, categories=k), net)[1].sum()) for k in (1, 2, 3)]
    plain = float(moments(ScoreFunction(net), net)[1].sum())
    assert plain > spread[0] > spread[1] > spread[2] and spread[2] < 1e-14


def test_with_all_categories_summed_sum_and_sample_is_local_expectation() -> None:
    net = Net(Categorical(), [[0.3, -1.0, 0.9], [0.0, 0.5, 0.2]])
    for left, right in zip(moments(LocalExpectation(net), net), moments(SumAndSample(net, categories=2), net), strict=True):
        assert torch.allclose(left, right, atol=1e-13)


def test_local_expectation_is_the_mean_of_any_single_site_estimate() -> None:
    """Given the other units it has no variance left: that of the score function can only be larger (Rao-Blackwell)."""
    for logits in ([0.3, -0.8], [1.5, 0.2, -0.1]):
        net = Net(Bernoulli(), logits)
        assert (moments(LocalExpectation(net), net)[1] < moments(ScoreFunction(net), net)[1]).all()


def test_a_net_too_large_is_refused_with_its_units() -> None:
    a = nn.Parameter(torch.zeros(2, 50))
    net = nn.ModuleDict({"node": Bernoulli()})
    with pytest.raises(ValueError, match=r"51 times \(1 \+ 50 units x 1 other outcomes\).*max_runs=40"):
        LocalExpectation(net, max_runs=40)(lambda: bumpy(net["node"](a)))
    with pytest.raises(ValueError, match="max_runs is 1"):
        LocalExpectation(net, max_runs=1)
    with pytest.raises(ValueError, match="categories is 0"):
        SumAndSample(net, categories=0)


def test_units_of_any_shape_and_no_unit_dimension() -> None:
    for node, shape in ((Bernoulli(), (5,)), (Bernoulli(), (5, 2, 2)), (Categorical(), (5, 3)), (Categorical(), (5, 2, 2, 3))):
        a = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        net = nn.ModuleDict({"node": node})
        cost = lambda: bumpy(net["node"](a).reshape(5, -1))  # noqa: B023, E731
        for build in (LocalExpectation, SumAndSample):
            loss = build(net)(cost)
            (grad,) = torch.autograd.grad(loss, a)
            assert grad.shape == shape and torch.isfinite(grad).all() and grad.abs().max() > 0


# --- sets without replacement -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("samples", [2, 3])
def test_unordered_set_conforms(samples: int) -> None:
    problems = [p for p in ONE_CATEGORICAL if p.model.nodes and dict(p.model.named_parameters())["readout"].shape[0] >= samples]
    assert testing.check_estimator(partial(UnorderedSet, samples=samples), problems=problems) >= 14


@pytest.mark.parametrize("logits", [[0.3, -1.0, 0.9, 0.1], [2.0, 0.0, -3.0, 0.0]])
@pytest.mark.parametrize("samples", [2, 3, 4])
def test_unordered_set_by_the_formula_written_out(logits: list[float], samples: int) -> None:
    """The whole estimator by sums over ordered draws in plain numbers, and its expectation."""
    net = Net(Categorical(), logits)
    p = torch.softmax(net.logits.detach(), 0).tolist()
    cost = bumpy(torch.eye(4, dtype=torch.float64)).tolist()

    def ordered(draw: tuple[int, ...], without: tuple[int, ...] = ()) -> float:
        left, total = 1 - sum(p[i] for i in without), 1.0
        for i in draw:
            total, left = total * p[i] / left, left - p[i]
        return total

    def of_set(members, without: tuple[int, ...] = ()) -> float:
        return sum(ordered(draw, without) for draw in permutations(members))

    def estimate(members: tuple[int, ...]) -> list[float]:
        gradient = [0.0] * 4
        for s in members:
            rest = [i for i in members if i != s]
            behind = of_set(rest, (s,))
            ratio = {i: of_set([j for j in rest if j != i], (s, i)) / behind for i in rest} | {s: 1.0}
            signal = cost[s] - sum(p[i] * ratio[i] * cost[i] for i in members)
            for k in range(4):
                gradient[k] += p[s] * behind / of_set(members) * signal * ((k == s) - p[k])
        return gradient

    draws = list(permutations(range(4), samples))
    mean = [sum(ordered(d) * estimate(d)[k] for d in draws) for k in range(4)]
    square = [sum(ordered(d) * estimate(d)[k] ** 2 for d in draws) for k in range(4)]
    actual, spread = moments(UnorderedSet(net, samples=samples), net)
    truth = exact.gradient(net, lambda: bumpy(net()))["logits"]
    assert actual.tolist() == pytest.approx(mean, abs=1e-12) and actual.tolist() == pytest.approx(truth.tolist(), abs=1e-12)
    assert spread.tolist() == pytest.approx([q - m * m for q, m in zip(square, mean, strict=True)], abs=1e-12)
    assert samples < 4 or float(spread.max()) < 1e-14, "all categories: exact"


def test_runs_of_a_set_are_different_categories_and_the_first_is_the_nodes_own() -> None:
    a = nn.Parameter(torch.randn(200, 5, generator=torch.Generator().manual_seed(0)))
    net, drawn = nn.ModuleDict({"node": Categorical()}), []

    def closure() -> Tensor:
        drawn.append(net["node"](a).detach())
        return bumpy(drawn[-1])

    for build in (partial(UnorderedSet, samples=4), ScoreFunction):
        torch.manual_seed(2)
        estimator = build(net, vectorize=False)
        estimator.examples = "separate"  # no look at them, which runs the closure
        estimator(closure)
    assert (torch.stack(drawn[:4]).sum(0).amax(-1) == 1).all() and torch.equal(drawn[0], drawn[4])


def test_what_a_set_cannot_do_is_refused() -> None:
    net = nn.ModuleDict({"node": Categorical()})
    two, one = torch.zeros(4, 2, 3, requires_grad=True), torch.zeros(4, 3, requires_grad=True)
    with pytest.raises(ValueError, match=r"2,\) units.*one call of one unit"):
        UnorderedSet(net)(lambda: bumpy(net["node"](two)))
    with pytest.raises(ValueError, match="a second call"):
        UnorderedSet(net)(lambda: bumpy(net["node"](one) + net["node"](one)))
    with pytest.raises(ValueError, match="samples is 4 but node 'node' has 3 categories"):
        UnorderedSet(net, samples=4)(lambda: bumpy(net["node"](one)))
    with pytest.raises(ValueError, match="samples is 7"):
        UnorderedSet(net, samples=7)


# --- extremes -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("build", [VIMCO, LocalExpectation, SumAndSample], ids=lambda b: b.__name__)
def test_certain_binary_units_have_no_gradient(build, dtype: torch.dtype) -> None:
    row = torch.tensor([-torch.inf, -200, -50, 50, 200, torch.inf, 0])
    a = nn.Parameter(row.expand(32, 7).to(dtype).clone())
    net = nn.ModuleDict({"node": Bernoulli()})
    torch.manual_seed(0)
    (grad,) = torch.autograd.grad(build(net)(lambda: bumpy(net["node"](a).float()) / 100), a)
    assert torch.isfinite(grad).all() and grad[:, :6].float().abs().max() < 1e-15 and grad[:, 6].abs().max() > 0


@pytest.mark.parametrize("build", [VIMCO, LocalExpectation, SumAndSample, UnorderedSet, partial(UnorderedSet, samples=3)])
def test_certain_and_forbidden_categories(build) -> None:
    rows = torch.tensor([[torch.inf, 0, 0], [-torch.inf, 0, -torch.inf], [200, -50, 0], [-torch.inf, 0.3, 0], [0, 0, 0]])
    a, net, total = nn.Parameter(rows.clone()), nn.ModuleDict({"node": Categorical()}), torch.zeros_like(rows)
    torch.manual_seed(1)
    for _ in range(20):
        total += torch.autograd.grad(build(net)(lambda: bumpy(net["node"](a))), a)[0].abs()
    assert torch.isfinite(total).all()
    assert (total[:3] < 1e-15).all() and total[3, 0] == 0 and (total[3, 1:] > 0).all() and (total[4] > 0).all()


# --- NVIL -----------------------------------------------------------------------------------------------------------------
class MeanLogit(nn.Module):
    def __init__(self, slope: float = 0.4) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope, dtype=torch.float64))

    def forward(self, logits: Tensor) -> Tensor:
        return 0.3 + self.slope * logits.flatten(1).mean(1)


@pytest.mark.parametrize("samples", [1, 2])
def test_nvil_conforms_with_a_baseline_of_its_own(samples: int) -> None:
    build = lambda model: NVIL(model, baseline=MeanLogit(), samples=samples)  # noqa: E731
    assert testing.check_estimator(build, problems=testing.zoo(12, max_bits=4.0), skip=["scale"]) > 30


def test_nvil_subtracts_the_module_and_the_mean_of_what_it_left_over() -> None:
    """A cost that the module predicts up to a constant has no gradient from the second call on (decay 0: one call's mean)."""
    net = nn.ModuleDict({"node": Bernoulli()})
    a = nn.Parameter(torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    estimator = NVIL(net, baseline=MeanLogit(), decay=0.0)

    def grad() -> Tensor:
        loss = estimator(lambda: net["node"](a).sum(1) * 0 + 5.0 + 0.4 * a.detach().mean(1))
        return torch.autograd.grad(loss, a)[0]

    assert grad().abs().max() > 0.1
    assert grad().abs().max() < 1e-12
    state = estimator.state_dict()
    assert sorted(state) == ["baseline.mean.node.denominator", "baseline.mean.node.numerator", "baseline.module.slope"]
    assert float(state["baseline.mean.node.numerator"]) == pytest.approx(5.0 - 0.3)


def test_nvil_trains_its_baseline_to_follow_the_cost_of_each_example() -> None:
    net, module = nn.ModuleDict({"node": Bernoulli()}), MeanLogit(0.0)
    a = torch.linspace(-2, 2, 32, dtype=torch.float64).view(16, 2).requires_grad_()
    estimator = NVIL(net, baseline=module)
    optimizer = torch.optim.SGD(estimator.parameters(), 0.2)
    torch.manual_seed(0)
    for _ in range(60):
        optimizer.zero_grad()
        estimator(lambda: net["node"](a).sum(1) * 0 + 7.0 - 1.5 * a.detach().mean(1)).backward()
        optimizer.step()
    assert float(module.slope.detach()) == pytest.approx(-1.5, abs=1e-3)


def test_nvil_needs_a_module() -> None:
    with pytest.raises(TypeError, match="baseline is str"):
        NVIL(Bernoulli(), baseline="mean")  # type: ignore[arg-type]


@pytest.mark.parametrize("build", [LocalExpectation, SumAndSample, partial(SumAndSample, categories=2)])
def test_a_vmap_over_runs_gives_what_a_loop_over_them_gives(build) -> None:
    torch.manual_seed(3)
    layers = [nn.Linear(2, 3), Bernoulli(), nn.Linear(3, 6), nn.Unflatten(1, (2, 3)), Categorical(), nn.Flatten(1)]
    model = nn.Sequential(*layers, nn.Linear(6, 2), Bernoulli()).double()
    x, actual = torch.randn(16, 2, dtype=torch.float64), []
    for vectorize in (True, False):
        torch.manual_seed(5)
        loss = build(model, vectorize=vectorize)(lambda: bumpy(model(x)))
        actual.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    assert torch.allclose(*actual, rtol=1e-9, atol=1e-9) and actual[0].abs().max() > 0
