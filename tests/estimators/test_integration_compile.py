"""A compiled model in the closure: the samples and gradients of the eager one, compiled once and not at every step."""

import shutil

import pytest
import torch
import torch._dynamo as dynamo
import torch.nn.functional as F
from torch import nn

import dither

ESTIMATORS = {
    "straight-through": dither.StraightThrough,
    "straight-through, K=3": lambda net: dither.StraightThrough(net, samples=3),
    "score-optimal": lambda net: dither.ScoreFunction(net, baseline="optimal"),
    "score-leave-one-out": lambda net: dither.ScoreFunction(net, baseline="leave-one-out", samples=3),
    "score-leave-one-out, loop": lambda net: dither.ScoreFunction(net, baseline="leave-one-out", samples=3, vectorize=False),
    "forward-only": lambda net: dither.ForwardOnly(net, baseline="mean"),
    "forward-only, K=3": lambda net: dither.ForwardOnly(net, baseline="leave-one-out", samples=3, keep="bits"),
    "per node": lambda net: dither.PerNode(net, {"*.1": dither.StraightThrough, "*": dither.ScoreFunction}),
}
X = torch.linspace(-2, 2, 48).sin().view(8, 6)
Y = torch.arange(8) % 3


class Net(nn.Module):
    """Two different nodes and one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Linear(6, 5), dither.Bernoulli(values=(-1, 1)))
        self.second = nn.Sequential(nn.Linear(5, 5), dither.Bernoulli())
        self.third = nn.Sequential(nn.Linear(5, 4), dither.Categorical())
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.third(self.second(self.second(self.first(x)))))


@pytest.fixture(autouse=True)
def fresh_compiler():
    dynamo.reset()
    dynamo.utils.counters.clear()
    yield
    dynamo.reset()


def train(estimator, net, forward, steps):
    """(losses, the logits' values seen, gradients) of every step."""
    optimizer, history = torch.optim.SGD(net.parameters(), 0.1), []
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss = estimator(lambda: F.cross_entropy(forward(X), Y, reduction="none"))
        loss.backward()
        history.append([loss.detach(), *(p.grad.clone() for p in net.parameters())])
        optimizer.step()
    return history


@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_compiled_equals_eager_and_is_compiled_once(name, fullgraph):
    eager, net = Net(), Net()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=fullgraph)
    ours = train(ESTIMATORS[name](net), net, compiled, 20)
    theirs = train(ESTIMATORS[name](eager), eager, eager, 20)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert dynamo.utils.counters["stats"]["unique_graphs"] <= 1
    assert not dynamo.utils.counters["graph_break"]


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch's inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
def test_inductor_and_an_estimator_built_on_the_compiled_model():
    eager, net = Net(), Net()
    compiled = torch.compile(net, fullgraph=True)
    estimator = dither.StraightThrough(compiled)
    assert list(estimator.nodes) == list(dither.StraightThrough(eager).nodes)
    ours, theirs = train(estimator, net, compiled, 3), train(dither.StraightThrough(eager), eager, eager, 3)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_one_compiled_model_serves_estimators_evaluation_and_itself():
    net, eager = Net(), Net()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    first, second = dither.ScoreFunction(net), dither.StraightThrough(net)
    expected_first, expected_second = dither.ScoreFunction(eager), dither.StraightThrough(eager)
    for step in range(6):
        for ours, theirs in ((first, expected_first), (second, expected_second)):
            a = train(ours, net, compiled, 1)
            b = train(theirs, eager, eager, 1)
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        with torch.no_grad(), dither.deterministic("mean"):
            torch.testing.assert_close(compiled(X), eager(X), rtol=1e-5, atol=1e-6)
        with torch.no_grad():
            torch.manual_seed(step)
            compiled(X)
    assert dynamo.utils.counters["stats"]["unique_graphs"] <= 6  # one per way of use, whatever the number of steps


def test_blocks_compiled_one_by_one():
    eager, net = Net(), Net()
    for name in ("first", "second", "third"):
        setattr(net, name, torch.compile(getattr(net, name), backend="aot_eager", fullgraph=True))
    assert list(dither.StraightThrough(net).nodes) == list(dither.StraightThrough(eager).nodes)
    ours = train(dither.ScoreFunction(net, baseline="optimal"), net, net, 10)
    theirs = train(dither.ScoreFunction(eager, baseline="optimal"), eager, eager, 10)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert dynamo.utils.counters["stats"]["unique_graphs"] <= 4  # one per call of a block


def test_another_batch_size_costs_one_more_compilation():
    net = Net()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    estimator = dither.ScoreFunction(net)
    for rows in (8, 7, 6, 5, 8, 4, 3):
        estimator(lambda rows=rows: F.cross_entropy(compiled(X[:rows]), Y[:rows], reduction="none")).backward()
    assert dynamo.utils.counters["stats"]["unique_graphs"] <= 2
