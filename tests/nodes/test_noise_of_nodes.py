"""Where a node's noise comes from when no estimator runs: fresh at every call, repeated in every recomputation."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import dither
from dither import noise

# torch compiles some of its own functions by a way that it has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")

NODES = {
    "bernoulli": dither.Bernoulli(),
    "signs": dither.Bernoulli(values=(-1, 1)),
    "categorical": dither.Categorical(),
    "noisy_relu": dither.NoisyReLU(),
    "noisy_tanh": dither.NoisyTanh(before=0.5, after=0.5),
    "noisy_max_pool": dither.NoisyMaxPool2d(2),
    "stochastic_pool": dither.StochasticPool2d(2),
}


def logits_for(name, *lead):
    generator = torch.Generator().manual_seed(3)
    shape = (*lead, 4, 2, 6, 6) if "pool" in name else (*lead, 4, 30)
    return torch.rand(shape, generator=generator) if "pool" in name else torch.randn(shape, generator=generator) / 4


def distinct(slices):
    return len({tuple(s.flatten().tolist()) for s in slices})


@pytest.mark.parametrize("name", NODES)
def test_fresh_at_every_call_and_governed_by_torch(name):
    node, logits = NODES[name], logits_for(name)
    torch.manual_seed(1)
    first, second = node(logits), node(logits)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(node(logits), first) and torch.equal(node(logits), second)


@pytest.mark.parametrize("name", NODES)
def test_eval_does_not_stop_the_noise(name):
    node, logits = copy.deepcopy(NODES[name]).eval(), logits_for(name)
    assert distinct(node(logits) for _ in range(5)) == 5


@pytest.mark.parametrize("name", NODES)
def test_rows_of_equal_logits_differ(name):
    row = logits_for(name)[:1].expand(4, *logits_for(name).shape[1:])
    assert distinct(NODES[name](row)) == 4


@pytest.mark.parametrize("name", NODES)
def test_examples_follow_the_rows(name):
    node, logits = NODES[name], logits_for(name)

    def run(rows):
        torch.manual_seed(1)
        with noise.examples(rows):
            return node(logits[rows])

    whole = run(torch.arange(4))
    assert torch.equal(run(torch.tensor([2, 0])), whole[[2, 0]])


@pytest.mark.parametrize("name", NODES)
def test_a_users_vmap_gives_each_slice_noise_of_its_own(name):
    node = NODES[name]
    same = logits_for(name).expand(5, *logits_for(name).shape)
    assert distinct(torch.func.vmap(node, randomness="different")(same)) == 5
    assert distinct(torch.func.vmap(node, 1, 1, randomness="different")(same.movedim(0, 1).contiguous()).movedim(1, 0)) == 5
    nested = torch.func.vmap(torch.func.vmap(node, randomness="different"), randomness="different")(same.expand(3, *same.shape))
    assert distinct(nested.flatten(0, 1)) == 15
    of_one = torch.func.vmap(lambda _, a: node(a), (0, None), randomness="same")
    by_slice = torch.func.vmap(of_one, (None, 0), randomness="different")(torch.zeros(2), same)
    assert by_slice.shape[:2] == (5, 2) and distinct(by_slice[:, 0]) == 5


@pytest.mark.parametrize("name", NODES)
def test_functional_transforms_see_one_sample(name):
    node, logits = NODES[name], logits_for(name).requires_grad_()
    torch.manual_seed(1)
    value = node(logits).sin().sum()
    torch.manual_seed(1)
    gradient, again = torch.func.grad_and_value(lambda a: node(a).sin().sum())(logits.detach())
    assert torch.equal(value, again)
    torch.testing.assert_close(gradient, torch.autograd.grad(value, logits)[0])


# --- compile ------------------------------------------------------------------------------------------------------------
def gradient_and_values(f, logits):
    logits = logits.detach().requires_grad_()
    torch.manual_seed(7)
    values = f(logits)
    gradient = torch.autograd.grad(sum(v.sin().sum() for v in values), logits)[0]
    return [v.detach() for v in values], gradient


@pytest.mark.parametrize("name", NODES)
def test_compiled_nodes_draw_what_eager_ones_do(name):
    node = NODES[name]

    def twice(a):  # a compiler that merges the two draws gives equal samples
        return node(a), node(a)

    torch._dynamo.reset()
    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager_decomp_partition")
    expected = gradient_and_values(twice, logits_for(name))
    got = gradient_and_values(compiled, logits_for(name))
    torch.testing.assert_close(got, expected)
    torch.manual_seed(7)
    with torch.no_grad():
        torch.testing.assert_close(list(compiled(logits_for(name))), expected[0])


class Everything(nn.Module):
    """All nodes in one net, two of them by the same module."""

    def __init__(self):
        super().__init__()
        self.pools = nn.Sequential(nn.Conv2d(1, 2, 3), dither.NoisyMaxPool2d(2), nn.ReLU(), dither.StochasticPool2d(2))
        self.bits = dither.Bernoulli()
        self.middle = nn.Linear(18, 24)
        self.rest = nn.Sequential(nn.Unflatten(1, (6, 4)), dither.Categorical(), dither.NoisyReLU(), dither.NoisyTanh())
        self.checkpointed = False

    def head(self, x):
        return self.middle(self.bits(self.pools(x).flatten(1)))

    def forward(self, x):
        middle = checkpoint(self.head, x, use_reentrant=False) if self.checkpointed else self.head(x)
        return self.rest(self.bits(middle)).flatten(1).square().sum(1)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Everything(), torch.randn(5, 1, 14, 14)


def run(net, forward, x):
    net.zero_grad()
    torch.manual_seed(9)
    cost = forward(x)
    cost.sum().backward()
    return cost.detach(), [p.grad.clone() for p in net.parameters()]


def test_generated_code_draws_what_eager_code_does(net):
    net, x = net
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True)
    torch.testing.assert_close(run(net, compiled, x), run(net, net, x), rtol=1e-4, atol=1e-5)


def test_compiled_checkpointing_repeats_the_samples(net):
    net, x = net
    expected = run(net, net, x)
    net.checkpointed = True
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager_decomp_partition")
    torch.testing.assert_close(run(net, compiled, x), expected, rtol=1e-4, atol=1e-5)


def test_compiled_nodes_obey_deterministic(net):
    net, x = net
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    assert distinct(compiled(x) for _ in range(3)) == 3
    with dither.deterministic("mean"):
        torch.testing.assert_close(compiled(x), net(x))
    assert distinct(compiled(x) for _ in range(3)) == 3


def test_activation_checkpointing_repeats_the_samples(net):
    net, x = net
    expected = run(net, net, x)
    net.checkpointed = True
    got = run(net, net, x)
    assert torch.equal(got[0], expected[0])
    for a, b in zip(got[1], expected[1], strict=True):
        assert torch.equal(a, b), "the recomputation drew other samples"


def test_recomputation_outside_of_examples_keeps_their_noise(net):
    net, x = net
    ids = torch.tensor([4, 2, 0, 11, 7])

    def with_ids(x):
        with noise.examples(ids):
            return net(x)

    expected = run(net, with_ids, x)
    net.checkpointed = True
    got = run(net, with_ids, x)  # backward, and so the recomputation, runs outside
    for a, b in zip(got[1], expected[1], strict=True):
        assert torch.equal(a, b)
