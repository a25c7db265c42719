"""Coupled samples: what couplings give, pair probabilities, and the order of the variances that the papers prove."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from dither import ARM, ARMS, CARMS, Bernoulli, Categorical, DisARM, ScoreFunction, exact, testing
from dither.estimators.antithetic._arms import _dirichlet, _dirichlet_discordance
from dither.estimators.antithetic._carms import pair_weights, sticks
from dither.estimators.antithetic.coupled import circle_thresholds, discordance, shuffled

BINARY = [testing.random_problem(s, max_bits=4.0, kinds=("binary", "signed"), without=("twice",)) for s in range(16)]
ONE_LAYER = [p for p in BINARY if "depth-1" in p.traits]
COUPLED = {"ARM": ARM, "ARMS": ARMS, "ARMS-3": partial(ARMS, samples=3), "ARMS-5": partial(ARMS, samples=5)}


def variance(build, problem: testing.Problem) -> float:
    moments = exact.moments(build(problem.model), problem.closure, max_outcomes=1 << 18)
    return sum(float(v.sum()) for v in moments.variance.values())


class Net(nn.Module):
    """Its logits are its parameters, one row for each of `batch` equal examples."""

    def __init__(self, node: nn.Module, logits: Tensor, batch: int = 1) -> None:
        super().__init__()
        self.node, self.batch = node, batch
        self.logits = nn.Parameter(logits.double())

    def forward(self) -> Tensor:
        return self.node(self.logits.expand(self.batch, *self.logits.shape))


def bumpy(h: Tensor) -> Tensor:
    weights = torch.arange(1.0, h[0].numel() + 1, dtype=h.dtype)
    z = h.flatten(1) @ weights
    return torch.sin(1.3 * z) + 0.2 * (z - 1) ** 3


# --- ARM and DisARM ---------------------------------------------------------------------------------------------------------
def test_disarm_never_has_more_variance_than_arm() -> None:
    pairs = [(variance(ARM, p), variance(DisARM, p)) for p in ONE_LAYER if testing.fits(ARM, p)]
    assert len(pairs) >= 5
    assert all(disarm <= arm * (1 + 1e-12) for arm, disarm in pairs)
    assert sum(disarm < 0.95 * arm for arm, disarm in pairs) >= 5


@pytest.mark.parametrize("logit", [-1.2, 0.0, 0.8])
def test_variance_of_arm_and_disarm_of_one_unit_in_closed_form(logit: float) -> None:
    """Of (L1 - L0)(1/2 - |..|): E[g^2] = 2 D^2 int_0^r (1/2 - u)^2 du, and for DisARM 2 r (D (1 - r) / 2)^2."""
    net = Net(Bernoulli(), torch.tensor([logit], dtype=torch.float64))
    difference, r = 1.7, float(torch.sigmoid(torch.tensor(-abs(logit), dtype=torch.float64)))
    closure = lambda: 1.7 * net()[:, 0] + 0.4  # noqa: E731
    mean = difference * r * (1 - r)
    for build, square in (
        (ARM, 2 * difference**2 * (0.5**3 - (0.5 - r) ** 3) / 3),
        (DisARM, 2 * r * (difference * (1 - r) / 2) ** 2),
    ):
        moments = exact.moments(build(net), closure)
        assert float(moments.mean["logits"]) == pytest.approx(mean, abs=1e-13)
        assert float(moments.variance["logits"]) == pytest.approx(square - mean**2, abs=1e-13)


def test_arm_is_unbiased_at_depth_three() -> None:
    class OnePoint(ARM):  # the mean is linear in u, so the middles of intervals suffice; the square needs two nodes in each
        oracle = replace(ARM.oracle, quadrature=(0.0,))

    problem = testing.random_problem(
        0, max_bits=4.0, depth=3, kinds=("binary", "signed"), without=("twice", "hard-cost", "saturated")
    )
    testing.assert_unbiased(OnePoint, problem.model, problem.closure, max_outcomes=1 << 18)


# --- ARMS ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("problem", ONE_LAYER, ids=lambda p: p.name)
def test_arms_with_two_samples_is_disarm(problem: testing.Problem) -> None:
    assert variance(ARMS, problem) == pytest.approx(variance(DisARM, problem), rel=1e-9, abs=1e-12)


def test_more_samples_and_coupling_both_take_variance_off() -> None:
    compared = 0
    for problem in ONE_LAYER:
        if problem.bits <= 2 and "saturated" not in problem.traits:
            loo = [variance(partial(ScoreFunction, baseline="leave-one-out", samples=n), problem) for n in (2, 3)]
            arms = [variance(partial(ARMS, samples=n), problem) for n in (2, 3)]
            compared += 1
            assert all(a < b for a, b in zip(arms, loo, strict=True)) and arms[1] < arms[0]
    assert compared >= 3


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_number_of_ones_of_systematic_samples_is_their_mean_rounded(n: int) -> None:
    net, count = Net(Bernoulli(), torch.linspace(-4, 4, 9), batch=500), []
    torch.manual_seed(0)

    def closure() -> Tensor:
        count.append(net().detach())
        return count[-1].sum(1)

    ARMS(net, samples=n, vectorize=False)(closure)
    ones, mean = torch.stack(count[-n:]).sum(0), n * torch.sigmoid(net.logits.detach())
    assert ((ones - mean).abs() < 1).all()
    testing.assert_mean(ones / n, mean / n)


@pytest.mark.parametrize("n", [2, 3, 4, 8])
@pytest.mark.parametrize("coupling", ["systematic", "dirichlet"])
def test_pairs_disagree_at_the_stated_rate(n: int, coupling: str) -> None:
    """Every pair, not the mean pair: a pair of neighbours in all units would make the costs of near samples alike."""
    p = torch.tensor([0.02, 0.2, 0.35, 0.5], dtype=torch.float64)
    draws = 40_000
    generator = torch.Generator().manual_seed(n)
    if coupling == "systematic":
        first, *rest = (torch.rand(draws, 4, generator=generator, dtype=torch.float64) for _ in range(max(1, n - 1)))
        order = shuffled(rest, n) if n > 3 else torch.arange(n).view(-1, 1, 1)
        b = (first + order / n).remainder(1) < p
        stated = discordance(p, n)
    else:
        noise = torch.rand(n, draws, 4, generator=generator, dtype=torch.float64)
        b = torch.stack([_dirichlet(noise, torch.tensor(k)) for k in range(n)]) < p
        stated = _dirichlet_discordance(p, n)
    for member in b:
        testing.assert_mean(member, p)
    for i, j in combinations(range(n), 2):
        testing.assert_mean((b[i] & ~b[j]), stated)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5])
def test_no_coupling_disagrees_more_than_the_systematic_one(p: float) -> None:
    probability = torch.tensor([p], dtype=torch.float64)
    for n in (2, 3, 4, 8):
        most = torch.stack([_dirichlet_discordance(probability, n), probability * (1 - probability)]).max()
        assert discordance(probability, n) >= most - 1e-15


def test_dirichlet_coupling_agrees_with_the_exact_gradient_on_average() -> None:
    net = Net(Bernoulli(), torch.tensor([-1.5, 0.3, 2.0]))
    expected = exact.gradient(net, lambda: bumpy(net()))["logits"]
    many = Net(Bernoulli(), net.logits.detach().expand(20_000, 3).clone())
    many.forward = lambda: many.node(many.logits)  # type: ignore[method-assign]
    torch.manual_seed(4)
    estimator = ARMS(many, samples=3, coupling="dirichlet")
    (grad,) = torch.autograd.grad(estimator(lambda: bumpy(many())), many.logits)
    testing.assert_mean(grad * len(grad), expected)
    with pytest.raises(exact.CannotEnumerate, match="systematic"):
        exact.moments(ARMS(net, samples=3, coupling="dirichlet"), lambda: bumpy(net()))


def test_thresholds_of_the_circle_by_hand() -> None:
    actual = circle_thresholds(torch.tensor([0.3], dtype=torch.float64), 2).flatten().tolist()
    assert sorted(actual) == pytest.approx([0.3, 0.5, 0.8])


# --- CARMS --------------------------------------------------------------------------------------------------------------------
CATEGORIES = [[0.0, 0.0, 0.0], [2.0, 0.0, -1.0], [3.0, 0.1, 0.0, -2.0], [0.0, -4.0, 0.0]]


@pytest.mark.parametrize("logits", CATEGORIES, ids=str)
@pytest.mark.parametrize("n", [2, 3, 4])
def test_carms_pairs_have_the_stated_probability(logits: list[float], n: int) -> None:
    net, drawn = Net(Categorical(), torch.tensor(logits), batch=40_000), []
    torch.manual_seed(n)

    def closure() -> Tensor:
        drawn.append(net().detach())
        return drawn[-1].sum(1)

    CARMS(net, samples=n, vectorize=False)(closure)
    p = torch.softmax(net.logits.detach(), 0)
    coins, rank = sticks(net.logits.detach().unsqueeze(0))
    weight = pair_weights(coins, n)[0]
    first, second = drawn[-n], drawn[-1]
    testing.assert_mean(first, p)
    testing.assert_mean(second, p)
    for a in range(len(p)):
        for b in range(len(p)):
            if a != b:
                stated = p[a] * p[b] / weight[min(rank[0, a], rank[0, b])]
                testing.assert_mean(first[:, a] * second[:, b], stated)


def test_carms_of_two_categories_is_arms() -> None:
    for logit in (-1.3, 0.4):
        two = Net(Categorical(), torch.tensor([[0.0, logit]]))
        one = Net(Bernoulli(), torch.tensor([logit]))
        for n in (2, 3):
            left = exact.moments(CARMS(two, samples=n), lambda: (two()[..., 1].sum(1) - 0.3) ** 2)  # noqa: B023
            right = exact.moments(ARMS(one, samples=n), lambda: (one().sum(1) - 0.3) ** 2)  # noqa: B023
            assert torch.allclose(left.variance["logits"][0, 1], right.variance["logits"][0], atol=1e-13)
            assert torch.allclose(left.mean["logits"][0, 1], right.mean["logits"][0], atol=1e-13)


@pytest.mark.parametrize("logits", CATEGORIES[:3], ids=str)
def test_carms_has_less_variance_than_leave_one_out(logits: list[float]) -> None:
    net = Net(Categorical(), torch.tensor([logits]))
    closure = lambda: bumpy(net())  # noqa: E731
    loo = exact.moments(ScoreFunction(net, baseline="leave-one-out", samples=2), closure).variance["logits"].sum()
    assert exact.moments(CARMS(net, samples=2), closure).variance["logits"].sum() < (0.9 if logits[0] < 3 else 1) * loo


def test_weights_of_carms_are_bounded() -> None:
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 1, 10, 100):
        for n in (2, 3, 8):
            logits = scale * torch.randn(200, 12, generator=generator, dtype=torch.float64)
            weights = pair_weights(sticks(logits)[0], n)
            assert torch.isfinite(weights).all() and weights.min() > 0 and weights.max() < 2.5


# --- extremes -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", [*COUPLED, "ARMS-dirichlet"])
def test_certain_units_have_no_gradient(name: str, dtype: torch.dtype) -> None:
    build = {**COUPLED, "ARMS-dirichlet": partial(ARMS, samples=8, coupling="dirichlet")}[name]
    logits = torch.tensor([[-torch.inf, -200.0, -50.0, 50.0, 200.0, torch.inf, 0.0]]).expand(16, 7).to(dtype)
    net = nn.ModuleDict({"node": Bernoulli()})
    a = nn.Parameter(logits.clone())
    torch.manual_seed(0)
    seen = []

    def closure() -> Tensor:
        seen.append(net["node"](a).detach())
        return bumpy(net["node"](a).float())

    loss = build(net, vectorize=False)(closure)
    (grad,) = torch.autograd.grad(loss, a)
    assert torch.isfinite(loss) and torch.isfinite(grad).all()
    if name == "ARM":  # a unit that agrees has a part of mean zero
        assert (grad[:, [0, 5]] == 0).all()
    else:
        assert grad[:, :6].float().abs().max() < 1e-18
    assert grad[:, 6].abs().max() > 0
    assert all((h[:, :6] == torch.tensor([0, 0, 0, 1, 1, 1]).to(dtype)).all() for h in seen)


def test_certain_and_forbidden_categories() -> None:
    rows = torch.tensor([[torch.inf, 0, 0], [-torch.inf, 0, -torch.inf], [50, -50, 0], [-torch.inf, 0.3, 0], [0, 0, 0]])
    a = nn.Parameter(rows.clone())
    net = nn.ModuleDict({"node": Categorical()})
    torch.manual_seed(1)
    for n in (2, 3, 5):
        total = torch.zeros_like(rows)
        for _ in range(20):
            total += torch.autograd.grad(CARMS(net, samples=n)(lambda: bumpy(net["node"](a))), a)[0].abs()
        assert torch.isfinite(total).all()
        assert (total[:3] < 1e-15).all() and (total[3, 0] == 0) and (total[3, 1:] > 0).all() and (total[4] > 0).all()


@pytest.mark.parametrize("build", [ARMS, CARMS])
def test_one_sample_is_refused(build) -> None:
    node = Bernoulli() if build is ARMS else Categorical()
    with pytest.raises(ValueError, match="samples is 1"):
        build(nn.ModuleDict({"node": node}), samples=1)
    with pytest.raises(TypeError, match="cannot credit node"):
        build(nn.ModuleDict({"node": Categorical() if build is ARMS else Bernoulli()}))


def test_unknown_coupling_is_refused() -> None:
    with pytest.raises(ValueError, match="'gauss'"):
        ARMS(Bernoulli(), samples=2, coupling="gauss")  # type: ignore[arg-type]


# --- the toy problem of the literature --------------------------------------------------------------------------------------
def toy_variances(units: int) -> dict[str, float]:
    """Per unit, of E[mean_d (b_d - .499)^2] at p = 1/2, worked out by hand: with x_d = b_d - b'_d every difference of costs is
    c / D sum_d x_d, c = .501^2 - .499^2, and its product with x_i has D terms of which only the i-th has a mean."""
    c, d = 0.501**2 - 0.499**2, units
    middle, squared = (0.501**2 + 0.499**2) / 2, (c / (4 * d)) ** 2
    return {
        "REINFORCE": (middle**2 + c**2 / (4 * d)) / 4 - squared,
        "leave-one-out": (c / (2 * d)) ** 2 * (1 / 2 + (d - 1) / 4) - squared,
        "ARM": (c / d) ** 2 * d / 12 - squared,
        "DisARM": squared * (d - 1),
        "ARMS": squared * (d - 1),
    }


def test_variances_of_the_toy_problem_of_200_units() -> None:
    """The closed form is what enumeration gives for few units, and for 200 what was measured elsewhere."""
    builds = {
        "REINFORCE": ScoreFunction,
        "leave-one-out": partial(ScoreFunction, baseline="leave-one-out", samples=2),
        "ARM": ARM,
        "DisARM": DisARM,
        "ARMS": ARMS,
    }
    for units in (1, 2, 4):
        net = Net(Bernoulli(), torch.zeros(units))
        for name, build in builds.items():
            actual = exact.moments(build(net), lambda: (net() - 0.499).square().mean(1)).variance["logits"]  # noqa: B023
            expected = torch.full_like(actual, toy_variances(units)[name])
            assert torch.allclose(actual, expected, rtol=1e-6, atol=1e-16), (name, units)
    measured = {"REINFORCE": 1.56e-2, "leave-one-out": 1.26e-9, "ARM": 1.64e-9, "DisARM": 1.23e-9, "ARMS": 1.23e-9}
    assert toy_variances(200) == pytest.approx(measured, rel=0.02)


def test_layers_behind_share_their_noise() -> None:
    """The first layer's difference must not carry the second layer's noise: a layer that hears nothing adds none."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(2, 2), Bernoulli(), nn.Linear(2, 40), Bernoulli()).double()
    with torch.no_grad():
        model[2].weight.zero_()
    x = torch.randn(64, 2, dtype=torch.float64)
    for build in (DisARM, ARM, ARMS, partial(ARMS, samples=4), partial(ARMS, samples=3, coupling="dirichlet")):
        loss = build(model)(lambda: bumpy(model(x)))
        (grad,) = torch.autograd.grad(loss, model[0].weight)
        assert grad.abs().max() < 1e-9


@pytest.mark.parametrize("name", [*COUPLED, "DisARM", "ARMS-dirichlet"])
def test_a_vmap_over_runs_gives_what_a_loop_over_them_gives(name: str) -> None:
    """In a vmap too, noise that runs share is one draw, in the layers where their logits differ."""
    build = {**COUPLED, "DisARM": DisARM, "ARMS-dirichlet": partial(ARMS, samples=3, coupling="dirichlet")}[name]
    torch.manual_seed(3)
    sizes = [nn.Linear(2, 3), Bernoulli(), nn.Linear(3, 3), Bernoulli(), nn.Linear(3, 4), Bernoulli()]
    model, x = nn.Sequential(*sizes).double(), torch.randn(16, 2, dtype=torch.float64)
    actual = []
    for vectorize in (True, False):
        torch.manual_seed(5)
        loss = build(model, vectorize=vectorize)(lambda: bumpy(model(x)))
        actual.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    assert torch.allclose(*actual, rtol=1e-9, atol=1e-9) and actual[0].abs().max() > 0
