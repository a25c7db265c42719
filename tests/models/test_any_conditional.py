"""The any-conditional model against the enumeration of all states, all masks and all orders of a few variables."""

import itertools
import math

import pytest
import torch
from torch import nn

from dither import noise
from dither.models import masks
from dither.models.any_conditional import AnyConditional
from dither.reconstruction import MADE, Bernoulli, Categorical, Gaussian, Joint, Mixture
from small_masks import SAMPLES, bits, index, p_value

N = 4


def orders(n):
    return torch.tensor(list(itertools.permutations(range(n))))


def make(units=N, reconstruction=None, mask=None, seed=0):
    """A network whose conditionals are different for every mask."""
    torch.manual_seed(seed)
    model = AnyConditional.dense(units, (16,), reconstruction, mask).double().requires_grad_(False)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p))
    return model


class Fixed(masks.Masks):
    """Row i gets mask i."""

    def __init__(self, known):
        super().__init__()
        self.known = known

    def forward(self, batch, variables, device):
        return self.known

    def weight(self, known):
        return masks.Uniform().weight(known)


class Table(nn.Module):
    """The exact logits of P(x_i = 1 | x_known) of a joint distribution over binary states."""

    def __init__(self, joint):
        super().__init__()
        self.joint, self.states = joint, bits(int(math.log2(len(joint)))).double()

    def forward(self, inputs):
        x, known = inputs.chunk(2, 1)
        fits = ((self.states - x.unsqueeze(1)) * known.unsqueeze(1) == 0).all(2)  # (batch, states)
        on = (fits * self.joint) @ self.states / (fits * self.joint).sum(1, keepdim=True)
        return torch.logit(on)


def joint(n, seed=0):
    return torch.randn(2**n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(1.5).softmax(0)


# --- training -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("reconstruction", [Bernoulli(), Gaussian(None)])
def test_the_weighted_cost_is_the_mean_over_orders(reconstruction):
    known = bits(N)[:-1].bool()
    model = make(reconstruction=reconstruction, mask=Fixed(known))
    for x in bits(N).double()[[0, 5, 14]]:
        costs = model.cost(x.expand(len(known), N))
        probability = torch.tensor([1 / (N * math.comb(N, k)) for k in known.sum(1).tolist()], dtype=torch.float64)
        assert float(probability.sum()) == pytest.approx(1)
        mean = -model.log_likelihood(x.unsqueeze(0), orders(N)).mean()
        torch.testing.assert_close((probability * costs).sum(), mean, rtol=1e-12, atol=1e-12)


def test_the_weights_are_an_option():
    known = bits(N)[:-1].bool()
    torch.testing.assert_close(masks.Uniform().weight(known), N / (~known).sum(1).double())
    assert masks.Uniform(weighted=False).weight(known) is None
    model, x = make(mask=masks.Among(known[[6]])), bits(N).double()
    torch.testing.assert_close(model.cost(x), -model.log_prob(x, known[6]))


def test_one_pass_is_the_product_of_its_units():
    model, x, known = make(), bits(N).double(), torch.tensor([True, False, True, False])
    a = model.network(torch.cat([x * known, known.expand_as(x).double()], 1))
    p = torch.sigmoid(a)
    expected = torch.where(x == 1, p, 1 - p)[:, ~known].log().sum(1)
    torch.testing.assert_close(model.log_prob(x, known), expected)


def test_training_converges_to_a_joint_distribution():
    target = torch.tensor([0.4, 0.05, 0.05, 0.1, 0.0, 0.1, 0.1, 0.2])
    torch.manual_seed(0)
    model, states = AnyConditional.dense(3, (64,)), bits(3).float()
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    for _ in range(600):
        optimizer.zero_grad()
        model.cost(states[target.multinomial(512, replacement=True)]).mean().backward()
        optimizer.step()
    learned = model.log_likelihood(states, orders(3)).detach().exp()
    assert float((learned - target).abs().max()) < 0.04


# --- samples and their probabilities ------------------------------------------------------------------------------------


@pytest.mark.parametrize("passes", [1, 2, 3, N])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1), None])
def test_samples_have_the_probability_of_their_order(passes, order):
    model, nothing = make(), torch.zeros(N, dtype=torch.bool)
    order = None if order is None else torch.tensor(order)
    states = bits(N).double()
    by_order = orders(N) if order is None else order.unsqueeze(0)
    probability = model.log_likelihood(states, by_order, None, passes).exp().mean(0)
    assert float(probability.sum()) == pytest.approx(1, abs=1e-12)
    torch.manual_seed(1)
    samples = model.sample(torch.full((SAMPLES, N), torch.nan).double(), nothing, passes, order)
    assert p_value(index(samples), probability) > 1e-4


