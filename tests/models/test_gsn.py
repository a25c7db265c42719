"""Generative stochastic networks: against a literal transcription of the recipe, against plain autograd, and by enumeration."""

import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dither
from dither import chains, corruption, noise, reconstruction
from dither.models import _products
from dither.models.gsn import GSN, Conv2d, Dense, Geometric


def data(rows=6, units=5, seed=0):
    return torch.rand(rows, units, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(*args, **kwargs):
    torch.manual_seed(3)
    model = GSN(*args, **kwargs).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.7 * torch.randn_like(p))
    return model


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
                continue  # nothing looks at it any more; it would draw noise that the model does not
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


class OneDraw(nn.Module):
    """A hidden layer whose noise depends on the layer alone, so that the order of the draws does not matter."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def forward(self, a):
        z = torch.randn(2, *a.shape, generator=torch.Generator().manual_seed(self.seed), dtype=a.dtype)
        return torch.tanh(a + 2 * z[0]) + 2 * z[1]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_it_is_the_authors_recipe(depth):
    fixed = corruption.Custom(lambda x: torch.where(torch.arange(x.shape[1]) % 3 == 0, 1 - x, x))
    model = make((5, 4, 3, 4, 3)[: depth + 1], [OneDraw(i) for i in range(depth)], fixed, steps=3)
    weights, biases = [c.weight for c in model.connections], list(model.biases)
    x = data().round()
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
@pytest.mark.parametrize("added", ["own bias", "another bias", "rest of a sum"])
def test_what_is_added_to_a_product(added):
    torch.manual_seed(0)
    leaves = [torch.randn(5, 4), torch.randn(5), torch.randn(4), torch.randn(5), torch.randn(3, 5), torch.randn(3, 4)]
    weight, above, below, other, rest, x = (leaf.double().requires_grad_() for leaf in leaves)
    add = {"own bias": above, "another bias": other, "rest of a sum": rest}[added]
    products = _products.Products(weight, above, below)
    found = products.down(products.up(x, add).tanh(), below)
    want = (x @ weight.T + add).tanh() @ weight + below
    torch.testing.assert_close(found, want)
    factors, needed = torch.randn(3, 4).double(), [weight, add, below, x]
    ours, theirs = (torch.autograd.grad((factors * y).sum(), needed) for y in (found, want))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("order", ["odd-first", "even-first", "up-down", ((3,), (1,), (0, 2))])
@pytest.mark.parametrize("tied", [True, False])
def test_gathered_gradients_are_those_of_plain_products(monkeypatch, order, tied):
    model = make((5, 4, 3, 4), tied=tied, steps=3, order=order)
    gradients = []
    for gathers in (True, False):
        monkeypatch.setattr(_products.kernels, "plain", lambda *_, gathers=gathers: gathers)
        torch.manual_seed(0)
        model.zero_grad()
        model.cost(data()).mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for gathered, plain in zip(*gradients, strict=True):
        assert gathered.abs().max() > 1e-6
        torch.testing.assert_close(gathered, plain, rtol=1e-10, atol=1e-13)


def test_the_gradient_is_that_of_finite_differences():
    model, x = make((5, 4, 3), steps=2), data()

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


def test_what_another_backward_pass_left_is_not_counted():
    model, x = make((5, 4, 3)), data().requires_grad_()
    torch.manual_seed(0)
    loss = model.cost(x).mean()
    torch.autograd.grad(loss, model.biases[0], retain_graph=True)  # of no weight
    loss.backward(retain_graph=True)
    once = model.connections[0].weight.grad.clone()
    loss.backward()
    torch.testing.assert_close(model.connections[0].weight.grad, 2 * once)
    torch.manual_seed(0)
    model.zero_grad()
    model.cost(x).mean().backward()
    torch.testing.assert_close(model.connections[0].weight.grad, once)


@pytest.mark.parametrize("through", [True, False])
def test_whether_the_gradient_flows_through_the_samples(through):
    """With the last step's cost alone, only a gradient through the sample reaches the visible bias of the step before."""
    model = make((5, 4), [nn.Tanh()], corruption.Masking(0.2), steps=2, through_samples=through)
    first = []
    log_prob = model.reconstruction.log_prob
    model.reconstruction.log_prob = lambda outputs, x: first.append(outputs) or log_prob(outputs, x)
    costs = model.costs(data())
    (gradient,) = torch.autograd.grad(costs[:, 1].sum(), first[0], allow_unused=True)
    assert (gradient is not None and float(gradient.abs().max()) > 1e-6) == through


