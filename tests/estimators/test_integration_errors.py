"""Bad input: each error names the argument, its value or shape, the rule and the remedy, and everything works afterwards."""

import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dither import Bernoulli, Categorical, DisARM, Exact, PerNode, ScoreFunction, StraightThrough, noise

ESTIMATORS = {
    "straight-through": StraightThrough,
    "straight-through, K=3": partial(StraightThrough, samples=3),
    "score-optimal": partial(ScoreFunction, baseline="optimal"),
    "score-leave-one-out": partial(ScoreFunction, baseline="leave-one-out", samples=3),
    "score-leave-one-out, loop": partial(ScoreFunction, baseline="leave-one-out", samples=3, vectorize=False),
    "per node": partial(PerNode, estimators={"*": ScoreFunction}),
    "exact": Exact,
}
every_estimator = pytest.mark.parametrize("build", ESTIMATORS.values(), ids=ESTIMATORS)
X, Y = torch.linspace(-1, 1, 12).view(4, 3), torch.tensor([0, 1, 2, 0])


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), Bernoulli(), nn.Linear(3, 3))


def good(net):
    return F.cross_entropy(net(X), Y, reduction="none")


def assert_unharmed(net, estimator, before):
    """Nodes given back, parameters and state as before, the next call good."""
    assert all(node._handler is None and node._source is None for node in estimator.nodes.values())
    assert all(torch.equal(p, b) and p.grad is None for p, b in zip(net.parameters(), before, strict=True))
    assert not estimator.state_dict()
    loss = estimator(lambda: good(net))
    loss.backward()
    assert bool(loss.isfinite()) and all(p.grad is not None for p in net.parameters())
    net.zero_grad()


COSTS = {
    "scalar": (lambda net: good(net).mean(), ValueError, r'scalar.*reduction="none"'),
    "python number": (lambda net: float(len(net(X))), TypeError, r"returned float.*\(batch,\)"),
    "nothing": (lambda net: None, TypeError, r"returned NoneType"),
    "too many dimensions": (lambda net: net(X).unsqueeze(2), ValueError, r"\(4, 3, 1\).*flatten"),
    "integers": (lambda net: net(X).argmax(1), ValueError, r"int64.*floating-point"),
    "no terms": (lambda net: good(net).unsqueeze(1)[:, :0], ValueError, r"\(4, 0\), without terms"),
}


@every_estimator
@pytest.mark.parametrize("kind", COSTS)
def test_bad_costs(kind, build):
    cost, error, words = COSTS[kind]
    net = make_net()
    estimator, before = build(net), [p.detach().clone() for p in net.parameters()]
    with pytest.raises(error, match=words):
        estimator(lambda: cost(net))
    assert_unharmed(net, estimator, before)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if not name.startswith("straight-through")])
def test_a_cost_of_another_batch_than_the_nodes(name):
    """Nothing can be credited then; straight-through credits nothing, and takes it."""
    net = make_net()
    estimator, before = ESTIMATORS[name](net), [p.detach().clone() for p in net.parameters()]
    with pytest.raises(ValueError, match=r"logits .*4.* cost for 3.*reshape"):
        estimator(lambda: good(net)[:3])
    assert_unharmed(net, estimator, before)
    StraightThrough(net)(lambda: good(net)[:3]).backward()


@every_estimator
def test_nan_logits_name_the_node(build):
    net = make_net()
    estimator, before = build(net), [p.detach().clone() for p in net.parameters()]
    x = X.clone()
    x[2, 1] = torch.nan
    with pytest.raises(ValueError, match=r"node '1', Bernoulli: 3 of 12 logits are NaN .*\(4, 3\).*lower the learning rate"):
        estimator(lambda: F.cross_entropy(net(x), Y, reduction="none"))
    assert_unharmed(net, estimator, before)


@pytest.mark.parametrize("vectorize", [False, True])
def test_nan_between_two_nodes_names_the_second(vectorize):
    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(3))
            self.low, self.high = Bernoulli(), Bernoulli()

        def forward(self, x):
            return self.high(self.low(x * self.scale) * torch.nan)

    net = Between()
    for samples in (1, 3):
        estimator = ScoreFunction(net, samples=samples, vectorize=vectorize)
        with pytest.raises((ValueError, FloatingPointError), match="high"):
            estimator(lambda: net(X).sum(1))


@every_estimator
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_cost_that_is_not_finite_names_call_example_and_seed(build, value):
    net = make_net()
    estimator, before = build(net), [p.detach().clone() for p in net.parameters()]
    broken = torch.zeros(4)
    broken[2] = value
    words = r"1 of 4 examples \(first: example 2\) in call 1 of \w+; all logits are finite"
    torch.manual_seed(0)
    seed = noise.draw_seed()
    torch.manual_seed(0)
    with pytest.raises(FloatingPointError, match=words) as caught:
        estimator(lambda: good(net) + broken)
    assert isinstance(estimator, Exact) or f"seed {int(seed)}" in str(caught.value)
    assert_unharmed(net, estimator, before)


