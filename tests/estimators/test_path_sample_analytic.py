"""Against enumeration: no bias for one layer, less than straight-through's for more."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import dither
from dither import PathSampleAnalytic, exact, testing
from dither.models.mlp import StochasticMLP


def problem(sizes=(2, 3, 2), values=(0, 1), seed=0, gain=1.0):
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), dither.Bernoulli(values=values)]
    net = nn.Sequential(*layers, nn.Linear(sizes[-1], 2)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * gain)
    x = torch.randn(2, sizes[0], generator=generator, dtype=torch.float64)

    def closure():
        z = net(x)
        return (torch.sin(1.3 * z) + 0.2 * z**3).sum(1)

    return net, closure


@pytest.mark.parametrize("values", [(0, 1), (-1, 1), (2, 0.5)])
@pytest.mark.parametrize("vectorize", [True, False])
def test_one_layer_is_unbiased(values, vectorize):
    net, closure = problem((2, 3), values)
    testing.assert_unbiased(PathSampleAnalytic(net, vectorize=vectorize), net, closure)


def test_one_layer_is_unbiased_for_a_cost_without_slopes_and_local_terms():
    net, _ = problem((2, 3))
    x = torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))

    def steps():
        return net(x).mul(4).round().detach()

    testing.assert_unbiased(PathSampleAnalytic(net), net, steps)


@pytest.mark.parametrize("sizes", [(2, 3, 2), (2, 2, 2, 2)])
@pytest.mark.parametrize("values", [(0, 1), (-1, 1)])
def test_deep_bias_is_a_fraction_of_straight_through(sizes, values):
    psa, st = [], []
    for seed in range(4):
        net, closure = problem(sizes, values, seed)
        for errors, build in ((psa, PathSampleAnalytic), (st, dither.StraightThrough)):
            errors.append(exact.concatenate(testing.bias(build(net), closure, max_outcomes=1 << 18)).norm())
    assert sum(psa) < 0.35 * sum(st), (psa, st)


def test_the_last_layer_is_unbiased_in_a_deep_net():
    net, closure = problem((2, 2, 2))
    errors = testing.bias(PathSampleAnalytic(net), closure, max_outcomes=1 << 18)
    assert max(float(errors[f"{k}.{p}"].abs().max()) for k in (2, 4) for p in ("weight", "bias")) < 1e-12
    assert errors["0.weight"].abs().max() > 1e-4


def test_value_evaluations_and_variance():
    net, closure = problem((2, 3))
    estimator = PathSampleAnalytic(net)
    ours = exact.moments(estimator, closure)
    theirs = exact.moments(dither.ScoreFunction(net), closure)
    assert float(ours.value.detach()) == pytest.approx(float(exact.expected_cost(net, closure).mean().detach()), abs=1e-12)
    assert estimator.evaluations == 4
    assert exact.concatenate(ours.variance).sum() < 0.5 * exact.concatenate(theirs.variance).sum()


def test_a_stochastic_mlp_is_a_chain():
    torch.manual_seed(0)
    mlp = StochasticMLP((2, 3, 2, 1)).double()
    plain = nn.Sequential(*[m for pair in zip(mlp.linears, mlp.nodes, strict=False) for m in pair], mlp.linears[-1])
    x = torch.randn(3, 2, dtype=torch.float64)
    gradients = []
    for model in (mlp, plain):
        torch.manual_seed(1)
        loss = PathSampleAnalytic(model)(lambda model=model: model(x).square().sum(1))
        gradients.append(torch.autograd.grad(loss, list(mlp.parameters())))
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


class Apart(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.node = nn.Linear(2, 2), dither.Bernoulli()


@pytest.mark.parametrize(
    "net",
    [
        Apart(),
        nn.Sequential(nn.Linear(2, 2), dither.Bernoulli(), nn.Linear(2, 2), nn.Tanh(), dither.Bernoulli()),
        nn.Sequential(nn.Linear(2, 2), dither.Bernoulli(), dither.Bernoulli()),
        nn.Sequential(nn.Linear(2, 2), dither.Categorical()),
    ],
)
def test_other_models_are_refused(net):
    with pytest.raises(TypeError, match="ScoreFunction"):
        PathSampleAnalytic(net)


def test_a_layer_called_twice_is_refused():
    net, closure = problem((2, 2, 2))
    with pytest.raises(ValueError, match="one pass"):
        PathSampleAnalytic(net)(lambda: closure() + closure())