@pytest.mark.parametrize("build", [dither.ScoreFunction, partial(dither.ScoreFunction, samples=2), dither.StraightThrough])
@pytest.mark.parametrize("through", [True, False])
def test_binary_hidden_units_by_estimators(build, through):
    """Enumerated over hidden units and visible samples alike: what is unbiased stays so in a recurrent chain."""
    noisy = corruption.Custom(lambda x: 1 - x)
    model = make((2, 2), [dither.Bernoulli()], noisy, steps=2, through_samples=through)
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    if build is dither.StraightThrough:
        found = dither.testing.bias(build(model), lambda: model.cost(x))
        assert max(float(b.abs().max()) for b in found.values()) > 1e-3
    else:
        dither.testing.assert_unbiased(build(model), model, lambda: model.cost(x))


@pytest.mark.parametrize("vectorize", [True, False])
def test_ten_samples_of_a_step(vectorize):
    model = make((5, 4, 3), [dither.Bernoulli(), dither.NoisyReLU()], steps=3)
    torch.manual_seed(0)
    loss = dither.ScoreFunction(model, "leave-one-out", samples=10, vectorize=vectorize)(lambda: model.costs(data()))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in model.parameters())


# --- walks of random length ---------------------------------------------------------------------------------------------
def test_geometric_walks():
    model = make((5, 4), steps=Geometric(0.5))
    torch.manual_seed(0)
    costs = model.costs(data(rows=4000))
    lengths = (costs > 0).sum(1)
    for length in range(1, 6):  # P(length) = 2^-length
        count, p = int((lengths == length).sum()), 2.0**-length
        assert abs(count - 4000 * p) < 5 * (4000 * p * (1 - p)) ** 0.5
    assert all((row[:length] > 0).all() and (row[length:] == 0).all() for row, length in zip(costs, lengths, strict=True))


def test_the_noise_of_a_walk_follows_its_example():
    model, x = make((5, 4, 3), steps=Geometric(0.7)), data(rows=8)
    ids, order = torch.arange(8), torch.tensor([3, 1, 7, 5])

    def costs(rows):
        torch.manual_seed(0)
        with noise.examples(ids[rows]):
            return model.cost(x[rows])

    torch.testing.assert_close(costs(ids)[order], costs(order), rtol=1e-12, atol=0)


# --- sampling -----------------------------------------------------------------------------------------------------------
def test_going_on_is_one_long_run():
    model, x = make((5, 4, 3)), data(rows=2).round()
    whole, first = chains.run(model, x, 7, seed=1), chains.run(model, x, 3, seed=1)
    assert torch.equal(torch.cat((first.x, chains.run(model, first.state, 4, seed=1).x)), whole.x)


def test_the_chain_carries_its_hidden_layers():
    model, x = make((5, 4, 3)), data(rows=2).round()
    samples = chains.run(model, x, 6, seed=1)
    again = chains.run(model, samples.state, 1, seed=2)
    fresh = chains.run(model, samples.x[-1], 1, seed=2)
    assert samples.state.hidden[1].shape == (2, 3)
    assert not torch.equal(again.mean, fresh.mean)


