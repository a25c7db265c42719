"""REBAR, RELAX, Double CV and RODEO beyond the conformance: what they claim besides being unbiased, and their sampled runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dither import REBAR, RELAX, RODEO, Bernoulli, Categorical, DoubleCV, ScoreFunction, exact, testing
from dither.estimators.control_variates.relaxation import Relaxed, relaxed, relaxed_given
from dither.estimators.control_variates.scales import Scales
from dither.testing._zoo import smooth_problems

F64 = torch.float64
PROBLEMS = {problem.name.removeprefix("smooth: "): problem for problem in smooth_problems()}


class OneLayer(nn.Module):
    """Logits that are leaves, so that their gradient is the estimate itself, divided by the batch."""

    def __init__(self, node: nn.Module, *shape: int, batch: int = 1) -> None:
        super().__init__()
        self.node = node
        logits = torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=F64)
        self.logits = nn.Parameter(logits.expand(batch, *shape).clone())
        self.weight = torch.linspace(-1.3, 1.7, self.logits[0].numel(), dtype=F64)

    def forward(self) -> Tensor:
        return self.node(self.logits).flatten(1)

    def cost(self) -> Tensor:
        h = self()
        return torch.sin(2 * h @ self.weight) + h[:, 0] * h[:, -1]


def small_net(units: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(units, 3), nn.Tanh(), nn.Linear(3, 1)).double()


def randomised(estimator: Any, seed: int = 1) -> Any:
    """Its own parameters at values that matter, as after some training."""
    torch.manual_seed(seed)
    for p in estimator.parameters():
        p.data = p.data + 0.5 * torch.randn_like(p)
    return estimator


def variance(estimator: Any, closure: Callable[[], Tensor]) -> float:
    moments = exact.moments(estimator, closure, max_outcomes=1 << 15)
    return float(sum(v.sum() for name, v in moments.variance.items() if name != "readout"))  # of what nodes are credited for


# --- the relaxations ----------------------------------------------------------------------------------------------------
def test_relaxed_binary_units_agree_with_their_outcome_and_with_uniforms_of_that_outcome() -> None:
    a, u, v = torch.randn(200, dtype=F64), torch.rand(200, dtype=F64), torch.rand(200, dtype=F64)
    s, b = torch.sigmoid(a), (u < torch.sigmoid(a)).to(F64)
    node = Bernoulli()
    assert torch.equal(relaxed(node, a, u, 0.5) > 0.5, b > 0.5)
    given = torch.where(b > 0.5, s * v, 1 - (1 - s) * v)
    assert torch.allclose(relaxed_given(node, a, b, v, 0.5), torch.sigmoid((a - torch.logit(given)) / 0.5), atol=1e-12)


def test_relaxed_categories_agree_with_their_outcome_and_with_truncated_gumbels() -> None:
    a, u, v = torch.randn(50, 3, dtype=F64), torch.rand(50, 3, dtype=F64), torch.rand(50, 3, dtype=F64)
    node = Categorical()
    hard = node.sample(a, u)
    assert torch.equal(relaxed(node, a, u, 0.5).argmax(-1), hard.argmax(-1))
    p, e = torch.softmax(a, -1), -torch.log1p(-v)
    best = (e * hard).sum(-1, keepdim=True)
    z = -torch.log(torch.where(hard > 0.5, best, e / p + best))
    assert torch.allclose(relaxed_given(node, a, hard, v, 0.5), torch.softmax(z / 0.5, -1), atol=1e-12)


@pytest.mark.parametrize("node", [Bernoulli(), Categorical()], ids=["binary", "categorical"])
def test_what_is_drawn_given_the_outcome_moves_with_the_logits(node: Any) -> None:
    """d z~ / d a, against central differences at fixed outcome and fixed fresh uniforms."""
    a, v = torch.randn(30, 3, dtype=F64), torch.rand(30, 3, dtype=F64)
    b, slope = node.sample(a, torch.rand(30, 3, dtype=F64)), torch.randn(30, 3, dtype=F64)
    leaf = a.clone().requires_grad_()
    (actual,) = torch.autograd.grad((slope * relaxed_given(node, leaf, b, v, 0.7)).sum(), leaf)
    assert actual.abs().max() > 0.05
    for i in range(3):
        step = torch.zeros(3, dtype=F64)
        step[i] = 1e-6
        up, down = (slope * relaxed_given(node, a + d, b, v, 0.7) for d in (step, -step))
        assert torch.allclose((up - down).sum(1) / 2e-6, actual[:, i], atol=1e-7)


# --- what is claimed of the estimates -----------------------------------------------------------------------------------
def test_rebar_without_its_control_variate_is_the_score_function() -> None:
    problem = testing.random_problem(1, max_bits=3.2, depth=2, kinds=("binary", "signed"), without=("hard-cost", "twice"))
    named = list(exact.trainable(problem.model).values())
    rebar = REBAR(problem.model)
    rebar(problem.closure)
    rebar.scales.averages = {name: torch.tensor([0.0, 1.0], dtype=F64) for name in rebar.scales.averages}
    drawn = []
    for estimator in (rebar, ScoreFunction(problem.model)):
        torch.manual_seed(3)
        drawn.append(exact.concatenate(exact.parameter_gradients(estimator(problem.closure), named)))
    assert len(rebar.scales.averages) == 2 and torch.allclose(*drawn, atol=1e-14)


@pytest.mark.parametrize("name", ["one binary unit", "two layers", "two categories"])
def test_rebar_has_less_variance_than_the_score_function_once_it_knows_its_scale(name: str) -> None:
    problem = PROBLEMS[name]
    rebar, plain = REBAR(problem.model), variance(ScoreFunction(problem.model), problem.closure)
    torch.manual_seed(0)
    for _ in range(100):
        rebar(problem.closure)
    assert variance(rebar, problem.closure) < 0.8 * plain


@pytest.mark.parametrize("build", [RELAX, RODEO])
def test_learned_control_variates_learn_to_lower_the_variance(build: Any) -> None:
    """Before that they are REBAR with a scale of 1, and leave-one-out."""
    model = PROBLEMS["one binary unit"].model if build is RELAX else OneLayer(Bernoulli(), 3)
    closure = PROBLEMS["one binary unit"].closure if build is RELAX else model.cost
    torch.manual_seed(0)
    estimator = build(model)
    start = REBAR(model) if build is RELAX else ScoreFunction(model, baseline="leave-one-out", samples=2)
    before = variance(estimator, closure)
    assert before == pytest.approx(variance(start, closure), rel=1e-9)
    optimizer = torch.optim.Adam(estimator.parameters(), 0.02)
    for _ in range(300):
        optimizer.zero_grad()
        estimator(closure).backward()
        optimizer.step()
    assert variance(estimator, closure) < 0.8 * before


@pytest.mark.parametrize("name", ["two binary units", "two layers", "two categories"])
def test_double_cv_has_less_variance_than_leave_one_out(name: str) -> None:
    problem = PROBLEMS[name]
    plain = variance(ScoreFunction(problem.model, baseline="leave-one-out", samples=2), problem.closure)
    assert variance(DoubleCV(problem.model), problem.closure) < 0.8 * plain


@pytest.mark.parametrize(
    "node", [Bernoulli(), Bernoulli(values=(-1, 2)), Categorical()], ids=["binary", "valued", "categorical"]
)
@pytest.mark.parametrize("samples", [2, 3])
def test_double_cv_has_no_variance_for_a_linear_cost(node: nn.Module, samples: int) -> None:
    model = OneLayer(node, *((2, 2) if isinstance(node, Categorical) else (3,)))
    linear = lambda: model() @ model.weight + 0.4  # noqa: E731
    assert variance(DoubleCV(model, samples=samples), linear) < 1e-14
    assert variance(ScoreFunction(model, baseline="leave-one-out", samples=samples), linear) > 1e-3


def test_the_scale_is_the_best_of_previous_calls_only() -> None:
    site: Any = type("Site", (), {"name": "node", "logits": torch.zeros(1, 50, 3)})()
    scales, g0, g1 = Scales(0.0), torch.randn(1, 50, 3, dtype=F64), torch.randn(1, 50, 3, dtype=F64)
    assert scales.of(site) == 1.0
    scales.learn(site, g0, g1)
    best = float(scales.of(site))
    squares = [float((g0 + c * g1).square().sum()) for c in (best - 0.01, best, best + 0.01)]
    assert squares[1] < min(squares[0], squares[2])
    assert best == pytest.approx(float(torch.linalg.lstsq(-g1.reshape(-1, 1), g0.reshape(-1, 1)).solution))
    with pytest.raises(ValueError, match=r"scale\.NODE"):
        scales.load_state_dict({"scale.node": torch.zeros(3)})


def spelled_out(rodeo: RODEO, x: Tensor, f: Tensor, slope: Tensor, s: Tensor) -> Tensor:
    """The estimate of RODEO for one example, as the paper writes it: every neighbour, every other sample."""
    k, d = x.shape
    net = rodeo.nets["node"]

    def h(i: int, y: Tensor) -> Tensor:
        return torch.stack([net((slope[j] @ (y - x[j])).view(1), f[j].view(1))[:, 0] for j in range(k) if j != i]).mean(0)

    def stein(i: int, function: Callable[[Tensor], Tensor]) -> Tensor:
        total: Any = 0
        for c in range(d):
            y = x[i].clone()
            y[c] = 1 - y[c]
            total = total + (s[c] if y[c] else 1 - s[c]) * (function(y) - function(x[i]))
        return total / d

    scalar = torch.stack([f[i] + stein(i, lambda y, i=i: h(i, y)[0]) for i in range(k)])
    vector = [stein(i, lambda y, i=i: h(i, y)[1] * (y - s)) for i in range(k)]
    return sum((f[i] - (scalar.sum() - scalar[i]) / (k - 1)) * (x[i] - s) + vector[i] for i in range(k)) / k


@pytest.mark.parametrize("samples", [2, 3])
def test_rodeo_is_the_published_formula(samples: int) -> None:
    model, drawn = OneLayer(Bernoulli(), 4), []

    def closure() -> Tensor:
        drawn.append(model())
        return torch.sin(2 * drawn[-1] @ model.weight)

    rodeo = randomised(RODEO(model, samples=samples, vectorize=False))
    rodeo.examples = "separate"  # no look at them, which runs the closure
    (actual,) = torch.autograd.grad(rodeo(closure), model.logits)
    x = torch.cat(drawn).detach()
    f, slope = torch.sin(2 * x @ model.weight), 2 * torch.cos(2 * x @ model.weight).unsqueeze(1) * model.weight
    with torch.no_grad():
        expected = spelled_out(rodeo, x, f, slope, torch.sigmoid(model.logits[0]))
    assert torch.allclose(actual[0], expected, atol=1e-12)


# --- what learns --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["relax", "relax-categorical", "rodeo"])
def test_own_parameters_get_the_derivative_of_the_squared_estimate(method: str) -> None:
    """At given noise, against central differences of |estimate|^2, read off the gradient of the logits."""
    categorical = method.endswith("categorical")
    model = OneLayer(Categorical() if categorical else Bernoulli(), *((2, 3) if categorical else (4,)), batch=5)
    estimator: Any = RODEO(model, samples=3) if method == "rodeo" else RELAX(model, control=small_net(6 if categorical else 4))
    randomised(estimator)
    own = list(estimator.parameters())

    def square() -> tuple[Tensor, float]:
        torch.manual_seed(11)
        loss = estimator(model.cost)
        (g,) = torch.autograd.grad(loss, model.logits, retain_graph=True)
        return loss, 5 * float(g.square().sum())

    actual = torch.autograd.grad(square()[0], own)
    for p, g in zip(own, actual, strict=True):
        direction, values = torch.randn_like(p), []
        for step in (1e-6, -1e-6):
            p.data += step * direction
            values.append(square()[1])
            p.data -= step * direction
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(float((g * direction).sum()), rel=1e-5, abs=1e-7)
    assert max(float(g.abs().max()) for g in actual) > 1e-3


def test_relax_takes_its_size_from_the_first_call_also_when_an_optimizer_holds_it() -> None:
    problem = PROBLEMS["two layers"]
    relax = RELAX(problem.model, hidden=4)
    optimizer = torch.optim.Adam(relax.parameters(), 0.1)
    assert "control.nodes_0.0.weight" not in relax.state_dict()
    for _ in range(2):
        optimizer.zero_grad()
        relax(problem.closure).backward()
        optimizer.step()
    first = relax.state_dict()["control.nodes_0.0.weight"]
    assert first.shape == (4, 1) and any(p.grad.abs().max() > 0 for p in relax.parameters() if p.grad is not None)


def test_a_control_of_the_wrong_shape_or_name_is_refused() -> None:
    model = OneLayer(Bernoulli(), 3)
    with pytest.raises(ValueError, match="one value per example"):
        RELAX(model, control=nn.Linear(3, 2).double())(model.cost)
    with pytest.raises(ValueError, match="no module for node 'node'"):
        RELAX(model, control=nn.ModuleDict({"other": nn.Linear(3, 1)}))(model.cost)


# --- broken on purpose --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["one binary unit", "two categories"])
def test_forgetting_that_the_conditional_draw_moves_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = PROBLEMS[name]
    testing.assert_unbiased(REBAR, problem.model, problem.closure, max_outcomes=1 << 15)
    right = Relaxed.tied
    monkeypatch.setattr(Relaxed, "tied", lambda self, logits: right(self, logits.detach() + 0 * logits))
    with pytest.raises(testing.CheckFailed):
        testing.assert_unbiased(REBAR, problem.model, problem.closure, max_outcomes=1 << 15)


# --- the sampled runs, as in training -----------------------------------------------------------------------------------
class ThreeLayers(nn.Module):
    """One unit a layer and a leaf for each of its logits, so that every example of a large batch is a draw of the gradient."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.nodes = nn.ModuleList([Categorical() if kind == "categorical" and i == 1 else Bernoulli() for i in range(3)])
        self.kind = kind

    def cost(self, leaves: list[Tensor]) -> Tensor:
        a = self.nodes[0](leaves[0])
        logits = leaves[1] + (2 * a - 1) * torch.linspace(1.0, -1.0, leaves[1].shape[1])
        b = self.nodes[1](logits.unsqueeze(1)).squeeze(1)
        c = self.nodes[2](leaves[2] + 1.5 * b[:, :1] + a)
        a, b, c = a[:, 0], b @ torch.linspace(1.0, 0.3, b.shape[1]), c[:, 0]
        return a + 2 * b * c - 1.3 * c * a + b * b