@every_estimator
def test_infinite_logits_are_legal(build):
    net = nn.Sequential(nn.Linear(3, 3), Bernoulli(), nn.Linear(3, 3))
    with torch.no_grad():
        net[0].bias[:] = torch.tensor([torch.inf, -torch.inf, 0])
    build(net)(lambda: good(net)).backward()
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters())


@every_estimator
def test_an_exception_of_the_closure_passes_through(build):
    net = make_net()
    estimator, before = build(net), [p.detach().clone() for p in net.parameters()]

    def failing():
        net(X)
        raise KeyError("the user's own")

    with pytest.raises(KeyError, match="the user's own"):
        estimator(failing)
    assert_unharmed(net, estimator, before)


@every_estimator
def test_models_and_closures_without_nodes(build):
    with pytest.raises(ValueError, match=r"Linear has no stochastic node.*dither\.Bernoulli"):
        build(nn.Linear(3, 3))
    with pytest.raises(TypeError, match=r"function.*torch\.nn\.Module"):
        build(make_net)
    net, other = make_net(), make_net()
    estimator, before = build(net), [p.detach().clone() for p in net.parameters()]
    with pytest.raises(RuntimeError, match=r"does not cover it: build the estimator on all modules that the closure runs"):
        estimator(lambda: good(other))
    with pytest.raises(ValueError, match=r"called none of the nodes .*\(1\).*the model that the closure runs"):
        estimator(lambda: net[0](X).sum(1))
    assert_unharmed(net, estimator, before)


@pytest.mark.parametrize("samples", [0, -1, True, 1.5, 10**9, "3", None])
@pytest.mark.parametrize("build", [StraightThrough, ScoreFunction])
def test_samples(build, samples):
    with pytest.raises(ValueError, match=rf"samples is {samples!r}: it must be an integer from 1 to 65536"):
        build(make_net(), samples=samples)


def test_arguments_of_the_score_function():
    net = make_net()
    with pytest.raises(ValueError, match=r"samples=1 with baseline='leave-one-out'.*samples >= 2.*baseline='optimal'"):
        ScoreFunction(net, baseline="leave-one-out")
    for bad in ("best", 3, torch.zeros(2)):
        with pytest.raises(ValueError, match=r"baseline is .*None, 'mean', 'optimal', 'leave-one-out' or a torch\.nn\.Module"):
            ScoreFunction(net, baseline=bad)
    for decay in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"decay is .*0 <= decay < 1"):
            ScoreFunction(net, baseline="mean", decay=decay)
    with pytest.raises(ValueError, match=r"variant is 'best'.*'identity', 'sigmoid'"):
        StraightThrough(net, variant="best")


def test_arguments_of_per_node():
    net = nn.Sequential(nn.Linear(3, 3), Bernoulli(), nn.Linear(3, 4), Categorical())
    with pytest.raises(ValueError, match=r"no node is called 'gate': the nodes of the model are 1, 3"):
        PerNode(net, {"gate": ScoreFunction})
    with pytest.raises(TypeError, match=r"Exact for '1'.*use it by itself"):
        PerNode(net, {"1": Exact})
    with pytest.raises(ValueError, match=r"samples differ.*give all the same number"):
        PerNode(net, {"1": partial(ScoreFunction, samples=2), "3": StraightThrough})
    with pytest.raises(ValueError, match=r"samples is 0"):
        PerNode(net, {"1": partial(ScoreFunction, samples=0)})


@every_estimator
def test_a_wrong_state_is_refused_and_the_former_kept(build):
    net = make_net()
    estimator = build(net)
    estimator(lambda: good(net)).backward()
    before = {name: tensor.clone() for name, tensor in estimator.state_dict().items()}
    for wrong in ({"momentum": torch.zeros(3)}, {"baseline.1.numerator": torch.zeros(3)}):
        with pytest.raises(ValueError, match=r"state"):
            estimator.load_state_dict(wrong)
    after = estimator.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    estimator.load_state_dict(before)
    estimator(lambda: good(net)).backward()


def test_runs_that_call_different_numbers_of_nodes():
    net, turn = make_net(), itertools.count()

    def changing():
        return good(net) + (good(net) if next(turn) % 2 else 0)

    with pytest.raises(ValueError, match=r"called other nodes, in one of its runs.*changes by itself.*leave-one-out"):
        DisARM(net, vectorize=False)(changing)
    assert net[1]._handler is None
    ScoreFunction(net, samples=3, vectorize=False)(changing).backward()  # its runs are not compared call by call
