"""Generative stochastic networks: against a literal transcription of the recipe, finite differences, and by enumeration."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dither
from dither import chains, corruption, reconstruction
from dither.models.gsn import GSN, Conv2d, Dense
from small_gsn import random_gsn, random_images


# --- the recipe ---------------------------------------------------------------------------------------------------------
def transcription(x, weights, biases, model, steps):
    """The authors' update_layers for K hidden layers: all odd layers, then all even ones, of which layer 0 is sampled and
    corrupted at once; hidden layers start as zeros."""
    depth = len(weights)
    layers = [model.corruption(x), *(torch.zeros(len(x), len(b), dtype=x.dtype) for b in biases[1:])]
    costs = []
    for step in range(steps):
        for i in [*range(1, depth + 1, 2), *range(0, depth + 1, 2)]:
            if step == steps - 1 and i and i % 2 == 0:
                continue  # nothing reads it any more; it would draw noise that the model does not
            below = layers[i - 1] @ weights[i - 1].T if i else 0
            above = layers[i + 1] @ weights[i] if i < depth else 0
            pre = below + above + biases[i]
            if i:
                layers[i] = model.hidden[i - 1](pre)
                continue
            costs.append(-(x * F.logsigmoid(pre) + (1 - x) * F.logsigmoid(-pre)).sum(-1))
            chain = pre
        if step < steps - 1:
            with torch.no_grad():
                layers[0] = model.corruption(model.reconstruction.node(chain))
    return torch.stack(costs, -1)


class FixedNoise(nn.Module):
    """A hidden layer whose noise depends on the layer alone, so that the order of sampling does not matter."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def forward(self, a):
        z = torch.randn(2, *a.shape, generator=torch.Generator().manual_seed(self.seed), dtype=a.dtype)
        return torch.tanh(a + 2 * z[0]) + 2 * z[1]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_it_is_the_authors_recipe(depth):
    fixed = corruption.Custom(lambda x: torch.where(torch.arange(x.shape[1]) % 3 == 0, 1 - x, x))
    model = random_gsn((5, 4, 3, 4, 3)[: depth + 1], hidden=[FixedNoise(i) for i in range(depth)], corruption=fixed, steps=3)
    weights, biases = [c.weight for c in model.connections], list(model.biases)
    x = random_images().round()
    costs = []
    for run in (lambda: model.costs(x), lambda: transcription(x, weights, biases, model, 3)):
        torch.manual_seed(0)
        loss = run()
        model.zero_grad()
        loss.sum().backward()
        costs.append((loss.detach(), [p.grad.clone() for p in model.parameters()]))
    torch.testing.assert_close(costs[0][0], costs[1][0], rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(costs[0][1], costs[1][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_default_is_the_papers():
    model = GSN()
    assert [tuple(c.weight.shape) for c in model.connections] == [(1500, 784), (1500, 1500)]
    assert isinstance(model.hidden[0], nn.Tanh) and (model.hidden[1].before, model.hidden[1].after) == (2, 2)
    assert model.corruption.rate == 0.4 and model.steps == 4 and model.order == ((1,), (0, 2)) and not model.through_samples
    bound = (6 / (784 + 1500)) ** 0.5
    assert 0.999 * bound < model.connections[0].weight.abs().max() <= bound
    assert all((b == 0).all() for b in model.biases)


# --- gradients ----------------------------------------------------------------------------------------------------------
def test_the_gradient_is_that_of_finite_differences():
    model, x = random_gsn((5, 4, 3), steps=2), random_images()

    def cost():
        torch.manual_seed(0)
        return model.cost(x).mean()

    model.zero_grad()
    cost().backward()
    for p in model.parameters():
        direction = torch.randn_like(p)
        with torch.no_grad():
            p += 1e-6 * direction
            up = cost()
            p -= 2e-6 * direction
            down = cost()
            p += 1e-6 * direction
        assert (up - down) / 2e-6 == pytest.approx(float((p.grad * direction).sum()), rel=1e-6)


@pytest.mark.parametrize("build", [dither.ScoreFunction, partial(dither.ScoreFunction, samples=2), dither.StraightThrough])
@pytest.mark.parametrize("through", [True, False])
def test_binary_hidden_units_by_estimators(build, through):
    """Enumerated over hidden units and visible samples alike: what is unbiased stays so in a recurrent chain."""
    noisy = corruption.Custom(lambda x: 1 - x)
    model = random_gsn((2, 2), hidden=[dither.Bernoulli()], corruption=noisy, steps=2, through_samples=through)
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    if build is dither.StraightThrough:
        bias = dither.testing.bias(build(model), lambda: model.cost(x))
        assert max(float(b.abs().max()) for b in bias.values()) > 1e-3
    else:
        dither.testing.assert_unbiased(build(model), model, lambda: model.cost(x))


@pytest.mark.parametrize("vectorize", [True, False])
def test_ten_samples_of_a_step(vectorize):
    model = random_gsn((5, 4, 3), hidden=[dither.Bernoulli(), dither.NoisyReLU()], steps=3)
    torch.manual_seed(0)
    loss = dither.ScoreFunction(model, baseline="leave-one-out", samples=10, vectorize=vectorize)(
        lambda: model.costs(random_images())
    )
    loss.backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in model.parameters())


# --- convolutions, other reconstructions --------------------------------------------------------------------------------
@pytest.mark.parametrize("tied", [True, False])
def test_down_is_the_transpose_of_up(tied):
    connection = Conv2d((2, 7, 6), 3, kernel=5, stride=2, tied=tied).double()
    x, h = torch.randn(1, 2, 7, 6, dtype=torch.float64), torch.randn(1, *connection.above, dtype=torch.float64)
    products = connection.products()
    up = (products.up(x) * h).sum().detach()
    down = (products.down(h) * x).sum().detach()
    assert (abs(float(up - down)) < 1e-10) == tied


def test_convolutional():
    model = random_gsn([Conv2d((1, 9, 8), 3), Conv2d((3, 5, 4), 4, kernel=3), Dense((4, 3, 2), 6)], steps=4)
    model.cost(random_images(units=72)).mean().backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())
    assert chains.run(model, random_images(units=72).round(), 2, seed=0).x.shape == (2, 6, 72)


def test_image_and_label():
    joint = reconstruction.Joint([(reconstruction.Bernoulli(), 5), (reconstruction.Categorical(3), 3)])
    noisy = corruption.Joint([(corruption.SaltAndPepper(), 5), (corruption.Resampling(0.5, 3), 3)])
    model = random_gsn((8, 4, 3), corruption=noisy, reconstruction=joint)
    x = torch.cat((random_images().round(), F.one_hot(torch.arange(6) % 3, 3).double()), -1)
    model.cost(x).mean().backward()
    label = torch.arange(8) >= 5
    samples = chains.run(model, x, 4, clamp=label, seed=0).x
    assert torch.equal(samples[..., 5:], x[:, 5:].expand(4, 6, 3))
    assert (chains.run(model, x, 4, clamp=~label, seed=0).x[..., 5:].sum(-1) == 1).all()


# --- bad input ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"layers": (5,)}, "two or more positive widths"),
        ({"layers": (5, 0)}, "two or more positive widths"),
        ({"layers": [Dense(5, 4), Dense(3, 2)]}, "they must be the same"),
        ({"layers": (5, 4, 3), "hidden": [nn.Tanh()]}, "hidden has 1 modules for 2 hidden layers"),
        ({"layers": (5, 4), "corruption": None}, "identity is all there is to learn"),
        (
            {"layers": (5, 4, 3), "hidden": [nn.Tanh(), dither.NoisyTanh(before=0, after=0)], "corruption": None},
            "identity is all there is",
        ),
        ({"layers": (5, 4), "order": "sideways"}, "odd-first, even-first, up-down"),
        ({"layers": (5, 4, 3), "order": ((1, 2), (0,))}, "no neighbours in one group"),
        ({"layers": (5, 4, 3), "order": ((0, 2), (1,))}, "in the last group"),
        ({"layers": (5, 4, 3), "order": ((1,), (0,))}, "every layer 0 ... 2"),
        ({"layers": (5, 4), "steps": 0}, "an integer of at least 1"),
        ({"layers": (5, 4), "reconstruction": reconstruction.Gaussian(None)}, "tied=False"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        GSN(**arguments)
