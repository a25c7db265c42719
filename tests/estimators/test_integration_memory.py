"""Training keeps nothing: after a warm-up the number of live tensors is the same at every step."""

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import dither

ESTIMATORS = {
    "straight-through": dither.StraightThrough,
    "straight-through, K=3": lambda net: dither.StraightThrough(net, samples=3),
    "score-mean": lambda net: dither.ScoreFunction(net, baseline="mean"),
    "score-optimal": lambda net: dither.ScoreFunction(net, baseline="optimal"),
    "score-leave-one-out": lambda net: dither.ScoreFunction(net, baseline="leave-one-out", samples=3),
    "score-leave-one-out, loop": lambda net: dither.ScoreFunction(net, baseline="leave-one-out", samples=3, vectorize=False),
    "per node": lambda net: dither.PerNode(net, {"*": dither.ScoreFunction}),
    "exact": dither.Exact,
}


class Net(nn.Module):
    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 3), dither.Bernoulli(), nn.Linear(3, 3), nn.Tanh())
        self.head = nn.Linear(3, 3)
        self.checkpointed = checkpointed

    def forward(self, x):
        return self.head(checkpoint(self.block, x, use_reentrant=False) if self.checkpointed else self.block(x))


@pytest.fixture(autouse=True)
def young_heap():
    """All that was there before the test is set apart, or every count would walk through it."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())  # asks no object anything


def soak(net, build, steps, backward=True):
    """Live tensors, counted every thirtieth step."""
    estimator, optimizer = build(net), torch.optim.Adam(net.parameters())
    x, y = torch.randn(6, 4), torch.randint(3, (6,))
    counts = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = estimator(lambda: F.cross_entropy(net(x), y, reduction="none"))
        if backward:
            loss.backward()
            optimizer.step()
        del loss
        if step % 30 == 29:
            counts.append(tensors())
    return counts


@pytest.mark.parametrize("build", ESTIMATORS.values(), ids=ESTIMATORS)
def test_many_steps_keep_no_tensor(build, pytestconfig):
    counts = soak(Net(), build, 300 if pytestconfig.getoption("--long") else 120)
    assert len(set(counts[1:])) == 1, counts


@pytest.mark.parametrize("name", ["straight-through", "score-mean", "score-leave-one-out, loop"])
def test_checkpointed_steps_keep_no_tensor(name):
    counts = soak(Net(checkpointed=True), ESTIMATORS[name], 120)
    assert len(set(counts[1:])) == 1, counts


def test_a_loss_thrown_away_is_freed():
    counts = soak(Net(), ESTIMATORS["score-optimal"], 150, backward=False)
    assert len(set(counts[1:])) == 1, counts


def test_an_estimator_holds_no_activation_between_calls():
    net = Net()
    estimator = dither.ScoreFunction(net, baseline="optimal")
    before = tensors()
    loss = estimator(lambda: F.cross_entropy(net(torch.ones(6, 4)), torch.zeros(6, dtype=torch.long), reduction="none"))
    loss.backward()
    del loss
    net.zero_grad()
    state = len(estimator.state_dict())
    assert tensors() <= before + state + 2  # the seed and the number of the sample
