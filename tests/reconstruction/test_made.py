"""MADE: a distribution in every order, what is saved of it, and what it refuses."""

import pytest
import torch

from dither import noise
from dither.reconstruction import MADE
from small_distributions import assert_follow, binary
from small_made import MASKS, MIXED, ORDERS, STATES, UNITS, contexts, log_table, random_made


# --- scores -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("hidden", [(1,), (3,), (40,), (7, 6), (4, 9, 5)])
@pytest.mark.parametrize("order", ORDERS)
def test_sums_to_one_in_every_order(order, hidden, dtype, tolerance):
    family = random_made(order, hidden, dtype)
    for turns in (None, MIXED):
        total = log_table(family, contexts(dtype=dtype), turns).exp().sum(1)
        torch.testing.assert_close(total, torch.ones(2, dtype=dtype), rtol=0, atol=tolerance)


@pytest.mark.parametrize("hidden", [(40,), (30, 30), (20, 30, 40)])
@pytest.mark.parametrize("order", [torch.arange(UNITS), MIXED])
def test_a_unit_sees_all_before_it_and_nothing_after(order, hidden):
    family = random_made(hidden=hidden)
    family.direct.weight.data.zero_()  # so that what is seen is seen through the hidden units
    x, outputs = torch.rand(64, UNITS, dtype=torch.float64), contexts(1)
    gradients = torch.func.vmap(torch.func.jacrev(lambda x: family.logits(outputs, x[None], order)[0]))(x).abs().amax(0)
    assert torch.equal(gradients[order][:, order] > 0, torch.ones(UNITS, UNITS).tril(-1).bool())


def test_the_context_reaches_every_unit():
    family = random_made()
    gradients = torch.func.jacrev(lambda c: family.logits(c, STATES[:1], family.order)[0])(contexts(1))
    assert (gradients != 0).all()


@pytest.mark.parametrize("order", ["natural", "random"])
def test_gradients(order):
    family, x = random_made(order), STATES[[3, 17]]
    inputs = (contexts().requires_grad_(), *family.parameters())
    assert torch.autograd.gradcheck(lambda c, *_: family.log_prob(c, x), inputs)


def test_saturated_logits():
    family = random_made()
    with torch.no_grad():
        family.last.bias.copy_(torch.tensor([torch.inf, -torch.inf, 200.0, -200.0, 0.0]))
        for parameter in (family.last.weight, family.direct.weight, family.injections[-1].get_parameter("weight")):
            parameter.zero_()
    p = log_table(family, contexts(1))[0].exp()
    torch.testing.assert_close(p[p > 1e-50], torch.full((2,), 0.5, dtype=torch.float64), rtol=0, atol=1e-12)
    assert family.sample(contexts(9))[:, :4].eq(torch.tensor([1.0, 0, 1, 0])).all()


def test_it_learns_what_no_factorised_distribution_can():
    # The parity of two units is the third: 2 log 2 nats, 3 log 2 for independent units.
    torch.manual_seed(0)
    family, x = MADE(3, (16,), context=1), binary(3)[binary(3).sum(1) % 2 == 0].float()
    optimizer = torch.optim.Adam(family.parameters(), 0.03)
    for _ in range(150):
        optimizer.zero_grad()
        (-family.log_prob(torch.zeros(4, 1), x).mean()).backward()
        optimizer.step()
    assert -family.log_prob(torch.zeros(4, 1), x).mean() < 1.5


# --- orders, and what is saved ------------------------------------------------------------------------------------------
def test_agnostic_training_takes_a_new_order_at_each_call():
    family, x = random_made("agnostic").train(), STATES[:2]
    torch.manual_seed(0)
    first = [family.log_prob(contexts(), x) for _ in range(20)]
    assert len({round(value[1].item(), 9) for value in first}) > 5
    torch.manual_seed(0)
    assert torch.equal(family.log_prob(contexts(), x), first[0])
    with noise.examples(torch.tensor([5, 6])):
        assert family.log_prob(contexts(), x).isfinite().all()
    assert torch.equal(family.log_prob(contexts(), x, MIXED), family.eval().log_prob(contexts(), x, MIXED))
    assert torch.equal(family.log_prob(contexts(), x), family.log_prob(contexts(), x, torch.arange(UNITS)))
    fixed = random_made("random").train()
    assert torch.equal(fixed.log_prob(contexts(), x), fixed.log_prob(contexts(), x))


def test_all_orders_are_equally_likely():
    family = random_made("agnostic", units=3)
    torch.manual_seed(0)
    codes = torch.tensor([[9, 3, 1]]) * torch.stack([family._random_order() for _ in range(3000)])
    assert_follow(codes.sum(1).unique(return_inverse=True)[1], torch.full((6,), 1 / 6))


def test_state_goes_from_one_to_another():
    first, other = MADE(5, (6,), context=3, order="random", seed=1), MADE(5, (6,), context=3, order="random", seed=2)
    assert not torch.equal(first.order, other.order) and not torch.equal(first.order, torch.arange(5))
    other.load_state_dict(first.state_dict())
    outputs, x = contexts(dtype=torch.float32), STATES[:2].float()
    assert torch.equal(first.log_prob(outputs, x), other.log_prob(outputs, x))
    torch.manual_seed(0)
    samples = first.sample(outputs)
    torch.manual_seed(0)
    assert torch.equal(other.sample(outputs), samples)


# --- what is refused ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: MADE(5, (), context=3), "at least one hidden layer"),
        (lambda: MADE(5, (4, 0), context=3), r"hidden=\(4, 0\)"),
        (lambda: MADE(0, (4,), context=3), "units=0"),
        (lambda: MADE(5, (4,), context=True), "context=True"),
        (lambda: random_made("any"), "order is 'any': choose 'natural', 'random' or 'agnostic'"),
        (lambda: random_made().outputs(4), "one of 5 units, not 4: build it with units=4"),
        (
            lambda: random_made().log_prob(contexts(), STATES[:1]),
            r"outputs has shape \(2, 3\), x \(1, 5\): MADE needs \(1, 3\)",
        ),
        (
            lambda: random_made().log_prob(contexts(), STATES[:2], torch.tensor([0, 1, 2, 3, 3])),
            "a permutation of 0 ... 4 is needed",
        ),
        (lambda: random_made().check(torch.full((1, 5), 0.5)), "besides 0 and 1"),
        (lambda: random_made().check(torch.full((1, 5), float("nan"))), "besides 0 and 1"),
        (lambda: random_made().sample(contexts(), MASKS[1], torch.full((2, 5), 0.3)), "besides 0 and 1"),
        (lambda: random_made().sample(contexts(), torch.ones(5).bool(), STATES[:2]), "none is left to sample"),
        (lambda: random_made().sample(contexts(), torch.ones(4).bool(), STATES[:2]), r"bool mask of shape \(5,\)"),
    ],
)
def test_what_is_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()
    random_made().check(STATES)