@pytest.mark.parametrize("kind", ["binary", "categorical"])
@pytest.mark.parametrize("vectorize", [True, False], ids=["vmap", "loop"])
@pytest.mark.parametrize("method", ["rebar", "relax", "double", "rodeo"])
def test_sampled_gradients_of_three_layers_have_the_exact_mean(method: str, kind: str, vectorize: bool) -> None:
    """With real noise, shared between runs as it has to be; three categories, for which there is no quadrature."""
    if method == "rodeo" and kind == "categorical":
        pytest.skip("binary units only")
    model, count = ThreeLayers(kind), 20_000
    sizes = (1, 3 if kind == "categorical" else 1, 1)
    values = [torch.linspace(-0.4, 0.5, n).unsqueeze(0) for n in sizes]
    builds = {"rebar": REBAR, "relax": partial(RELAX, hidden=3), "double": DoubleCV, "rodeo": RODEO}
    estimator = builds[method](model, vectorize=vectorize)
    torch.manual_seed(5)
    estimator(lambda: model.cost([v.expand(3, -1) for v in values]))
    randomised(estimator)
    leaves = [v.expand(count, -1).clone().requires_grad_() for v in values]
    actual = torch.autograd.grad(estimator(lambda: model.cost(leaves)), leaves)
    single = [v.clone().requires_grad_() for v in values]
    expected = torch.autograd.grad(exact.expected_cost(model, lambda: model.cost(single)).sum(), single)
    for g, e in zip(actual, expected, strict=True):
        testing.assert_mean(count * g, e[0])


