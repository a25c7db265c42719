"""ForwardOnly gives the gradient of ScoreFunction from the same noise, keeps bits, and computes on them. (That it is unbiased
the conformance suite proves, as for every estimator.)"""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

import dither
from dither.models.mlp import StochasticMLP


class Tower(nn.Module):
    """Convolution -> units -> convolution -> units -> two layers -> units -> Linear: segments of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 3)
        self.wide, self.narrow, self.last = nn.Linear(2 * 4 * 4, 9), nn.Linear(9, 70), nn.Linear(70, 3)
        self.nodes = nn.ModuleList(dither.Bernoulli() for _ in range(3))

    def forward(self, x):
        h = self.nodes[0](self.first(x))
        h = self.nodes[1](self.second(h))
        h = self.nodes[2](self.narrow(torch.tanh(self.wide(h.flatten(1)))))
        return self.last(h)


def mlp(dtype=torch.float32):
    torch.manual_seed(0)
    net = StochasticMLP((30, 70, 65, 40, 3)).to(dtype)
    return net, torch.randn(16, 30, dtype=dtype), torch.randint(3, (16,))


def tower(dtype=torch.float32):
    torch.manual_seed(0)
    return Tower().to(dtype), torch.randn(8, 1, 8, 8, dtype=dtype), torch.randint(3, (8,))


def signs(dtype=torch.float32):
    torch.manual_seed(0)
    net = StochasticMLP((30, 20, 20, 3), node=partial(dither.Bernoulli, values=(-1, 1))).to(dtype)
    return net, torch.randn(16, 30, dtype=dtype), torch.randint(3, (16,))


def gradients(build, problem, calls=2, **options):
    """Losses and gradients of some calls, of which later ones have a baseline."""
    net, x, y = problem
    estimator, actual = build(net, **options), []
    for call in range(calls):
        torch.manual_seed(call)
        net.zero_grad()
        loss = estimator(lambda: F.cross_entropy(net(x), y, reduction="none"))
        loss.backward()
        actual += [loss.detach(), *(p.grad.clone() for p in net.parameters())]
    return actual


BASELINES = [(None, 1), ("mean", 1), ("optimal", 1), ("optimal", 2), ("leave-one-out", 3)]


@pytest.mark.parametrize("build", [mlp, tower, signs])
@pytest.mark.parametrize(("baseline", "samples"), BASELINES)
@pytest.mark.parametrize("keep", ["logits", "bits"])
@pytest.mark.parametrize("vectorize", [True, False])
def test_equals_the_score_function(build, baseline, samples, keep, vectorize):
    problem = build()
    same = {"baseline": baseline, "samples": samples, "vectorize": vectorize}
    expected = gradients(dither.ScoreFunction, problem, **same)
    actual = gradients(dither.ForwardOnly, problem, **same, keep=keep)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=3e-6 * (1 + float(b.abs().max())))


def test_equals_it_in_float64_to_rounding():
    expected = gradients(dither.ScoreFunction, mlp(torch.float64), baseline="optimal", samples=2)
    actual = gradients(dither.ForwardOnly, mlp(torch.float64), baseline="optimal", samples=2, keep="bits")
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("keep", ["logits", "bits"])
def test_a_learned_baseline_and_local_costs(keep):
    net, x, _ = problem = mlp()
    module = nn.ModuleDict({f"nodes_{i}": nn.Linear(width, 1) for i, width in enumerate((70, 65, 40))})
    expected = gradients(dither.ScoreFunction, problem, baseline=module)
    torch.testing.assert_close(
        gradients(dither.ForwardOnly, problem, baseline=module, keep=keep), expected, rtol=1e-3, atol=3e-6
    )

    def local(build, **options):
        estimator = build(net, baseline="mean", **options)
        torch.manual_seed(1)
        net.zero_grad()
        estimator(lambda: net(x).square()).backward()
        return [p.grad.clone() for p in net.parameters()]

    torch.testing.assert_close(local(dither.ForwardOnly, keep=keep), local(dither.ScoreFunction), rtol=1e-3, atol=3e-5)


def test_layers_are_given_back_whatever_happens():
    net, x, y = mlp()
    own = {name: dict(vars(module)) for name, module in net.named_modules()}
    estimator = dither.ForwardOnly(net)
    with pytest.raises(KeyError):
        estimator(lambda: {}[net(x).sum()])
    estimator(lambda: F.cross_entropy(net(x), y, reduction="none"))
    for name, module in net.named_modules():
        assert "forward" not in vars(module) and vars(module).keys() >= own[name].keys()
    linear = net.linears[1]
    linear.forward = lambda h: nn.Linear.forward(linear, h)  # somebody's own, to be stored
    stored = linear.forward
    estimator(lambda: F.cross_entropy(net(x), y, reduction="none"))
    assert linear.forward is stored


def test_bits_that_were_changed_are_not_used():
    """What a node gave and the closure altered is a tensor like any other."""

    class Altered(nn.Module):
        in_place = False

        def __init__(self) -> None:
            super().__init__()
            self.a, self.node, self.b = nn.Linear(5, 40), dither.Bernoulli(), nn.Linear(40, 2)

        def forward(self, x):
            h = self.node(self.a(x))
            return self.b(h.mul_(0.5) if self.in_place else h * 0.5)

    torch.manual_seed(0)
    net, *data = Altered(), torch.randn(16, 5), torch.randint(2, (16,))
    for samples in (1, 3):  # several are one vmap
        net.in_place = False
        expected = gradients(dither.ScoreFunction, (net, *data), samples=samples)
        for net.in_place in (False, True):
            actual = gradients(dither.ForwardOnly, (net, *data), samples=samples)
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_layers_work_on_bits(monkeypatch):
    """Not that it is right, but that it happens: the products that ran were packed ones."""
    from dither import kernels

    calls = []
    original = kernels.packed_linear
    monkeypatch.setattr(kernels, "packed_linear", lambda *args: calls.append(args[0].shape) or original(*args))
    net, x, y = mlp()
    for keep, times in (("logits", 3), ("bits", 3 + 2)):
        calls.clear()
        dither.ForwardOnly(net, keep=keep)(lambda: F.cross_entropy(net(x), y, reduction="none")).backward()
        assert len(calls) == times, "behind each node, and once more for the logits of the layers between two nodes"


def test_memory_is_what_it_says():
    """Between forward and backward a stochastic layer keeps batch x units / 8 bytes, and with keep="logits" 4 more a unit."""
    from dither.benchmarks.memory import measured

    batch, units, layers = 64, 128, 6
    torch.manual_seed(0)
    net = StochasticMLP((32,) + (units,) * layers + (4,))
    x, y = torch.randn(batch, 32), torch.randint(4, (batch,))
    stored = {}
    for keep in ("bits", "logits"):
        estimator = dither.ForwardOnly(net, keep=keep)

        def step(estimator=estimator):
            estimator(lambda: F.cross_entropy(net(x), y, reduction="none")).backward()

        step()
        stored[keep] = measured(step)[0]
    bits = layers * batch * units // 8
    assert bits <= stored["bits"] <= bits + 12_000, "and what the last layer and the costs keep"
    assert stored["logits"] - stored["bits"] == pytest.approx(layers * batch * units * 4, rel=0.02)


def test_state_is_that_of_the_score_function():
    net, x, y = mlp()
    trained = dither.ForwardOnly(net, baseline="mean")
    for _ in range(3):
        trained(lambda: F.cross_entropy(net(x), y, reduction="none"))
    other = dither.ScoreFunction(net, baseline="mean")
    other.load_state_dict(trained.state_dict())
    again = dither.ForwardOnly(net, baseline="mean")
    again.load_state_dict(other.state_dict())
    assert again.state_dict().keys() == trained.state_dict().keys() and len(trained.state_dict()) == 6
    torch.manual_seed(5)
    first = trained(lambda: F.cross_entropy(net(x), y, reduction="none"))
    torch.manual_seed(5)
    assert torch.equal(again(lambda: F.cross_entropy(net(x), y, reduction="none")), first)


def test_a_wrong_choice_is_refused():
    with pytest.raises(ValueError, match="keep is 'nothing': it must be 'logits'"):
        dither.ForwardOnly(mlp()[0], keep="nothing")


def test_layers_in_an_activation_checkpoint_are_computed_again_as_they_were():
    """There layers are ordinary ones, because at backward nobody takes them over: equal to rounding, not to the bit."""

    class Recomputed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.checkpointed = StochasticMLP((30, 70, 65, 40, 3)).double(), False

        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(self.net, x, use_reentrant=False) if self.checkpointed else self.net(x)

    torch.manual_seed(0)
    model, x, y = Recomputed(), torch.randn(16, 30, dtype=torch.float64), torch.randint(3, (16,))
    for keep in ("logits", "bits"):
        model.checkpointed = False
        expected = gradients(dither.ForwardOnly, (model, x, y), baseline="mean", keep=keep)
        model.checkpointed = True
        torch.testing.assert_close(gradients(dither.ForwardOnly, (model, x, y), baseline="mean", keep=keep), expected)


@pytest.mark.parametrize("keep", ["bits", "logits"])
def test_a_window_of_micro_batches_is_one_call(keep):
    build = partial(dither.ForwardOnly, baseline="optimal", keep=keep)
    assert dither.testing.check_positions(build, positions=["accumulation"]) == {"accumulation": "right"}
