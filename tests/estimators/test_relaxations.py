"""Gumbel-softmax, Gumbel-Rao, ReinMax, MVE and clipped straight-through as estimators: what their theory promises."""

from functools import partial

import pytest
import torch
from torch import nn

import dither
from dither import MVE, GumbelRao, GumbelSoftmax, ReinMax, StraightThrough, exact, functional, testing


class Units(nn.Module):
    """Free logits, one layer of units, a cost of given degree in them."""

    def __init__(self, node, batch=1, units=2, categories=3):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        shape = (units, categories) if isinstance(node, dither.Categorical) else (units,)
        self.logits = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        self.node, self.batch = node, batch
        width = self.logits.numel()
        self.quadratic = torch.randn(width, width, generator=generator, dtype=torch.float64)
        self.linear = torch.randn(width, generator=generator, dtype=torch.float64)

    def cost(self, cubic=0.0):
        z = self.node(self.logits.expand(self.batch, *self.logits.shape)).flatten(1)
        return ((z @ self.quadratic) * z).sum(1) + z @ self.linear + cubic * (z @ self.linear) ** 3


NODES = {"bits": dither.Bernoulli, "signs": partial(dither.Bernoulli, values=(-1, 1)), "categories": dither.Categorical}


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("build", [ReinMax, MVE])
def test_exact_for_quadratic_costs_and_for_no_others(node, build):
    net = Units(NODES[node]())
    testing.assert_unbiased(build(net), net, net.cost)
    assert testing.bias(build(net), partial(net.cost, 1.0))["logits"].abs().max() > 1e-3
    tempered = build(net, **{"temperature" if build is ReinMax else "quadratic": 1.7})
    assert testing.bias(tempered, net.cost)["logits"].abs().max() > 1e-3


@pytest.mark.parametrize("node", ["bits", "categories"])
def test_averaging_keeps_the_mean_and_lowers_the_variance(node):
    """One batch of examples that share their logits: each row's gradient is a draw of the estimator."""
    draws = 20_000
    net = Units(NODES[node](), batch=draws)

    def gradients(estimator):
        rows = net.logits.detach().expand(draws, *net.logits.shape).clone().requires_grad_()
        z = lambda: net.node(rows).flatten(1)  # noqa: E731
        loss = estimator(lambda: ((z() @ net.quadratic) * net.linear).sum(1) + (lambda h: (h @ net.linear) ** 3)(z()))
        return draws * torch.autograd.grad(loss, rows)[0].flatten(1)

    torch.manual_seed(0)
    plain = gradients(GumbelSoftmax(net, temperature=0.4))
    averaged = gradients(GumbelRao(net, temperature=0.4, draws=6))
    error = (plain.mean(0) - averaged.mean(0)).abs() / ((plain.var(0) + averaged.var(0)) / draws).sqrt()
    assert error.max() < 6.1
    assert averaged.var(0).sum() < 0.9 * plain.var(0).sum()


def test_more_draws_are_other_draws():
    net = Units(dither.Categorical())
    torch.manual_seed(0)
    one = torch.autograd.grad(GumbelRao(net, draws=1)(net.cost), net.logits)[0]
    torch.manual_seed(0)
    many = torch.autograd.grad(GumbelRao(net, draws=50)(net.cost), net.logits)[0]
    assert not torch.allclose(one, many)


@pytest.mark.parametrize("node", NODES)
def test_soft_is_the_network_of_soft_samples(node):
    net = Units(NODES[node]())
    estimator = GumbelSoftmax(net, temperature=0.7, hard=False)
    assert estimator.stochastic is False and GumbelSoftmax(net).stochastic is True
    torch.manual_seed(1)
    loss = estimator(net.cost)
    got = torch.autograd.grad(loss, net.logits)[0]
    soft = functional.gumbel_softmax if node == "categories" else functional.bernoulli_gumbel_softmax
    other = Units(NODES[node](sampler=partial(soft, temperature=0.7)))
    torch.manual_seed(1)
    expected = other.cost().mean()
    assert torch.equal(loss, expected)
    torch.testing.assert_close(got, torch.autograd.grad(expected, other.logits)[0])


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("build", [GumbelSoftmax, GumbelRao, ReinMax, MVE, StraightThrough])
def test_changing_the_estimator_never_changes_the_sample(node, build):
    net = Units(NODES[node](), batch=50)
    torch.manual_seed(5)
    expected = dither.ScoreFunction(net)(net.cost)
    torch.manual_seed(5)
    assert torch.equal(build(net)(net.cost), expected)


def test_clipped_stops_decided_units():
    net = Units(dither.Bernoulli())
    with torch.no_grad():
        net.logits.copy_(torch.tensor([0.5, 1.5]))
    gradient = torch.autograd.grad(StraightThrough(net, variant="clipped")(net.cost), net.logits)[0]
    assert gradient[0] != 0 and gradient[1] == 0


def test_oracles_see_outcomes_exactly():
    for node in NODES.values():
        net = Units(node())
        for estimator in (GumbelSoftmax(net), GumbelRao(net)):
            value = float(exact.moments(estimator, net.cost, variance=False).value.detach())
            assert value == pytest.approx(float(exact.expected_cost(net, net.cost).detach().mean()), abs=1e-12)


@pytest.mark.parametrize(("build", "options", "named"), [
    (GumbelSoftmax, {"temperature": 0.0}, "temperature"), (GumbelRao, {"temperature": -1.0}, "temperature"),
    (GumbelRao, {"draws": 0}, "draws"), (GumbelRao, {"draws": 2.5}, "draws"), (ReinMax, {"temperature": 0.0}, "temperature"),
    (MVE, {"quadratic": 0.0}, "quadratic"), (StraightThrough, {"variant": "clip"}, "clipped"),
])  # fmt: skip
def test_wrong_options_are_named(build, options, named):
    with pytest.raises(ValueError, match=named):
        build(Units(dither.Bernoulli()), **options)