def test_samples_are_conditional_on_what_is_known():
    """Another half known for each example; what x has elsewhere does not matter."""
    model = make(5)
    known = torch.tensor([[True, False, False, True, False], [False, False, True, False, False]]).repeat(SAMPLES // 2, 1)
    x = torch.tensor([[1.0, 7, torch.nan, 0, torch.inf], [3, 3, 1, 3, 3]], dtype=torch.float64).repeat(SAMPLES // 2, 1)
    order, states = torch.tensor([4, 2, 0, 1, 3]), bits(5).double()
    torch.manual_seed(2)
    samples = model.sample(x, known, passes=5, order=order)
    for row in (0, 1):
        fits = (states[:, known[row]] == x[row, known[row]]).all(1)
        probability = model.log_likelihood(states, order, known[row]).exp() * fits
        assert float(probability.sum()) == pytest.approx(1, abs=1e-12)
        assert p_value(index(samples[row::2]), probability) > 1e-4


def test_an_order_is_the_chain_rule():
    model, x, order = make(), bits(N).double(), [2, 0, 3, 1]
    total, known = torch.zeros(16, dtype=torch.float64), torch.zeros(N, dtype=torch.bool)
    for unit in order:
        after = known.clone()
        after[unit] = True
        a = model.network(torch.cat([x * known, known.expand_as(x).double()], 1))[:, unit]
        total += torch.where(x[:, unit] == 1, a.sigmoid(), (-a).sigmoid()).log()
        known = after
    torch.testing.assert_close(model.log_likelihood(x, torch.tensor(order)), total)


def test_groups_are_random_and_of_one_size():
    model, known = make(5), torch.tensor([False, False, True, False, False]).expand(6000, 5)
    torch.manual_seed(0)
    step, steps = model._schedule(known, None, 2)
    assert steps == 2 and (step[:, 2] < 0).all() and ((step == 0).sum(1) == 2).all() and ((step == 1).sum(1) == 2).all()
    pairs = torch.bincount(index((step == 0)[:, [0, 1, 3, 4]]), minlength=16)
    assert (pairs > 0).sum() == 6 and (pairs[pairs > 0] - 1000).abs().max() < 5 * (6000 * 5 / 36) ** 0.5
    few = torch.tensor([[True, True, True, True, False], [False] * 5])
    assert model._schedule(few[:1], None, 5)[1] == 1
    assert model._schedule(few, torch.arange(5), 5)[0].clamp(min=-1).tolist() == [[-1, -1, -1, -1, 0], [0, 1, 2, 3, 4]]


# --- one joint distribution, or none ------------------------------------------------------------------------------------
@pytest.mark.parametrize("n", [4, 5])
def test_exact_conditionals_give_the_joint_in_every_order(n):
    p = joint(n)
    model, states = AnyConditional(Table(p), n), bits(n).double()
    torch.testing.assert_close(model.log_likelihood(states, orders(n)[::7]).exp(), p.expand(len(orders(n)[::7]), -1))
    assert float(model.coherence(states).max()) < 1e-12


def test_coherence_is_the_spread_over_orders():
    model, states = make(3), bits(3).double()
    variance = model.log_likelihood(states, orders(3)).var(0, unbiased=False)
    torch.manual_seed(0)
    estimates = model.coherence(states.repeat(1500, 1), 5).square().view(1500, 8)
    z = (estimates.mean(0) - variance) / (estimates.std(0) / 1500**0.5)
    assert float(variance.min()) > 0.01 and float(z.abs().max()) < 4
    known = torch.tensor([True, False, False])
    assert float(model.coherence(states, 60, known).min()) > 0
    assert float(model.coherence(states, 5, torch.tensor([True, False, True])).max()) == 0  # one unit has one order


# --- families -----------------------------------------------------------------------------------------------------------
def test_a_mixture_samples_its_log_prob_and_is_not_factorised():
    model, states, known = (
        make(reconstruction=Mixture(Bernoulli(), 3)),
        bits(N).double(),
        torch.tensor([False, True, False, False]),
    )
    fits = states[:, 1] == 1
    probability = model.log_prob(states, known).exp() * fits
    assert float(probability.sum()) == pytest.approx(1, abs=1e-12)
    torch.manual_seed(0)
    samples = model.sample(torch.ones(SAMPLES, N, dtype=torch.float64), known)
    assert p_value(index(samples), probability) > 1e-4
    table = probability[fits].view(2, 2, 2)
    units = [table.sum([d for d in range(3) if d != axis]) for axis in range(3)]
    assert float((table - torch.einsum("i,j,k->ijk", *units)).abs().max()) > 0.001
    along = model.log_likelihood(states, torch.tensor([3, 1, 0, 2])).exp()
    assert float(along.sum()) == pytest.approx(1, abs=1e-12)


def test_one_hot_variables_stay_together():
    family = Joint([(Bernoulli(), 2), (Categorical(3), 3)])
    model = make(5, family, masks.Uniform())
    label = torch.eye(3, dtype=torch.float64)
    states = torch.cat([bits(2).double().repeat_interleave(3, 0), label.repeat(4, 1)], 1)
    assert model.count == 3
    probability = model.log_likelihood(states, orders(3)).exp()
    torch.testing.assert_close(probability.sum(1), torch.ones(6, dtype=torch.float64))
    torch.manual_seed(0)
    samples = model.sample(torch.full((SAMPLES, 5), torch.nan).double(), torch.zeros(5, dtype=torch.bool), passes=3)
    which = (samples.unsqueeze(1) == states).all(2).long()
    assert (which.sum(1) == 1).all() and p_value(which.argmax(1), probability.mean(0)) > 1e-4
    known = bits(3)[:-1].bool()
    model.masks = Fixed(known)
    p = torch.tensor([1 / (3 * math.comb(3, k)) for k in known.sum(1).tolist()], dtype=torch.float64)
    mean = -model.log_likelihood(states[:1], orders(3)).mean()
    torch.testing.assert_close((p * model.cost(states[:1].expand(7, 5))).sum(), mean)
    with pytest.raises(ValueError, match="splits a one-hot variable"):
        model.log_prob(states, torch.tensor([True, False, True, False, False]))


# --- noise and errors ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "mask", [masks.Uniform(), masks.Independent(0.4), masks.Blocks((2, 3)), masks.Halves((2, 3))], ids=repr
)
def test_noise_follows_the_examples(mask):
    model, x = make(6, mask=mask), bits(6).double()[:40]
    known, ids, shuffled = torch.arange(6) < 2, torch.arange(100, 140), torch.randperm(40)
    for compute in (model.cost, lambda x: model.sample(x, known, 3), lambda x: model.log_likelihood(x, None, known, 2)):
        results = []
        for rows in (torch.arange(40), shuffled):
            torch.manual_seed(5)
            with noise.examples(ids[rows]):
                results.append(compute(x[rows]))
        torch.testing.assert_close(results[0][shuffled], results[1])
        torch.manual_seed(6)
        assert not torch.equal(compute(x), results[0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, x: m.log_prob(x, torch.ones(N, dtype=torch.bool)), "known has every unit of an example"),
        (lambda m, x: m.sample(x, torch.ones(N)), "known has shape .* and dtype torch.float32: a bool mask"),
        (lambda m, x: m.log_prob(x, torch.zeros(3, dtype=torch.bool)), r"known has shape \(3,\)"),
        (lambda m, x: m.cost(x * 2), "x runs from 0 to 2: a Bernoulli"),
        (lambda m, x: m.sample(x + 1, torch.arange(N) < 2), "x runs from 0 to 2: a Bernoulli"),
        (lambda m, x: m.cost(x[:, :3]), r"x has shape \(16, 3\): \(batch, 4\) is needed"),
        (lambda m, x: m.sample(x[:, :3], torch.arange(3) < 2), r"x has shape \(16, 3\): \(batch, 4\) is needed"),
        (lambda m, x: m.sample(x, torch.arange(N) < 2, passes=0), "passes is 0: an integer from 1 to .* 4"),
        (lambda m, x: m.sample(x, torch.arange(N) < 2, passes=5), "passes is 5"),
        (lambda m, x: m.log_likelihood(x, torch.tensor([0, 1, 2, 2])), "order is .*: a permutation of 0 ... 3"),
        (lambda m, x: m.coherence(x, 1), "orders is 1: a spread needs at least 2"),
        (lambda m, x: make(mask=Fixed(torch.zeros(2, N, dtype=torch.bool))).cost(x), r"masks gave shape \(2, 4\)"),
        (lambda m, x: make(mask=Fixed(torch.ones(16, N, dtype=torch.bool))).cost(x), "known has every unit"),
        (lambda m, x: make(mask=masks.Halves((2, 3))).cost(x), "known has 6 variables, the model has 4"),
        (lambda m, x: make(mask=masks.Blocks((2, 3))).cost(x), "the model has 4 variables"),
        (lambda m, x: AnyConditional(nn.Linear(8, 3), N).cost(x.float()), r"the network gives \(16, 3\)"),
        (
            lambda m, x: AnyConditional(nn.Linear(8, 4), N, reconstruction=MADE(N, context=4)),
            "the marginal probability of some of its units",
        ),
        (
            lambda m, x: AnyConditional(nn.Linear(8, 4), N, reconstruction=Categorical(3)),
            "4 units are no multiple of categories=3",
        ),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call(make(), bits(N).double())


def test_data_outside_the_support_may_be_unknown_but_not_known():
    family = Joint([(Bernoulli(), 1), (Categorical(3), 3)])
    model, x = make(4, family), torch.full((5, 4), torch.nan).double()
    known = torch.tensor([True, False, False, False])
    x[:, 0] = 1
    assert model.sample(x, known)[:, 1:].sum(1).tolist() == [1] * 5
    x[:, 0] = torch.nan
    with pytest.raises(ValueError, match="x runs from nan"):
        model.sample(x, known)
    with pytest.raises(ValueError, match="not one-hot"):
        model.sample(torch.zeros(5, 4).double(), ~known)