def test_chains_settle_on_the_stationary_distribution_of_the_exact_matrix():
    """One hidden layer without noise: the chain over x is finite, and its matrix is known."""
    model = make((3, 4), [nn.Sigmoid()], corruption.SaltAndPepper(0.5))
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)
    pairs = [a.flatten(0, 1) for a in torch.broadcast_tensors(states[:, None], states[None])]
    corrupt = model.corruption.log_prob(pairs[1], pairs[0]).view(8, 8).exp()
    outputs, _ = model.reconstruct(states)
    rebuild = model.reconstruction.log_prob(outputs.repeat_interleave(8, 0), states.repeat(8, 1)).view(8, 8).exp()
    matrix = corrupt @ rebuild
    stationary = torch.linalg.matrix_power(matrix, 200)[0]
    samples = chains.run(model, states.repeat(500, 1), 30, burn_in=20, thin=10, seed=0).x
    index = (samples * torch.tensor([4, 2, 1])).sum(-1).long().flatten()
    found = torch.bincount(index, minlength=8).double()
    # thinned by 10 steps of a chain whose second eigenvalue is far below 1: the counts are as good as independent
    assert torch.linalg.eigvals(matrix).abs().sort().values[-2] ** 10 < 1e-3
    chi_square = ((found - len(index) * stationary).square() / (len(index) * stationary)).sum()
    assert chi_square < 41.0  # 7 degrees of freedom, p = 1e-6


def test_clamped_units_stay():
    model, x = make((5, 4, 3)), data(rows=4).round()
    for clamp in (torch.tensor([True, False, True, False, False]), torch.rand(4, 5) < 0.4):
        samples = chains.run(model, x, 5, clamp=clamp, seed=0).x
        assert torch.equal(torch.where(clamp, samples, 0), torch.where(clamp, x, 0).expand(5, 4, 5))
        assert not torch.equal(samples[-1], x)


def test_clamped_units_may_stay_clean():
    model, x, seen = make((5, 4)), data(rows=3).round(), []
    reconstruct, clamp = model.reconstruct, torch.tensor([True, False, True, True, False])
    model.reconstruct = lambda corrupted, *rest: seen.append(corrupted) or reconstruct(corrupted, *rest)
    model.corrupt_clamped = False
    chains.run(model, x, 20, clamp=clamp, seed=0)
    seen = torch.stack(seen)
    assert torch.equal(seen[..., clamp], x[:, clamp].expand(20, 3, 3)) and seen[..., ~clamp].std(0).min() > 0


def test_runs_depend_on_their_seed_alone():
    model, x = make((5, 4, 3)), data(rows=2).round()
    torch.manual_seed(5)
    a, state = chains.run(model, x, 4, seed=1).x, torch.get_rng_state()
    torch.manual_seed(6)
    assert torch.equal(a, chains.run(model, x, 4, seed=1).x)
    torch.manual_seed(5)
    assert torch.equal(state, torch.get_rng_state())  # nothing was drawn from the user's generator


def test_thinning_keeps_every_other():
    model, x = make((5, 4)), data(rows=2).round()
    every = chains.run(model, x, 9, seed=1).x
    assert torch.equal(chains.run(model, x, 6, burn_in=3, thin=2, seed=1).x, every[4::2])


def test_a_chain_in_a_higher_representation():
    above = make((3, 4), [nn.Tanh()])
    encode, decode = (lambda x: (x[:, :3] > 0.5).to(x.dtype)), (lambda h: torch.cat((h, 1 - h[:, :2]), -1))
    projected = chains.Projected(above, encode, decode)
    samples = chains.run(projected, data(), 3, seed=0)
    assert torch.equal(samples.x[..., 3:], 1 - samples.x[..., :2])
    with pytest.raises(ValueError, match="in a representation"):
        chains.run(projected, data(), 3, clamp=torch.tensor([True, *[False] * 4]))


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
    model = make([Conv2d((1, 9, 8), 3), Conv2d((3, 5, 4), 4, kernel=3), Dense((4, 3, 2), 6)], steps=4)
    model.cost(data(units=72)).mean().backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())
    assert chains.run(model, data(units=72).round(), 2, seed=0).x.shape == (2, 6, 72)


