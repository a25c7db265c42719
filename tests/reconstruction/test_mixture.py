"""Mixtures: scores by enumeration, and samples that follow the exact conditional for every clamp."""

import pytest
import torch

from dither import exact
from dither.reconstruction import MADE, Bernoulli, Categorical, Gaussian, Joint, Mixture
from small_distributions import assert_follow, binary, conditional, index_of, one_hot

INF, NAN = float("inf"), float("nan")
WIDE = {"rtol": 0, "atol": 1e-12}


def label_and_pixel():
    """A variable of 2 categories beside a pixel, and all their states."""
    pairs = one_hot(1, 2).repeat_interleave(2, 0)
    return Joint([(Categorical(2), 2), (Bernoulli(), 1)]), torch.cat((pairs, binary(1).repeat(2, 1)), 1)


# name: (family, states, masks)
SPACES = {
    "bernoulli": (Mixture(Bernoulli(), 3), binary(3), binary(3)[:-1].bool()),
    "categorical": (Mixture(Categorical(3), 2), one_hot(2, 3), binary(2)[:-1].bool().repeat_interleave(3, 1)),
    "joint": (Mixture(label_and_pixel()[0], 2), label_and_pixel()[1], torch.tensor([[0, 0, 1], [1, 1, 0], [0, 0, 0]]).bool()),
}


def outputs_of(family, units, batch=2):
    return 2 * torch.randn(batch, family.outputs(units), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def log_table(family, outputs, states):
    """log P of every state, (batch, states)."""
    return torch.stack([family.log_prob(row.expand(len(states), -1), states.to(row.dtype)) for row in outputs])


def frequencies(family, outputs, states, clamp=None, values=None):
    """The exact distribution of a sample, by enumeration of its nodes."""

    def which():
        return (family.sample(outputs, clamp, values).unsqueeze(1) == states).all(-1).double()

    return exact.expected_cost(family, which)


# --- scores -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("name", SPACES)
def test_sums_to_one_and_has_this_mean(name, dtype, tolerance):
    family, states, _ = SPACES[name]
    outputs = outputs_of(family, states.shape[1]).to(dtype)
    p = log_table(family, outputs, states).exp()
    torch.testing.assert_close(p.sum(1), torch.ones(2, dtype=dtype), rtol=0, atol=tolerance)
    torch.testing.assert_close(family.mean(outputs), p @ states.to(dtype), rtol=0, atol=3 * tolerance)


def test_outputs_are_weights_and_then_a_block_for_each_component():
    a = torch.tensor([[1.0, -1.0, *(0.1, 0.2, 0.3), *(2.0, -2.0, 1.0)]], dtype=torch.float64)
    x = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    first, second = (Bernoulli().log_prob(block, x) for block in (a[:, 2:5], a[:, 5:]))
    w = torch.softmax(a[:, :2], 1)[0]
    torch.testing.assert_close(Mixture(Bernoulli(), 2).log_prob(a, x).exp(), w[0] * first.exp() + w[1] * second.exp(), **WIDE)


def test_mixture_of_gaussians_integrates_to_one():
    line = torch.linspace(-60, 60, 100_001, dtype=torch.float64).unsqueeze(1)
    family = Mixture(Gaussian(None), 3)
    density = family.log_prob(outputs_of(family, 1, 1).expand(len(line), -1), line).exp()
    assert float(torch.trapezoid(density, line[:, 0])) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", SPACES)
def test_gradients(name):
    family, states, masks = SPACES[name]
    outputs = outputs_of(family, states.shape[1]).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: family.log_prob(a, states[1:3]), outputs)
    assert torch.autograd.gradcheck(lambda a: family.responsibilities(a, states[1:3], masks[1]), outputs)


def test_vmap_gives_the_same_scores():
    family, states, _ = SPACES["bernoulli"]
    outputs = outputs_of(family, 3, 8)
    several = torch.func.vmap(family.log_prob)(outputs.view(4, 2, -1), states.view(4, 2, 3))
    torch.testing.assert_close(several.flatten(), family.log_prob(outputs, states), **WIDE)


# --- samples ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "mask"), [(name, mask) for name in SPACES for mask in [None, *SPACES[name][2]]])
def test_samples_are_exactly_the_distribution_given_the_clamped(name, mask):
    family, states, _ = SPACES[name]
    outputs, values = outputs_of(family, states.shape[1]), states[[0, 3]]
    clamp = torch.zeros_like(states[0], dtype=torch.bool) if mask is None else mask
    table, samples = log_table(family, outputs, states), frequencies(family, outputs, states, mask, values)
    for row in range(2):
        torch.testing.assert_close(samples[row], conditional(table[row], states, clamp, values[row]), **WIDE)


def test_rows_may_have_masks_of_their_own():
    family, states, masks = SPACES["bernoulli"]
    outputs, clamp, values = outputs_of(family, 3), masks[[1, 6]], states[[5, 2]]
    table, samples = log_table(family, outputs, states), frequencies(family, outputs, states, clamp, values)
    for row in range(2):
        torch.testing.assert_close(samples[row], conditional(table[row], states, clamp[row], values[row]), **WIDE)


def test_a_clamped_unit_tells_the_modes_apart():
    # Two modes, (0, 0) and (1, 1): a factorised sample given the first unit would leave the second a fair coin.
    outputs = torch.tensor([[0.0, 0, *(INF, INF), *(-INF, -INF)]]).expand(64, -1)
    values = torch.tensor([[1.0, NAN], [0.0, NAN]]).repeat(32, 1)
    samples = Mixture(Bernoulli(), 2).sample(outputs, torch.tensor([True, False]), values)
    assert torch.equal(samples, values[:, :1].expand(64, 2))


