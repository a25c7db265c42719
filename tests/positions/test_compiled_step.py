"""The whole training step compiled, the estimator's call in it: losses and gradients of the eager step."""

import pytest
import torch
import torch._dynamo as dynamo
import torch.nn.functional as F
from torch import nn

import dither

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler's own

ESTIMATORS = {
    "StraightThrough": dither.StraightThrough,
    "ScoreFunction": dither.ScoreFunction,
    "leave-one-out, loop": lambda net: dither.ScoreFunction(net, "leave-one-out", 3, vectorize=False),
    "leave-one-out": lambda net: dither.ScoreFunction(net, "leave-one-out", 3),
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
