"""Samples of MADE are exact given any units.

They are compared with what the enumerated distribution says for the same noise: unit after unit, u < P(1 | what is known).
"""

import pytest
import torch

from dither import noise
from dither.reconstruction import MADE
from small_distributions import assert_follow, conditional, index_of
from small_made import MASKS, ORDERS, STATES, UNITS, clamped_first, contexts, log_table, random_made


def by_enumeration(log_prob, orders, u, clamp, values):
    """What the noise must give, and P(1 | what was known) of each unit. log_prob (rows, 32); the rest (rows, units)."""
    known, x, p, rows = clamp.clone(), torch.where(clamp, values, 0), torch.zeros_like(values), torch.arange(len(u))
    for unit in orders.T:
        fits = ((x.unsqueeze(1) == STATES) | ~known.unsqueeze(1)).all(-1)
        on = torch.softmax(log_prob.masked_fill(~fits, -torch.inf), 1)
        p[rows, unit] = (on * STATES.T[unit]).sum(1)
        sample = (u[rows, unit] < p[rows, unit]).double()
        x[rows, unit] = torch.where(known[rows, unit], x[rows, unit], sample)
        known[rows, unit] = True
    return x, p


@pytest.mark.parametrize("hidden", [(3,), (4, 9, 5)])
@pytest.mark.parametrize("order", ORDERS)
def test_samples_given_any_units_are_exactly_those_of_the_joint(order, hidden, monkeypatch):
    """All 31 clamps as rows of one batch, for 12 draws of noise."""
    family, outputs = random_made(order, hidden), contexts(len(MASKS))
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
def test_free_samples_and_their_means(order, monkeypatch):
    family, outputs = random_made(order), contexts(200)
    u = torch.rand(200, UNITS, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(noise.Keyed, "draw", lambda self, like: u)
    nothing, zeros = torch.zeros(200, UNITS, dtype=torch.bool), torch.zeros(200, UNITS, dtype=torch.float64)
    expected, p = by_enumeration(log_table(family, outputs), family.order.expand(200, -1), u, nothing, zeros)
    assert torch.equal(family.sample(outputs), expected)
    torch.testing.assert_close(family.mean(outputs), p, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mask", [None, *MASKS[[0, 3, 12, 20, 30]]])
@pytest.mark.parametrize("order", ORDERS)
def test_frequencies(order, mask):
    family, n = random_made(order, dtype=torch.float32), 1 << 13
    outputs, values = contexts(1, torch.float32), STATES[21:22].float()
    clamp = torch.zeros(UNITS, dtype=torch.bool) if mask is None else mask
    turns = clamped_first(family.order, clamp[None])[0] if order == "agnostic" else None
    torch.manual_seed(0)
    samples = family.sample(outputs.expand(n, -1), mask, values.expand(n, -1))
    assert_follow(index_of(samples, STATES), conditional(log_table(family, outputs, turns)[0], STATES, clamp, STATES[21]))


@pytest.mark.parametrize("order", ORDERS)
def test_noise_is_keyed_and_follows_the_examples(order):
    family, outputs = random_made(order, dtype=torch.float32), contexts(31, torch.float32)

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
    family, outputs = random_made(order), contexts(8).view(4, 2, 3)
    scores = torch.func.vmap(family.log_prob)(outputs, STATES[:8].view(4, 2, UNITS))
    torch.testing.assert_close(scores.flatten(), family.log_prob(outputs.flatten(0, 1), STATES[:8]), rtol=0, atol=1e-12)
    same = contexts(16).expand(5, 16, 3)
    for mask in (None, MASKS[3]):
        samples = torch.func.vmap(lambda c, mask=mask: family.sample(c, mask, STATES[:16]), randomness="different")(same)
        assert len({tuple(s.flatten().tolist()) for s in samples}) == 5 and ((samples == 0) | (samples == 1)).all()


def test_dtypes_and_single_units():
    for dtype, expected in ((torch.float32, torch.float32), (torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        family, outputs = random_made("agnostic", dtype=dtype), contexts(3, dtype)
        samples = family.sample(outputs, MASKS[1], STATES[:3].to(dtype))
        assert samples.dtype == family.log_prob(outputs, samples).dtype == family.mean(outputs).dtype == expected
    one = random_made(units=1, hidden=(4,))
    p = torch.stack([one.log_prob(contexts(), torch.full((2, 1), x, dtype=torch.float64)) for x in (0.0, 1.0)]).exp().sum(0)
    torch.testing.assert_close(p, torch.ones(2, dtype=torch.float64))
    assert one.sample(contexts()).shape == (2, 1)
    assert not one.sample(contexts().requires_grad_()).requires_grad


def test_the_mean_that_comes_with_a_sample_is_of_that_sample():
    torch.manual_seed(0)
    family = MADE(4, hidden=(8,), context=2).double()
    outputs = torch.randn(6, 2, dtype=torch.float64)
    x, mean = family.sample_with_mean(outputs)
    log_prob = (x * mean.log() + (1 - x) * (1 - mean).log()).sum(-1)
    torch.testing.assert_close(log_prob, family.log_prob(outputs, x).detach())


def test_a_clamp_that_a_fixed_order_cannot_take():
    outputs, values, clamp = torch.zeros(2, 3), torch.ones(2, 40), torch.zeros(40, dtype=torch.bool)
    family = MADE(40, (20,), context=3)
    clamp[17] = True
    with pytest.raises(ValueError, match=r"clamp leaves 17 units free .* possible for 16 units; .*order='agnostic'"):
        family.sample(outputs, clamp, values)
    assert MADE(40, (20,), context=3, order="agnostic").sample(outputs, clamp, values)[:, 17].eq(1).all()
    clamp[3] = True
    assert family.sample(outputs, clamp, values)[:, clamp].eq(1).all()
