"""MADE: a distribution in every order, whose draws are exact given any units.

Draws are compared with what the enumerated distribution says for the same noise: unit after unit, u < P(1 | what is known).
"""

from typing import Any

import pytest
import torch

from dither import noise
from dither.reconstruction import MADE
from small_distributions import assert_follow, binary, given, index_of

UNITS, STATES = 5, binary(5)
MASKS = STATES[:-1].bool()
ORDERS = ["natural", "random", "agnostic"]
MIXED = torch.tensor([3, 1, 0, 4, 2])


def made(order: Any = "natural", hidden=(7, 6), dtype=torch.float64, units=UNITS, context=3):
    """With weights so large that every unit depends much on the others."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        family = MADE(units, hidden, context=context, order=order, seed=3)
        for parameter in family.parameters():
            torch.nn.init.normal_(parameter, std=1.0)
    return family.to(dtype).eval()


def contexts(batch=2, dtype=torch.float64):
    return torch.randn(batch, 3, generator=torch.Generator().manual_seed(2)).to(dtype)


def log_table(family, outputs, order=None):
    return torch.stack([family.log_prob(row.expand(32, -1), STATES.to(row.dtype), order) for row in outputs])


def clamped_first(order, clamp):
    return torch.stack([torch.cat((order[row[order]], order[~row[order]])) for row in clamp])


def by_enumeration(log_prob, orders, u, clamp, values):
    """What the noise must give, and P(1 | what was known) of each unit. log_prob (rows, 32); the rest (rows, units)."""
    known, x, p, rows = clamp.clone(), torch.where(clamp, values, 0), torch.zeros_like(values), torch.arange(len(u))
    for unit in orders.T:
        fits = ((x.unsqueeze(1) == STATES) | ~known.unsqueeze(1)).all(-1)
        on = torch.softmax(log_prob.masked_fill(~fits, -torch.inf), 1)
        p[rows, unit] = (on * STATES.T[unit]).sum(1)
        decided = (u[rows, unit] < p[rows, unit]).double()
        x[rows, unit] = torch.where(known[rows, unit], x[rows, unit], decided)
        known[rows, unit] = True
    return x, p


# --- scores -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("hidden", [(1,), (3,), (40,), (7, 6), (4, 9, 5)])
@pytest.mark.parametrize("order", ORDERS)
def test_sums_to_one_in_every_order(order, hidden, dtype, tolerance):
    family = made(order, hidden, dtype)
    for given_order in (None, MIXED):
        total = log_table(family, contexts(dtype=dtype), given_order).exp().sum(1)
        torch.testing.assert_close(total, torch.ones(2, dtype=dtype), rtol=0, atol=tolerance)


@pytest.mark.parametrize("hidden", [(40,), (30, 30), (20, 30, 40)])
@pytest.mark.parametrize("order", [torch.arange(UNITS), MIXED])
def test_a_unit_sees_all_before_it_and_nothing_after(order, hidden):
    family = made(hidden=hidden)
    family.direct.weight.data.zero_()  # so that what is seen is seen through the hidden units
    x, outputs = torch.rand(64, UNITS, dtype=torch.float64), contexts(1)
    slopes = torch.func.vmap(torch.func.jacrev(lambda x: family.logits(outputs, x[None], order)[0]))(x).abs().amax(0)
    assert torch.equal(slopes[order][:, order] > 0, torch.ones(UNITS, UNITS).tril(-1).bool())


def test_the_context_reaches_every_unit():
    family = made()
    slopes = torch.func.jacrev(lambda c: family.logits(c, STATES[:1], family.order)[0])(contexts(1))
    assert (slopes != 0).all()


@pytest.mark.parametrize("order", ["natural", "random"])
def test_gradients(order):
    family, x = made(order), STATES[[3, 17]]
    inputs = (contexts().requires_grad_(), *family.parameters())
    assert torch.autograd.gradcheck(lambda c, *_: family.log_prob(c, x), inputs)


def test_saturated_logits():
    family = made()
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


# --- draws --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("hidden", [(3,), (4, 9, 5)])
@pytest.mark.parametrize("order", ORDERS)
def test_draws_given_any_units_are_exactly_those_of_the_joint(order, hidden, monkeypatch):
    """All 31 clamps as rows of one batch, for 12 draws of noise."""
    family, outputs = made(order, hidden), contexts(len(MASKS))
    values = STATES.flip(0)[: len(MASKS)]
    orders, tables = family.order.expand(31, UNITS), log_table(family, outputs)
    if order == "agnostic":
        orders = clamped_first(family.order, MASKS)
        tables = torch.cat([log_table(family, outputs[row : row + 1], orders[row]) for row in range(31)])
    for turn in range(12):
        u = torch.rand(31, UNITS, generator=torch.Generator().manual_seed(turn))
        monkeypatch.setattr(noise.Keyed, "draw", lambda self, like, u=u: u)
        assert torch.equal(family.sample(outputs, MASKS, values), by_enumeration(tables, orders, u, MASKS, values)[0])


@pytest.mark.parametrize("order", ORDERS)
def test_free_draws_and_their_means(order, monkeypatch):
    family, outputs = made(order), contexts(200)
    u = torch.rand(200, UNITS, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(noise.Keyed, "draw", lambda self, like: u)
    nothing, zeros = torch.zeros(200, UNITS, dtype=torch.bool), torch.zeros(200, UNITS, dtype=torch.float64)
    expected, p = by_enumeration(log_table(family, outputs), family.order.expand(200, -1), u, nothing, zeros)
    assert torch.equal(family.sample(outputs), expected)
    torch.testing.assert_close(family.mean(outputs), p, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mask", [None, *MASKS[[0, 3, 12, 20, 30]]])
@pytest.mark.parametrize("order", ORDERS)
def test_frequencies(order, mask):
    family, n = made(order, dtype=torch.float32), 1 << 13
    outputs, values = contexts(1, torch.float32), STATES[21:22].float()
    clamp = torch.zeros(UNITS, dtype=torch.bool) if mask is None else mask
    turns = clamped_first(family.order, clamp[None])[0] if order == "agnostic" else None
    torch.manual_seed(0)
    drawn = family.sample(outputs.expand(n, -1), mask, values.expand(n, -1))
    assert_follow(index_of(drawn, STATES), given(log_table(family, outputs, turns)[0], STATES, clamp, STATES[21]))


@pytest.mark.parametrize("order", ORDERS)
def test_noise_is_keyed_and_follows_the_examples(order):
    family, outputs = made(order, dtype=torch.float32), contexts(31, torch.float32)

    def run(rows, mask):
        torch.manual_seed(1)
        with noise.examples(rows):
            return family.sample(outputs[rows], mask[rows], STATES.float()[rows])

    for mask in (MASKS, MASKS[12].expand(31, UNITS)):
        whole = run(torch.arange(31), mask)
        assert torch.equal(whole[mask], STATES.float()[:31][mask])
        assert torch.equal(run(torch.arange(31).flip(0), mask), whole.flip(0))
        assert torch.equal(torch.cat([run(rows, mask) for rows in torch.arange(31).split(6)]), whole)
    assert not torch.equal(family.sample(outputs), family.sample(outputs))


@pytest.mark.parametrize("order", ORDERS)
def test_vmap(order):
    family, outputs = made(order), contexts(8).view(4, 2, 3)
    scores = torch.func.vmap(family.log_prob)(outputs, STATES[:8].view(4, 2, UNITS))
    torch.testing.assert_close(scores.flatten(), family.log_prob(outputs.flatten(0, 1), STATES[:8]), rtol=0, atol=1e-12)
    same = contexts(16).expand(5, 16, 3)
    for mask in (None, MASKS[3]):
        drawn = torch.func.vmap(lambda c, mask=mask: family.sample(c, mask, STATES[:16]))(same)
        assert len({tuple(s.flatten().tolist()) for s in drawn}) == 5 and ((drawn == 0) | (drawn == 1)).all()


def test_dtypes_and_single_units():
    for dtype, expected in ((torch.float32, torch.float32), (torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        family, outputs = made("agnostic", dtype=dtype), contexts(3, dtype)
        drawn = family.sample(outputs, MASKS[1], STATES[:3].to(dtype))
        assert drawn.dtype == family.log_prob(outputs, drawn).dtype == family.mean(outputs).dtype == expected
    one = made(units=1, hidden=(4,))
    p = torch.stack([one.log_prob(contexts(), torch.full((2, 1), x, dtype=torch.float64)) for x in (0.0, 1.0)]).exp().sum(0)
    torch.testing.assert_close(p, torch.ones(2, dtype=torch.float64))
    assert one.sample(contexts()).shape == (2, 1)
    assert not one.sample(contexts().requires_grad_()).requires_grad


# --- orders, and what is saved ------------------------------------------------------------------------------------------
def test_agnostic_training_takes_a_new_order_at_each_call():
    family, x = made("agnostic").train(), STATES[:2]
    torch.manual_seed(0)
    first = [family.log_prob(contexts(), x) for _ in range(20)]
    assert len({round(value[1].item(), 9) for value in first}) > 5
    torch.manual_seed(0)
    assert torch.equal(family.log_prob(contexts(), x), first[0])
    with noise.examples(torch.tensor([5, 6])):
        assert family.log_prob(contexts(), x).isfinite().all()
    assert torch.equal(family.log_prob(contexts(), x, MIXED), family.eval().log_prob(contexts(), x, MIXED))
    assert torch.equal(family.log_prob(contexts(), x), family.log_prob(contexts(), x, torch.arange(UNITS)))
    fixed = made("random").train()
    assert torch.equal(fixed.log_prob(contexts(), x), fixed.log_prob(contexts(), x))


def test_all_orders_are_drawn_alike():
    family = made("agnostic", units=3)
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
    drawn = first.sample(outputs)
    torch.manual_seed(0)
    assert torch.equal(other.sample(outputs), drawn)


# --- what is refused ----------------------------------------------------------------------------------------------------
def test_a_clamp_that_a_fixed_order_cannot_take():
    outputs, values, clamp = torch.zeros(2, 3), torch.ones(2, 40), torch.zeros(40, dtype=torch.bool)
    family = MADE(40, (20,), context=3)
    clamp[17] = True
    with pytest.raises(ValueError, match=r"clamp leaves 17 units free .* possible for 16 units; .*order='agnostic'"):
        family.sample(outputs, clamp, values)
    assert MADE(40, (20,), context=3, order="agnostic").sample(outputs, clamp, values)[:, 17].eq(1).all()
    clamp[3] = True
    assert family.sample(outputs, clamp, values)[:, clamp].eq(1).all()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: MADE(5, (), context=3), "at least one hidden layer"),
        (lambda: MADE(5, (4, 0), context=3), r"hidden=\(4, 0\)"),
        (lambda: MADE(0, (4,), context=3), "units=0"),
        (lambda: MADE(5, (4,), context=True), "context=True"),
        (lambda: made("any"), "order is 'any': choose 'natural', 'random' or 'agnostic'"),
        (lambda: made().outputs(4), "one of 5 units, not 4: build it with units=4"),
        (lambda: made().log_prob(contexts(), STATES[:1]), r"outputs has shape \(2, 3\), x \(1, 5\): MADE needs \(1, 3\)"),
        (lambda: made().log_prob(contexts(), STATES[:2], torch.tensor([0, 1, 2, 3, 3])), "a permutation of 0 ... 4 is needed"),
        (lambda: made().check(torch.full((1, 5), 0.5)), "besides 0 and 1"),
        (lambda: made().check(torch.full((1, 5), float("nan"))), "besides 0 and 1"),
        (lambda: made().sample(contexts(), MASKS[1], torch.full((2, 5), 0.3)), "besides 0 and 1"),
        (lambda: made().sample(contexts(), torch.ones(5).bool(), STATES[:2]), "nothing is left to draw"),
        (lambda: made().sample(contexts(), torch.ones(4).bool(), STATES[:2]), r"bool mask of shape \(5,\)"),
    ],
)
def test_what_is_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()
    made().check(STATES)


def test_the_mean_that_comes_with_a_sample_is_of_that_sample():
    torch.manual_seed(0)
    made = MADE(4, hidden=(8,), context=2).double()
    outputs = torch.randn(6, 2, dtype=torch.float64)
    x, mean = made.sample_with_mean(outputs)
    log_prob = (x * mean.log() + (1 - x) * (1 - mean).log()).sum(-1)
    torch.testing.assert_close(log_prob, made.log_prob(outputs, x).detach())