# --- the edges ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("build", [REBAR, RELAX, DoubleCV, RODEO], ids=lambda b: b.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_saturated_logits_give_finite_gradients(build: Any, dtype: torch.dtype) -> None:
    binary = [[-50.0, 50.0, -torch.inf, torch.inf, 0.0]]
    nodes = {"binary": (Bernoulli(), binary)}
    if build is not RODEO:
        nodes["categorical"] = (Categorical(), [[[50.0, -50.0, 0.0], [-torch.inf, 0.0, 1.0], [torch.inf, 0.0, 1.0]]])
    for node, values in nodes.values():
        model = nn.ModuleDict({"node": node})
        logits = torch.tensor(values, dtype=dtype).repeat(16, *[1] * (torch.tensor(values).dim() - 1)).requires_grad_()

        def cost(model: nn.ModuleDict = model, logits: Tensor = logits) -> Tensor:
            h = model["node"](logits).flatten(1).float()
            return torch.sin(h @ torch.arange(1.0, h.shape[1] + 1))

        estimator = build(model)
        for _ in range(2):
            loss = estimator(cost)
        (g,) = torch.autograd.grad(loss, logits)
        assert bool(torch.isfinite(g.float()).all()) and bool((g != 0).any())


def test_what_cannot_be_built_is_refused_with_a_reason() -> None:
    model = nn.ModuleDict({"node": Bernoulli()})
    for build in (DoubleCV, RODEO):
        with pytest.raises(ValueError, match="needs samples >= 2"):
            build(model, samples=1)
    for build in (REBAR, RELAX):
        with pytest.raises(ValueError, match="temperature is 0"):
            build(model, temperature=0)
    with pytest.raises(TypeError, match="RODEO cannot credit node 'node'"):
        RODEO(nn.ModuleDict({"node": Categorical()}))
