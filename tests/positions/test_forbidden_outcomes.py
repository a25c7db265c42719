"""Logits of -inf and +inf, outcomes that cannot be: finite and right gradients in oracles, estimators and audits.

Right means: those of the same net in which the impossible outcomes are merely improbable, logits of -60 and 60.
"""

import warnings

import pytest
import torch
from torch import nn

import dither
from dither import exact

INF = torch.inf
FORBIDDEN = {"none": [], "one": [(0, 0, 1)], "all but one": [(1, 0, 0), (1, 0, 2)], "in several units": [(0, 0, 0), (2, 1, 2)]}
NODES = {
    "Categorical": lambda: dither.Categorical(),
    "Bernoulli": lambda: dither.Bernoulli(),
    "Bernoulli, signs": lambda: dither.Bernoulli(values=(-1, 1)),
}
ORACLES = {
    "Exact": lambda net, cost: gradients(dither.Exact(net)(cost), net),
    "Exact, loop": lambda net, cost: gradients(dither.Exact(net, vectorize=False)(cost), net),
    "exact.gradient": lambda net, cost: list(exact.gradient(net, cost).values()),
    "moments of the score function": lambda net, cost: list(exact.moments(dither.ScoreFunction(net), cost).mean.values()),
    "moments of DisARM": lambda net, cost: list(exact.moments(dither.DisARM(net), cost).mean.values()),
}
ESTIMATORS = {
    "StraightThrough": dither.StraightThrough,
    "ScoreFunction": dither.ScoreFunction,
    "leave-one-out": lambda net: dither.ScoreFunction(net, baseline="leave-one-out", samples=3),
    "ReinMax": dither.ReinMax,
    "GumbelSoftmax": dither.GumbelSoftmax,
    "LocalExpectation": dither.LocalExpectation,
}


def gradients(loss, net):
    return list(torch.autograd.grad(loss, list(net.parameters())))


class Net(nn.Module):
    """(examples, 2 units, 3 categories), some of them forbidden by a mask, as a decoder's rules would."""

    def __init__(self, node, forbidden, infinity):
        super().__init__()
        torch.manual_seed(0)
        self.node, self.below = node, nn.Linear(4, 6).double()
        self.above = nn.Linear(6, 2).double()
        self.register_buffer("mask", torch.zeros(3, 2, 3, dtype=torch.bool))
        for place in forbidden:
            self.mask[place] = True
        self.register_buffer("x", torch.randn(3, 4, dtype=torch.float64))
        self.infinity = infinity

    def cost(self):
        logits = self.below(self.x).view(3, 2, 3).masked_fill(self.mask, self.infinity)
        return self.above(self.node(logits).flatten(1)).square().sum(1)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("forbidden", FORBIDDEN)
@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("oracle", ["Exact", "Exact, loop", "exact.gradient"])
def test_oracles_are_those_of_improbable_outcomes(oracle, node, forbidden, sign):
    infinite, improbable = (Net(NODES[node](), FORBIDDEN[forbidden], sign * size) for size in (INF, 60.0))
    if node == "Categorical" and sign > 0 and forbidden != "none":
        pytest.skip("+inf shares all the mass: that is another distribution than 60")
    ours, theirs = (ORACLES[oracle](net, net.cost) for net in (infinite, improbable))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("forbidden", FORBIDDEN)
@pytest.mark.parametrize("oracle", ["moments of the score function", "moments of DisARM"])
def test_moments_are_those_of_improbable_outcomes(oracle, forbidden):
    node = dither.Bernoulli() if "DisARM" in oracle else dither.Categorical()
    nets = [Net(node, FORBIDDEN[forbidden], size) for size in (-INF, -60.0)]
    for net in nets:
        net.x, net.mask = net.x[:1], net.mask[:1]
        net.cost = lambda net=net: (
            net.above(net.node(net.below(net.x).view(1, 2, 3).masked_fill(net.mask, net.infinity)).flatten(1)).square().sum(1)
        )
    ours, theirs = (ORACLES[oracle](net, net.cost) for net in nets)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("forbidden", FORBIDDEN)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("node", NODES)
def test_estimators_give_finite_gradients(node, estimator, forbidden):
    net = Net(NODES[node](), FORBIDDEN[forbidden], -INF)
    assert all(g.isfinite().all() for g in gradients(ESTIMATORS[estimator](net)(net.cost), net))


@pytest.mark.parametrize("reference", ["exact", "average"])
@pytest.mark.parametrize("node", NODES)
def test_audits_are_finite(node, reference):
    net = Net(NODES[node](), FORBIDDEN["in several units"], -INF)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = dither.audit(net, net.cost, {"st": dither.StraightThrough}, draws=4, warmup=1, reference=reference)
    row = next(iter(report.to_dicts()))
    assert all(torch.tensor(float(row[key])).isfinite() for key in ("bias", "mse", "cosine") if row[key] is not None)


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_certain_categories_share_all_the_mass(dtype):
    logits = torch.tensor([-INF, INF, 0.0, INF], dtype=dtype).expand(4000, 4)
    frequencies = dither.Categorical()(logits).double().mean(0)
    # standard deviation of a frequency .0079; false alarms 4e-6
    torch.testing.assert_close(frequencies, torch.tensor([0, 0.5, 0, 0.5]).double(), rtol=0, atol=0.036)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 2), (4, 3), (2, 5, 3)])
def test_a_unit_without_any_category_is_an_error(shape, dtype):
    node, logits = dither.Categorical(), torch.zeros(shape, dtype=dtype)
    logits[-1] = -INF
    with pytest.raises(ValueError, match="-inf for all"):
        node(logits)
    with pytest.raises(ValueError, match="-inf for all"):
        dither.ScoreFunction(node)(lambda: node(logits).flatten(1).sum(1))
    with pytest.raises(ValueError, match="-inf for all"), dither.deterministic("mean"):
        node(logits)
    with pytest.raises((ValueError, FloatingPointError)):  # in a vmap Python may not look, and the cost shows it
        dither.ScoreFunction(node, baseline="leave-one-out", samples=3)(lambda: node(logits + 0).flatten(1).sum(1))