def test_image_and_label():
    joint = reconstruction.Joint([(reconstruction.Bernoulli(), 5), (reconstruction.Categorical(3), 3)])
    noisy = corruption.Joint([(corruption.SaltAndPepper(), 5), (corruption.Resampling(0.5, 3), 3)])
    model = make((8, 4, 3), None, noisy, joint)
    x = torch.cat((data().round(), F.one_hot(torch.arange(6) % 3, 3).double()), -1)
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
        ({"layers": (5, 4, 3), "hidden": [nn.Tanh(), dither.NoisyTanh(0, 0)], "corruption": None}, "identity is all there is"),
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


@pytest.mark.parametrize("p", [0, 1, -0.5])
def test_walks_that_never_or_always_go_on_are_refused(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Geometric(p)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (torch.full((2, 5), 1.5), r"needs \[0, 1\]"),
        (torch.full((2, 5), torch.nan), r"needs \[0, 1\]"),
        (torch.zeros(2, 4), r"\(batch, 5\) is needed"),
        (torch.zeros(2, 1, 5), "flatten"),
    ],
)
def test_data_outside_the_support_is_refused(x, text):
    model = GSN((5, 4))
    with pytest.raises(ValueError, match=text):
        model.cost(x)
    with pytest.raises(ValueError, match=text):
        chains.run(model, x, 1)


def test_a_corruption_that_keeps_everything_is_refused():
    model = GSN((5, 4), corruption=corruption.Custom(lambda x: x.clone()))
    with pytest.raises(ValueError, match="learn the identity"):
        model.cost(torch.zeros(2, 5))
    noisy = GSN((5, 4), [dither.NoisyTanh(1, 1)], corruption=corruption.Custom(lambda x: x.clone()))
    assert torch.isfinite(noisy.cost(torch.zeros(2, 5))).all()


@pytest.mark.parametrize(
    ("clamp", "text"),
    [
        (torch.ones(5, dtype=torch.bool), "none is left to sample"),
        (torch.tensor([[True] * 5, [False] * 5]), "none is left to sample"),
        (torch.ones(4, dtype=torch.bool), "shape"),
        (torch.zeros(3, 5, dtype=torch.bool), "shape"),
        (torch.zeros(5), "bool mask"),
    ],
)
def test_bad_clamps_are_refused(clamp, text):
    with pytest.raises(ValueError, match=text):
        chains.run(GSN((5, 4)), torch.zeros(2, 5), 1, clamp=clamp)


def test_runs_that_keep_nothing_are_refused():
    with pytest.raises(ValueError, match="no step is recorded"):
        chains.run(GSN((5, 4)), torch.zeros(2, 5), 2, thin=3)


def test_an_interrupted_training_ends_with_the_same_bits(tmp_path):
    """Walks of random length, samples and hidden noise included: nothing but the checkpoint is needed to go on."""
    from dither.training.loop import fit
    from dither.training.run_folder import RunFolder

    x = torch.rand(12, 5, generator=torch.Generator().manual_seed(0))

    def train(path, *, epochs, resume=False):
        torch.manual_seed(7)
        model = GSN((5, 4, 3), steps=Geometric(0.6))
        optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.5)
        with RunFolder.open(path) if resume else RunFolder.create(path, {}) as run:
            fit(
                model, lambda closure: closure().mean(), optimizer, lambda model, x, _: model.cost(x), (x, torch.zeros(12)),
                epochs=epochs, batch_size=4, seed=3, run=run, resume=resume,
            )  # fmt: skip
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    whole = train(tmp_path / "whole", epochs=4)
    train(tmp_path / "parts", epochs=1)
    train(tmp_path / "parts", epochs=3, resume=True)
    assert torch.equal(train(tmp_path / "parts", epochs=4, resume=True), whole)