def test_gaussian_components_follow_their_responsibility():
    # P(component | x_1 = .4) is known, and the second unit, at -100 or 100, shows the component.
    outputs = torch.tensor([[0.5, 0.0, *(0.0, -100.0), *(1.0, 100.0)]]).expand(1 << 14, -1)
    values = torch.tensor([[0.4, NAN]]).expand(1 << 14, 2)
    torch.manual_seed(0)
    samples = Mixture(Gaussian(), 2).sample(outputs, torch.tensor([True, False]), values)
    logits = torch.tensor([0.5 - 0.4**2 / 2, 0.0 - 0.6**2 / 2])
    assert torch.equal(samples[:, 0], values[:, 0]) and (samples[:, 1].abs() - 100).abs().max() < 10
    assert_follow((samples[:, 1] > 0).long(), torch.softmax(logits, 0))


def test_what_is_not_clamped_leaves_no_trace():
    family, outputs = Mixture(Bernoulli(), 2), torch.randn(3, 6, requires_grad=True)
    values, clamp = torch.full((3, 2), NAN), torch.tensor([True, False])
    values[:, 0] = 1
    torch.manual_seed(0)
    samples = family.sample(outputs, clamp, values)
    torch.manual_seed(0)
    assert torch.equal(samples, family.sample(outputs, clamp, torch.ones(3, 2)))
    samples.sum().backward()
    assert outputs.grad is not None and outputs.grad.isfinite().all()


def test_the_sampled_component_has_a_gradient():
    # The components are 1 and 0 for certain, so that all of the gradient comes through the weights.
    outputs = torch.tensor([[0.3, 0.0, 50.0, -50.0]], requires_grad=True)
    gradient = torch.autograd.grad(Mixture(Bernoulli(), 2).sample(outputs).sum(), outputs)[0][0]
    assert gradient[0] == -gradient[1] and gradient.isfinite().all()
    soft = torch.tensor([[0.3, 0.0, 1.0, -1.0]], requires_grad=True)
    assert torch.autograd.grad(Mixture(Bernoulli(), 2).sample(soft).sum(), soft)[0][0, 0] > 0, "towards the component of 1s"


# --- the ends -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([0.0, -INF, *(INF, 0.0), *(-INF, -INF)], [0, 0, 0.5, 0.5]),
        ([INF, 3.0, *(INF, 0.0), *(-INF, -INF)], [0, 0, 0.5, 0.5]),
        ([0.0, 0.0, *(INF, -INF), *(-INF, INF)], [0, 0.5, 0.5, 0]),
        ([50.0, -50.0, *(50.0, -50.0), *(-50.0, 50.0)], [0, 0, 1, 0]),
    ],
)
def test_saturated_outputs(outputs, expected):
    family, outputs = Mixture(Bernoulli(), 2), torch.tensor([outputs])
    p, expected = log_table(family, outputs, binary(2)).exp()[0], torch.tensor(expected).float()
    torch.testing.assert_close(p, expected)
    torch.manual_seed(0)
    assert_follow(index_of(family.sample(outputs.expand(1 << 12, -1)), binary(2)), expected)
    torch.testing.assert_close(family.mean(outputs)[0], expected @ binary(2).float())


def test_impossible_values_are_refused():
    outputs, clamp = torch.tensor([[0.0, 0, *(INF, 0), *(INF, 0)]]), torch.tensor([True, False])
    with pytest.raises(ValueError, match="no component gives any probability"):
        Mixture(Bernoulli(), 2).sample(outputs, clamp, torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("component", "components", "text"),
    [
        (MADE(2, context=2), 2, "only a factorised family has; use Bernoulli"),
        (Mixture(Bernoulli(), 2), 2, "only a factorised family has"),
        (Joint([(MADE(2, context=2), 2), (Bernoulli(), 1)]), 2, "only a factorised family has"),
        (Bernoulli(), 1, "components is 1: an integer of at least 2"),
        (Bernoulli(), 2.0, "components is 2.0"),
    ],
)
def test_what_is_no_mixture(component, components, text):
    with pytest.raises(ValueError, match=text):
        Mixture(component, components)


def test_support_and_widths():
    family = Mixture(Categorical(2), 2)
    assert family.outputs(4) == 10 and not family.factorised
    with pytest.raises(ValueError, match="not one-hot"):
        family.check(torch.ones(1, 4))
    with pytest.raises(ValueError, match=r"outputs has shape \(1, 8\), x \(1, 4\): Mixture needs \(1, 10\)"):
        family.log_prob(torch.zeros(1, 8), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="multiple of components=2"):
        family.sample(torch.zeros(1, 9))
    with pytest.raises(NotImplementedError, match="Mixture is not factorised"):
        family.terms(torch.zeros(1, 10), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="splits a one-hot"):
        family.sample(torch.zeros(1, 10), torch.tensor([True, False, False, False]), torch.zeros(1, 4))


def test_the_mean_of_a_sample_is_its_components():
    family = Mixture(Bernoulli(), 2)
    outputs = torch.tensor([[0.0, 0.0, *[200.0] * 3, *[-200.0] * 3]]).expand(50, 8)
    torch.manual_seed(0)
    x, mean = family.sample_with_mean(outputs)
    assert torch.equal(x, mean) and 0 < x[:, 0].sum() < 50  # either all ones or all zeros, never the mean of the mixture
    torch.testing.assert_close(family.mean(outputs), torch.full((50, 3), 0.5))
    clamp = torch.tensor([True, False, False])
    x, mean = family.sample_with_mean(outputs, clamp, torch.ones(50, 3))
    assert torch.equal(x, torch.ones(50, 3)) and torch.equal(mean, torch.ones(50, 3))
