"""Parts of several kinds side by side."""

import pytest
import torch

from dither import exact
from dither.reconstruction import MADE, Bernoulli, Categorical, Gaussian, Joint, Mixture
from small_distributions import binary, conditional

WIDE = {"rtol": 0, "atol": 1e-12}
PARTS = [(Bernoulli(), 2), (Categorical(3), 3), (Gaussian(None), 1)]


def discrete():
    """A pixel and a label: the family, and its states."""
    family = Joint([(Bernoulli(), 1), (Categorical(3), 3)])
    labels = torch.eye(3, dtype=torch.float64)
    return family, torch.cat((binary(1).repeat_interleave(3, 0), labels.repeat(2, 1)), 1)


def test_each_part_has_its_piece():
    family, generator = Joint(PARTS), torch.Generator().manual_seed(0)
    assert family.outputs(6) == 7
    outputs = torch.randn(2, 7, generator=generator, dtype=torch.float64)
    x = torch.tensor([[1.0, 0, *(0, 1, 0), 0.3], [0.0, 0, *(1, 0, 0), -2.0]], dtype=torch.float64)
    pieces = [(outputs[:, :2], x[:, :2]), (outputs[:, 2:5], x[:, 2:5]), (outputs[:, 5:], x[:, 5:])]
    expected = sum(part.log_prob(a, b) for (part, _), (a, b) in zip(PARTS, pieces, strict=True))
    torch.testing.assert_close(family.log_prob(outputs, x), expected, **WIDE)
    torch.testing.assert_close(family.terms(outputs, x).sum(1), expected, **WIDE)
    assert torch.equal(family.mean(outputs), torch.cat([p.mean(a) for (p, _), (a, _) in zip(PARTS, pieces, strict=True)], 1))
    assert torch.autograd.gradcheck(lambda a: family.log_prob(a, x), outputs.requires_grad_())


def test_sums_to_one():
    family, states = discrete()
    outputs = torch.randn(1, 4, dtype=torch.float64).expand(6, 4)
    assert float(family.log_prob(outputs, states).exp().sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("mask", [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 1]])
def test_samples_are_exactly_the_distribution_given_the_clamped(mask):
    """A part may be clamped as a whole, while another is sampled."""
    family, states = discrete()
    outputs = torch.randn(1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    clamp, values = torch.tensor(mask).bool(), states[4:5]
    samples = exact.expected_cost(
        family, lambda: (family.sample(outputs, clamp, values) == states).all(-1).double().unsqueeze(0)
    )
    torch.testing.assert_close(
        samples[0], conditional(family.log_prob(outputs.expand(6, 4), states), states, clamp, values[0]), **WIDE
    )


@pytest.mark.parametrize("order", ["natural", "agnostic"])
def test_parts_that_are_not_factorised(order):
    autoregressive = MADE(3, (5,), context=2, order=order)
    family = Joint([(autoregressive, 3), (Mixture(Bernoulli(), 2), 2), (Bernoulli(), 1)])
    assert not family.factorised and Joint(PARTS).factorised
    outputs, values = torch.randn(4, family.outputs(6)), torch.tensor([[1.0, 0, 1, 0, 1, 1]]).expand(4, 6)
    for mask in ([1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], [1, 0, 1, 0, 1, 0]):
        clamp = torch.tensor(mask).bool()
        samples = family.sample(outputs, clamp, values)
        assert torch.equal(samples[:, clamp], values[:, clamp]) and ((samples == 0) | (samples == 1)).all()
    with pytest.raises(NotImplementedError, match="is not factorised"):
        family.terms(outputs, values)
    assert set(family.state_dict()) == {f"parts.0.{name}" for name in autoregressive.state_dict()}, (
        "the parts' parameters are its own"
    )


def test_clamped_values_come_back_bit_for_bit():
    clamp, values = torch.tensor([True, False, True, True, True, True]), torch.tensor([[0.3, 7.0, -0.0, 1e-42, 0.1, -2.5]])
    samples = Joint(PARTS).sample(torch.zeros(1, 7), clamp, values)
    assert torch.equal(samples[:, clamp].view(torch.int32), values[:, clamp].view(torch.int32)) and samples[0, 1] != 7


def test_each_part_checks_its_own():
    family, x = Joint(PARTS), torch.tensor([[1.0, 0, *(0, 1, 0), 0.3]])
    family.check(x)
    for unit, value, text in ((1, 2.0, "Bernoulli"), (3, 0.0, "one-hot"), (5, float("nan"), "finite")):
        wrong = x.clone()
        wrong[0, unit] = value
        with pytest.raises(ValueError, match=text):
            family.check(wrong)


def test_what_does_not_fit_is_refused():
    family = Joint(PARTS)
    with pytest.raises(ValueError, match=r"add up to 6 units, the model has 5"):
        family.outputs(5)
    with pytest.raises(ValueError, match=r"x has 5 units, the parts \[2, 3, 1\] add up to 6"):
        family.check(torch.zeros(1, 5))
    with pytest.raises(ValueError, match=r"x has 6 units, the parts \[2, 3, 2\] add up to 7"):
        family.log_prob(torch.zeros(1, 6), torch.zeros(1, 6))
    with pytest.raises(ValueError, match="splits a one-hot"):
        family.sample(torch.zeros(1, 7), torch.tensor([False, False, True, False, False, False]), torch.zeros(1, 6))
    for parts in ([], [(Bernoulli(), 0)], [(Bernoulli(), 1.5)]):
        with pytest.raises(ValueError, match="at least one"):
            Joint(parts)  # type: ignore[arg-type]
