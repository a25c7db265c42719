"""The loss of an estimator is an ordinary tensor: its value is the mean cost, and all that torch does with a loss works."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dither
from dither import noise

ESTIMATORS = {
    "straight-through": dither.StraightThrough,
    "straight-through, K=3": lambda net: dither.StraightThrough(net, samples=3),
    "score": dither.ScoreFunction,
    "score-mean": lambda net: dither.ScoreFunction(net, baseline="mean"),
    "score-optimal": lambda net: dither.ScoreFunction(net, baseline="optimal"),
    "score-leave-one-out": lambda net: dither.ScoreFunction(net, baseline="leave-one-out", samples=3),
    "score-leave-one-out, loop": lambda net: dither.ScoreFunction(net, baseline="leave-one-out", samples=3, vectorize=False),
    "deterministic": dither.Deterministic,
    "exact": dither.Exact,
    "per node": lambda net: dither.PerNode(net, {"*": dither.ScoreFunction}),
}
every_estimator = pytest.mark.parametrize("build", ESTIMATORS.values(), ids=ESTIMATORS)
X = torch.linspace(-2, 2, 24, dtype=torch.float64).sin().view(8, 3)
Y = torch.arange(8) % 3


def mlp(depth=1, dtype=torch.float64):
    torch.manual_seed(1)
    layers = []
    for _ in range(depth):
        layers += [nn.Linear(3, 3), dither.Bernoulli()]
    return nn.Sequential(*layers, nn.Linear(3, 3)).to(dtype)


def closure(net, rows=slice(None), x=X):
    return lambda: F.cross_entropy(net(x[rows]), Y[rows], reduction="none")


def gradients(net, build, backward=torch.Tensor.backward, seed=3):
    net.zero_grad()
    torch.manual_seed(seed)
    loss = build(net)(closure(net))
    backward(loss)
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in net.parameters()]


def assert_close(ours, theirs, **tolerance):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **(tolerance or {"rtol": 1e-12, "atol": 1e-14}))


@every_estimator
@pytest.mark.parametrize("depth", [1, 2])
def test_the_value_is_the_mean_cost(build, depth):
    net, seen = mlp(depth), []

    def watched():
        seen.append(closure(net)())
        return seen[-1]

    estimator = build(net)
    estimator.examples = "separate"  # no look at them, which runs the closure
    loss = estimator(watched)
    assert loss.shape == () and loss.requires_grad
    if isinstance(estimator, dither.Exact):
        expected = dither.exact.expected_cost(net, closure(net)).mean()
    elif estimator.samples == 1 or not estimator.vectorize:
        expected = torch.stack(seen).mean()
    else:  # the vmapped costs cannot be looked at from outside: sample for sample, the loop has the same noise
        torch.manual_seed(0)
        loss = build(net)(closure(net))
        torch.manual_seed(0)
        looped = build(net)
        looped.vectorize = False
        expected = looped(closure(net))
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)


@every_estimator
def test_backward_grad_and_retain_graph_agree(build):
    net = mlp()
    once = gradients(net, build)
    assert any(bool(g.abs().sum() > 0) for g in once[:2])

    def by_grad(loss):
        for p, g in zip(net.parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True):
            p.grad = g

    def twice(loss):
        loss.backward(retain_graph=True)
        loss.backward()

    assert_close(gradients(net, build, by_grad), once)
    assert_close(gradients(net, build, twice), [2 * g for g in once])
    assert_close(gradients(net, build, lambda loss: (3 * loss + 1).backward()), [3 * g for g in once])


@every_estimator
def test_two_half_batches_accumulate_to_one_batch(build):
    net = mlp(2)
    whole = gradients(net, build)
    net.zero_grad()
    for half in (slice(0, 4), slice(4, 8)):
        torch.manual_seed(3)
        with noise.examples(torch.arange(8)[half]):
            (build(net)(closure(net, half)) / 2).backward()
    assert_close([p.grad for p in net.parameters()], whole)


@every_estimator
def test_grad_scaler(build):
    net = mlp(dtype=torch.float32)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    x, before = X.float(), [p.detach().clone() for p in net.parameters()]
    torch.manual_seed(3)
    expected = torch.autograd.grad(build(net)(closure(net, x=x)), list(net.parameters()))
    torch.manual_seed(3)
    scaler.scale(build(net)(closure(net, x=x))).backward()
    scaler.step(optimizer)
    scaler.update()
    steps = [(b - p).detach() / 0.1 for b, p in zip(before, net.parameters(), strict=True)]
    assert_close(steps, expected, rtol=1e-4, atol=1e-6)


@every_estimator
def test_autocast_draws_in_float32_and_returns_a_float32_loss(build):
    net = mlp(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = build(net)(lambda: F.cross_entropy(net(X.float()), Y, reduction="none"))
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) and p.grad.dtype == p.dtype for p in net.parameters())


@every_estimator
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(build, dtype):
    net = mlp(dtype=dtype)
    build(net)(lambda: F.cross_entropy(net(X.to(dtype)).float(), Y, reduction="none")).backward()
    assert all(p.grad is not None and p.grad.dtype == dtype and bool(p.grad.isfinite().all()) for p in net.parameters())


@every_estimator
def test_a_closure_without_gradients_gives_the_value_and_teaches_nothing(build):
    net = mlp()
    estimator = build(net)
    estimator(closure(net)).backward()
    state = {name: tensor.clone() for name, tensor in estimator.state_dict().items()}
    with torch.no_grad():
        loss = estimator(closure(net))
    assert not loss.requires_grad and bool(loss.isfinite())
    assert all(torch.equal(state[name], tensor) for name, tensor in estimator.state_dict().items())
    assert state.keys() == estimator.state_dict().keys()


@every_estimator
def test_two_estimators_on_two_models_keep_out_of_each_other(build):
    net, other = mlp(), mlp(2)
    alone = gradients(net, build)
    torch.manual_seed(3)
    ours, theirs = build(net), dither.ScoreFunction(other, baseline="optimal")
    net.zero_grad()
    loss = ours(closure(net))
    other_loss = theirs(closure(other))
    other_loss.backward()
    loss.backward()
    assert_close([p.grad for p in net.parameters()], alone)
    assert all(node._handler is None for node in (*ours.nodes.values(), *theirs.nodes.values()))


def test_an_estimator_inside_another_ones_closure():
    outer, inner = mlp(), mlp()

    def nested():
        dither.ScoreFunction(inner)(closure(inner)).backward()
        return closure(outer)()

    torch.manual_seed(3)
    dither.StraightThrough(outer)(nested).backward()
    assert_close([p.grad for p in outer.parameters()], gradients(mlp(), dither.StraightThrough))
    assert all(p.grad is not None for p in inner.parameters())


class Recurrent(nn.Module):
    """One node, one weight, called `steps` times; nested in a submodule."""

    def __init__(self, steps=3):
        super().__init__()
        self.cell = nn.ModuleDict({"linear": nn.Linear(3, 3), "node": dither.Bernoulli()})
        self.steps = steps
        self.double()

    def forward(self, x):
        for _ in range(self.steps):
            x = self.cell["node"](self.cell["linear"](x)) + 0.5 * x
        return x


@every_estimator
def test_a_shared_node_draws_anew_at_every_call_and_shared_weights_add_up(build):
    torch.manual_seed(2)
    net = Recurrent()
    shared = gradients(net, build)
    unrolled = nn.ModuleList(Recurrent(1) for _ in range(3))
    for part in unrolled:
        part.load_state_dict(net.state_dict())
    chain = nn.Sequential(*unrolled)
    in_chain = gradients(chain, build)
    total = [sum(parts) for parts in zip(*(in_chain[i : i + 2] for i in (0, 2, 4)), strict=True)]
    assert_close(shared, total)


@pytest.mark.parametrize("depth", range(1, 7))
@pytest.mark.parametrize("name", [n for n in ESTIMATORS if n != "exact"])
def test_every_layer_of_a_deep_net_has_a_gradient(name, depth):
    net = mlp(depth)
    grads = gradients(net, ESTIMATORS[name])
    assert all(bool(g.isfinite().all()) for g in grads)
    assert all(float(g.abs().sum()) > 0 for g in grads[1::2]), [float(g.abs().sum()) for g in grads]
