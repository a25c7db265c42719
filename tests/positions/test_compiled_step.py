"""The whole training step compiled, the estimator's call in it: losses and gradients of the eager step."""

import threading

import pytest
import torch
import torch._dynamo as dynamo
import torch.nn.functional as F
from torch import nn

import dither
from dither import testing
from dither.nodes import eagerly

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler's own

ESTIMATORS = {
    "StraightThrough": dither.StraightThrough,
    "ScoreFunction": dither.ScoreFunction,
    "leave-one-out, loop": lambda net: dither.ScoreFunction(net, baseline="leave-one-out", samples=3, vectorize=False),
    "leave-one-out": lambda net: dither.ScoreFunction(net, baseline="leave-one-out", samples=3),
    "StraightThrough, 3": lambda net: dither.StraightThrough(net, samples=3),
    "DisARM": dither.DisARM,
}
X = torch.linspace(-2, 2, 32).sin().view(8, 4)
Y = torch.arange(8) % 2


@pytest.fixture(autouse=True)
def fresh_compiler():
    dynamo.reset()
    yield
    dynamo.reset()


def train(make, backend):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), dither.Bernoulli(), nn.Linear(6, 2))
    estimator, history = make(net), []

    def step():
        return estimator(lambda: F.cross_entropy(net(X), Y, reduction="none"))

    run = torch.compile(step, backend=backend) if backend else step
    for seed in range(2):
        torch.manual_seed(seed)
        net.zero_grad()
        loss = run()
        loss.backward()
        history.append([loss.detach().clone(), *(p.grad.clone() for p in net.parameters())])
    return history


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_compiled_step_is_the_eager_one(name):
    make = ESTIMATORS[name]
    for ours, theirs in zip(train(make, "aot_eager"), train(make, None), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [dither.ScoreFunction, dither.DisARM])
def test_oracles_take_a_compiled_model(make):
    model = testing.Tiny(dither.Bernoulli)
    compiled = torch.compile(model, backend="eager")
    cost = lambda: torch.sin(compiled()).sum(1)  # noqa: E731
    plainly = dither.exact.gradient(model, lambda: torch.sin(model()).sum(1))
    oracles = (dither.exact.gradient(model, cost), dither.exact.moments(make(model), cost).mean)
    for gradients in oracles:
        torch.testing.assert_close(gradients, plainly)


def test_runs_of_threads_that_overlap_leave_the_compiler_on():
    """What runs eagerly within an estimator's vmap or an oracle is compiled again when the last of them has ended."""
    begun, ended = threading.Event(), threading.Event()

    def first():
        begun.set()
        assert ended.wait(60)

    other = threading.Thread(target=eagerly, args=(first,))
    other.start()
    assert begun.wait(60)

    def second():
        ended.set()
        other.join(60)
        return compiled(X)

    compiled = torch.compile(lambda x: x + torch.compiler.is_compiling(), backend="eager")
    assert torch.equal(eagerly(second), X)
    assert torch.equal(compiled(X), X + 1)
