"""Activation checkpointing under an estimator: the recomputation repeats the samples, so that gradients are the same bits."""

import gc
import weakref
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import dither
from dither.nodes.checkpoint import _regions

ESTIMATORS = {
    "straight-through": dither.StraightThrough,
    "straight-through, K=3": lambda net: dither.StraightThrough(net, variant="sigmoid", samples=3, vectorize=False),
    "score": dither.ScoreFunction,
    "score-optimal": lambda net: dither.ScoreFunction(net, baseline="optimal"),
    "score-leave-one-out": lambda net: dither.ScoreFunction(net, baseline="leave-one-out", samples=3, vectorize=False),
    "deterministic": dither.Deterministic,
}


class Net(nn.Module):
    """Blocks with two nodes each, one of them shared by all blocks; checkpointed as told, nested ones twice over."""

    def __init__(self, depth: int, way: str = "plain", **options) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.shared = dither.Bernoulli(values=(-1, 1))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 4), nn.Tanh(), dither.Bernoulli(), nn.Linear(4, 4), self.shared, nn.Linear(4, 4))
            for _ in range(depth)
        )
        self.head = nn.Linear(4, 3)
        self.way, self.options = way, {"use_reentrant": False} | options
        self.double()

    def run(self, part, x):
        return checkpoint(part, x, **self.options)

    def forward(self, x):
        for block in self.blocks:
            if self.way == "plain":
                x = block(x)
            elif self.way == "checkpointed":
                x = self.run(block, x)
            else:
                x = self.run(lambda x, b=block: self.run(b[3:], self.run(b[:3], x)), x)
        return self.head(x.tanh())


X = torch.linspace(-2, 2, 20, dtype=torch.float64).sin().view(5, 4)
Y = torch.tensor([0, 1, 2, 1, 0])


def cost(net):
    return F.cross_entropy(net(X), Y, reduction="none")


def gradients(net, build, backward=torch.Tensor.backward):
    torch.manual_seed(5)
    estimator = build(net)
    with dither.noise.examples(torch.arange(5) + 70):
        loss = estimator(lambda: cost(net))
    torch.rand(3)  # the generator has moved on by the time of the backward pass
    backward(loss)
    return [p.grad for p in net.parameters()]


def assert_equal(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)


@pytest.mark.parametrize("preserve_rng_state", [True, False])
@pytest.mark.parametrize("way", ["checkpointed", "nested"])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_gradients_are_those_without_checkpointing(name, depth, way, preserve_rng_state):
    build = ESTIMATORS[name]
    expected = gradients(Net(depth), build)
    assert_equal(gradients(Net(depth, way, preserve_rng_state=preserve_rng_state), build), expected)


def test_nodes_at_equal_logits_keep_each_its_own_sample():
    class Twice(nn.Module):
        def __init__(self, checkpointed):
            super().__init__()
            self.logits, self.node = nn.Parameter(torch.zeros(8)), dither.Bernoulli()
            self.checkpointed = checkpointed

        def half(self, x):
            return (x + 1) * self.node(self.logits.expand(5, 8)) * torch.arange(1, 9)

        def forward(self):
            x = torch.ones(5, 8, requires_grad=True)
            for _ in range(2):
                x = checkpoint(self.half, x, use_reentrant=False) if self.checkpointed else self.half(x)
            return x.square().sum(1)

    nets = Twice(False), Twice(True)
    for net in nets:
        torch.manual_seed(0)
        dither.StraightThrough(net, samples=3, vectorize=False)(net).backward()
    assert torch.equal(nets[0].logits.grad, nets[1].logits.grad)


def test_a_graph_kept_is_recomputed_alike_each_time():
    def twice(loss):
        loss.backward(retain_graph=True)
        loss.backward()

    once = gradients(Net(2), dither.StraightThrough)
    assert_equal(gradients(Net(2, "nested"), dither.StraightThrough, twice), [2 * g for g in once])


def test_without_early_stop_and_in_bfloat16():
    def run(way):
        net = Net(2, way).float()
        torch.manual_seed(5)
        with torch.utils.checkpoint.set_checkpoint_early_stop(False), torch.autocast("cpu", torch.bfloat16):
            loss = dither.StraightThrough(net)(lambda: F.cross_entropy(net(X.float()), Y, reduction="none"))
        loss.backward()
        return [p.grad for p in net.parameters()]

    assert_equal(run("checkpointed"), run("plain"))


@pytest.mark.parametrize("kind", [None, "mean", "mode"])
def test_nodes_by_themselves_and_deterministic_ones(kind):
    def run(way):
        net = Net(2, way, preserve_rng_state=False)
        torch.manual_seed(5)
        if kind is None:
            loss = cost(net).mean()
        else:
            with dither.deterministic(kind):
                loss = cost(net).mean()
        torch.rand(3)
        loss.backward()
        return [p.grad for p in net.parameters()]

    assert_equal(run("checkpointed"), run("plain"))


def test_evaluating_between_loss_and_backward_changes_nothing():
    def run(way):
        net = Net(2, way)

        def backward(loss):
            with torch.no_grad(), dither.deterministic("mean"):
                cost(net)
            dither.ScoreFunction(net)(lambda: cost(net))  # another loss, thrown away
            loss.backward()

        return gradients(net, dither.StraightThrough, backward)

    assert_equal(run("checkpointed"), run("plain"))


def test_a_model_compiled_around_its_checkpoints():
    def run(way):
        net = Net(1, way)
        forward = torch.compile(net, backend="aot_eager") if way == "checkpointed" else net
        torch.manual_seed(5)
        dither.ScoreFunction(net)(lambda: F.cross_entropy(forward(X), Y, reduction="none")).backward()
        return [p.grad for p in net.parameters()]

    assert_equal(run("checkpointed"), run("plain"))


# --- what cannot be repeated is refused, never drawn anew ---------------------------------------------------------------
def test_samples_are_run_one_after_the_other_and_it_is_told():
    build = partial(dither.ScoreFunction, baseline="leave-one-out", samples=3)
    with pytest.warns(UserWarning, match="an activation checkpoint"):
        actual = gradients(Net(1, "checkpointed"), build)
    assert_equal(actual, gradients(Net(1, "plain"), partial(build, vectorize=False)))


@pytest.mark.parametrize("build", [dither.StraightThrough, dither.ScoreFunction])
def test_reentrant_checkpointing_is_refused(build):
    net = Net(1, "checkpointed", use_reentrant=True)
    x = X.clone().requires_grad_()
    loss = build(net)(lambda: F.cross_entropy(net(x), Y, reduction="none"))
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        loss.backward()


def test_enumeration_is_refused():
    with pytest.raises(RuntimeError, match="turn checkpointing off"):
        gradients(Net(1, "checkpointed"), lambda net: dither.Exact(net, vectorize=False))


def test_a_compiled_block_is_refused():
    net = Net(1, "checkpointed")
    net.blocks[0] = torch.compile(net.blocks[0], backend="aot_eager")
    with pytest.raises(RuntimeError, match="compiled region"):
        gradients(net, dither.StraightThrough)


def test_nothing_outlives_the_graph():
    net = Net(2, "checkpointed")
    estimator = dither.ScoreFunction(net)
    regions = []

    def look(*_):
        regions.extend(weakref.ref(region) for _, region in _regions())

    net.blocks[0].register_forward_pre_hook(look)
    loss = estimator(lambda: cost(net))
    assert regions
    loss.backward()
    del loss
    gc.collect()
    assert not [region for region in regions if region() is not None]
