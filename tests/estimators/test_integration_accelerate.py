"""A framework that owns `backward` needs no change: accelerate's loop, and a compute_loss as a trainer calls it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dither

accelerate = pytest.importorskip("accelerate")

ESTIMATORS = {
    "straight-through": dither.StraightThrough,
    "score-optimal": lambda net: dither.ScoreFunction(net, baseline="optimal"),
    "score-leave-one-out": lambda net: dither.ScoreFunction(net, baseline="leave-one-out", samples=3),
}


def parts():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), dither.Bernoulli(), nn.Linear(6, 3))
    data = TensorDataset(torch.randn(24, 4), torch.randint(3, (24,)))
    return net, torch.optim.SGD(net.parameters(), 0.2), DataLoader(data, batch_size=8)


def weights_after(train, build):
    net, optimizer, loader = parts()
    torch.manual_seed(7)
    train(net, optimizer, loader, build)
    return [p.detach().clone() for p in net.parameters()]


def plainly(net, optimizer, loader, build):
    estimator = build(net)
    for x, y in loader:
        optimizer.zero_grad()
        estimator(lambda x=x, y=y: F.cross_entropy(net(x), y, reduction="none")).backward()
        optimizer.step()


def by_accelerate(net, optimizer, loader, build):
    accelerator = accelerate.Accelerator(cpu=True)
    net, optimizer, loader = accelerator.prepare(net, optimizer, loader)
    estimator = build(net)
    for x, y in loader:
        optimizer.zero_grad()
        loss = estimator(lambda x=x, y=y: F.cross_entropy(net(x), y, reduction="none"))
        accelerator.backward(loss)
        optimizer.step()


class Trainer:
    """As the trainers that users subclass: they override `compute_loss`, the rest is the framework's."""

    def compute_loss(self, model, inputs):
        raise NotImplementedError

    def train(self, model, optimizer, loader):
        for inputs in loader:
            loss = self.compute_loss(model, inputs) / 1
            loss.backward()
            assert isinstance(loss.detach().item(), float)
            optimizer.step()
            model.zero_grad()


def by_compute_loss(net, optimizer, loader, build):
    class Ours(Trainer):
        estimator = build(net)

        def compute_loss(self, model, inputs):
            x, y = inputs
            return self.estimator(lambda: F.cross_entropy(model(x), y, reduction="none"))

    Ours().train(net, optimizer, loader)


@pytest.mark.parametrize("train", [by_accelerate, by_compute_loss])
@pytest.mark.parametrize("build", ESTIMATORS.values(), ids=ESTIMATORS)
def test_the_same_weights_as_a_plain_loop(build, train):
    ours, plain = weights_after(train, build), weights_after(plainly, build)
    assert not torch.equal(plain[0], parts()[0][0].weight)
    for a, b in zip(ours, plain, strict=True):
        assert torch.equal(a, b)


def test_accelerates_gradient_accumulation():
    """Two half batches under `accelerator.accumulate` make one step of the whole batch's gradient."""
    net, optimizer, _ = parts()
    x, y = torch.randn(8, 4), torch.randint(3, (8,))
    torch.manual_seed(1)
    expected = torch.autograd.grad(
        dither.ScoreFunction(net)(lambda: F.cross_entropy(net(x), y, reduction="none")), list(net.parameters())
    )
    before = [p.detach().clone() for p in net.parameters()]
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    net, optimizer = accelerator.prepare(net, optimizer)
    estimator = dither.ScoreFunction(net)
    for half in (torch.arange(4), torch.arange(4, 8)):
        with accelerator.accumulate(net), dither.noise.examples(half):
            torch.manual_seed(1)
            loss = estimator(lambda half=half: F.cross_entropy(net(x[half]), y[half], reduction="none"))
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    for p, b, g in zip(net.parameters(), before, expected, strict=True):
        torch.testing.assert_close((b - p) / 0.2, g, rtol=1e-4, atol=1e-6)
