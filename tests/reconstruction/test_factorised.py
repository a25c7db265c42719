"""Bernoulli, Gaussian and Categorical reconstructions: scores by enumeration, samples exactly, also given a part of x."""

import pytest
import torch

from dither import exact, noise
from dither.reconstruction import Bernoulli, Categorical, Gaussian
from small_distributions import binary, conditional, one_hot

INF, NAN = float("inf"), float("nan")
WIDE = {"rtol": 0, "atol": 1e-12}
DISCRETE = {"bernoulli": (Bernoulli(), binary(3)), "categorical": (Categorical(3), one_hot(2, 3))}
FAMILIES = {name: family for name, (family, _) in DISCRETE.items()} | {"gaussian": Gaussian(0.5), "scales": Gaussian(None)}
UNITS = {"bernoulli": 3, "categorical": 6, "gaussian": 3, "scales": 3}
MASKS = {"bernoulli": binary(3)[:-1].bool(), "categorical": binary(2)[:-1].bool().repeat_interleave(3, 1)}


def outputs_of(name, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    width = FAMILIES[name].outputs(UNITS[name])
    return torch.randn(batch, width, generator=generator, dtype=torch.float64)


def data_of(name, batch=2):
    if name in DISCRETE:
        return DISCRETE[name][1][1 : batch + 1]
    return torch.randn(batch, UNITS[name], generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# --- scores -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-6)])
@pytest.mark.parametrize("name", DISCRETE)
def test_sums_to_one_and_has_this_mean(name, dtype, tolerance):
    family, states = DISCRETE[name]
    outputs = outputs_of(name)[:1].to(dtype)
    log_prob = family.log_prob(outputs.expand(len(states), -1), states.to(dtype))
    assert log_prob.dtype == torch.promote_types(dtype, torch.float32)
    assert float(log_prob.exp().sum()) == pytest.approx(1, abs=tolerance)
    mean = (log_prob.exp().double().unsqueeze(1) * states).sum(0)
    torch.testing.assert_close(family.mean(outputs)[0].double(), mean, rtol=0, atol=tolerance)


@pytest.mark.parametrize("scale", [0.7, None])
def test_gaussian_is_the_normal_distribution(scale):
    family, x, outputs = Gaussian(scale), data_of("gaussian"), torch.randn(2, 3 if scale else 6, dtype=torch.float64)
    expected = torch.distributions.Normal(outputs[:, :3], 0.7 if scale else outputs[:, 3:].exp()).log_prob(x).sum(1)
    torch.testing.assert_close(family.log_prob(outputs, x), expected, **WIDE)
    assert torch.equal(family.mean(outputs), outputs[:, :3])


def test_grey_pixels_score_the_mean_over_binary_ones():
    grey, outputs, states = torch.tensor([[0.2, 0.9, 0.5]], dtype=torch.float64), outputs_of("bernoulli", 1), binary(3)
    weight = torch.where(states == 1, grey, 1 - grey).prod(1)
    expected = (weight * Bernoulli().log_prob(outputs.expand(8, 3), states)).sum()
    torch.testing.assert_close(Bernoulli().log_prob(outputs, grey)[0], expected, **WIDE)


@pytest.mark.parametrize("name", FAMILIES)
def test_terms_are_the_parts_of_the_score(name):
    family, outputs, x = FAMILIES[name], outputs_of(name), data_of(name)
    torch.testing.assert_close(family.terms(outputs, x).sum(1), family.log_prob(outputs, x), **WIDE)
    several = family.terms(outputs.unsqueeze(1).expand(2, 4, -1), x.unsqueeze(1).expand(2, 4, -1))
    assert torch.equal(several[:, 3], family.terms(outputs, x))
    if name == "categorical":
        assert ((family.terms(outputs, x) != 0) == (x == 1)).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients(name):
    family, x, outputs = FAMILIES[name], data_of(name), outputs_of(name).requires_grad_()
    x = x * 0.7 + 0.1 if name == "bernoulli" else x
    assert torch.autograd.gradcheck(lambda a: family.log_prob(a, x), outputs)
    assert torch.autograd.gradcheck(lambda a: family.terms(a, x), outputs)


SATURATED = [
    (INF, 1, 0),
    (-INF, 0, 0),
    (INF, 0, -INF),
    (-INF, 1, -INF),
    (INF, 0.9, -INF),
    (-INF, 0.1, -INF),
    (0.0, 0.5, -0.6931),
]
SATURATED += [(50.0, 1, -1.93e-22), (50.0, 0, -50), (-50.0, 1, -50), (-200.0, 1, -200), (200.0, 0.5, -100), (200.0, 1, 0)]


@pytest.mark.parametrize("way", ["plain", "vmap", "terms"])
@pytest.mark.parametrize(("logit", "x", "expected"), SATURATED)
def test_saturated_logits(logit, x, expected, way):
    """Each beside a logit of -200, whose term and gradient infinite neighbours must leave alone."""
    a, data = torch.tensor([[logit, -200.0]], requires_grad=True), torch.tensor([[x, 1.0]])
    calls = {"vmap": torch.func.vmap(Bernoulli().log_prob), "terms": lambda a, x: Bernoulli().terms(a, x).sum(-1)}
    value = calls.get(way, Bernoulli().log_prob)(a, data)
    assert value.item() == pytest.approx(expected - 200, abs=1e-3)
    gradient, beside = torch.autograd.grad(value, a)[0].flatten().tolist()
    assert beside == 1 and abs(gradient) <= 1
    if abs(logit) < INF:
        assert gradient == pytest.approx(x - torch.sigmoid(torch.tensor(logit)).item(), abs=1e-6)


@pytest.mark.parametrize(
    ("logits", "expected"),
    [([0.0, -INF, 0], [0.5, 0, 0.5]), ([INF, 3, 0], [1, 0, 0]), ([INF, INF, 0], [0.5, 0.5, 0]), ([50.0, -50, 0], [1, 0, 0])],
)
def test_saturated_categories(logits, expected):
    outputs, states = torch.tensor([logits]), one_hot(1, 3).float()
    torch.testing.assert_close(Categorical(3).log_prob(outputs.expand(3, 3), states).exp(), torch.tensor(expected).float())
    torch.testing.assert_close(Categorical(3).mean(outputs)[0], torch.tensor(expected).float())


@pytest.mark.parametrize("name", ["bernoulli", "categorical"])
def test_nan_is_not_taken_for_a_number(name):
    family, x = FAMILIES[name], data_of(name)
    assert family.log_prob(outputs_of(name).fill_(NAN), x).isnan().all()
    assert family.log_prob(outputs_of(name), torch.full_like(x, NAN)).isnan().all()
    assert torch.func.vmap(family.log_prob)(outputs_of(name)[None], torch.full_like(x, NAN)[None]).isnan().all()


# --- samples ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "mask"), [(name, mask) for name in DISCRETE for mask in [None, *MASKS[name]]])
def test_samples_are_exactly_the_distribution_given_the_clamped(name, mask):
    family, states = DISCRETE[name]
    outputs, values = outputs_of(name), states[[2, 4]]
    log_prob = torch.stack([family.log_prob(row.expand(len(states), -1), states) for row in outputs])
    samples = exact.expected_cost(
        family, lambda: (family.sample(outputs, mask, values).unsqueeze(1) == states).all(-1).double()
    )
    for row in range(2):
        clamp = torch.zeros_like(states[0], dtype=torch.bool) if mask is None else mask
        torch.testing.assert_close(samples[row], conditional(log_prob[row], states, clamp, values[row]), **WIDE)


@pytest.mark.parametrize("name", ["gaussian", "scales"])
def test_gaussian_samples(name, monkeypatch):
    family, outputs, z = FAMILIES[name], outputs_of(name), torch.randn(2, 3)
    monkeypatch.setattr(noise.Keyed, "draw", lambda self, like: z)
    scale = 0.5 if name == "gaussian" else outputs[:, 3:].exp()
    torch.testing.assert_close(family.sample(outputs), outputs[:, :3] + scale * z, **WIDE)


@pytest.mark.parametrize("name", FAMILIES)
def test_clamped_values_come_back_bit_for_bit(name):
    mask = torch.tensor([True, True, True, False, False, False]) if name == "categorical" else torch.tensor([True, False, True])
    values = torch.tensor([[-0.0, 1e-42, 0.1, 7, 7, 7], [0.3, -2.5, 1e30, 7, 7, 7]])[:, : UNITS[name]]
    both = mask.expand(2, -1).clone()
    both[1] = both[1].flip(0) if name == "categorical" else ~both[1]
    for clamp in (mask, both):
        samples = FAMILIES[name].sample(outputs_of(name).float(), clamp, values)
        clamp = clamp.expand_as(values)
        assert torch.equal(samples[clamp].view(torch.int32), values[clamp].view(torch.int32))
        assert not (samples[~clamp] == 7).any()


@pytest.mark.parametrize("name", FAMILIES)
def test_noise_follows_the_examples(name):
    family, outputs = FAMILIES[name], outputs_of(name, 40)

    def run(rows):
        torch.manual_seed(1)
        with noise.examples(rows):
            return family.sample(outputs[rows])

    whole = run(torch.arange(40))
    assert torch.equal(run(torch.arange(40).flip(0)), whole.flip(0))
    assert not torch.equal(family.sample(outputs), whole)
    slices = torch.func.vmap(family.sample, randomness="different")(outputs.expand(5, -1, -1))
    assert len({tuple(s.flatten().tolist()) for s in slices}) == 5


# --- what is refused ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("family", "x", "text"),
    [
        (Bernoulli(), [0.0, 1.01], "from 0 to 1.01: .* needs .0, 1.; rescale"),
        (Bernoulli(), [-0.01, 1], "from -0.01 to 1"),
        (Bernoulli(), [0.5, NAN], "from nan to nan"),
        (Gaussian(), [0.5, NAN], "1 values that are not finite"),
        (Gaussian(), [INF, 0], "1 values that are not finite"),
        (Categorical(2), [1.0, 1], "not one-hot in every 2 units.*one_hot"),
        (Categorical(2), [0.0, 0], "not one-hot"),
        (Categorical(2), [0.5, 0.5], "not one-hot"),
        (Categorical(2), [1.0, NAN], "not one-hot"),
        (Categorical(2), [1.0, 0, 0], "3 units are no multiple of categories=2"),
    ],
)
def test_support(family, x, text):
    with pytest.raises(ValueError, match=text):
        family.check(torch.tensor([x]))
    family.check(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))


@pytest.mark.parametrize(
    ("clamp", "values", "text"),
    [
        (torch.zeros(2, dtype=torch.bool), torch.zeros(2, 3), r"shape \(2,\) .* bool mask of shape \(3,\) or \(2, 3\)"),
        (torch.zeros(1, 3, dtype=torch.bool), torch.zeros(2, 3), r"clamp has shape \(1, 3\)"),
        (torch.zeros(3), torch.zeros(2, 3), "dtype torch.float32: a bool mask"),
        (torch.ones(3, dtype=torch.bool), torch.zeros(2, 3), "none is left to sample"),
        (binary(3)[-2:].bool(), torch.zeros(2, 3), "every unit of an example"),
        (torch.zeros(3, dtype=torch.bool), None, "without values: pass the values"),
        (torch.zeros(3, dtype=torch.bool), torch.zeros(1, 3), r"outputs has shape \(2, 3\), values \(1, 3\)"),
        (torch.zeros(4, dtype=torch.bool), torch.zeros(2, 4), r"outputs has shape \(2, 3\), values \(2, 4\)"),
    ],
)
def test_bad_clamps(clamp, values, text):
    with pytest.raises(ValueError, match=text):
        Bernoulli().sample(torch.zeros(2, 3), clamp, values)


@pytest.mark.parametrize("name", ["gaussian", "scales", "categorical"])
def test_outputs_that_are_not_those_of_x(name):
    family, x, outputs = FAMILIES[name], data_of(name), outputs_of(name)
    for wrong in (outputs[:1], torch.cat((outputs, outputs), 1), outputs.unsqueeze(1)):
        with pytest.raises(ValueError, match=r"outputs has shape .* needs \(2, "):
            family.log_prob(wrong, x)


def test_other_refusals():
    for family in (lambda: Gaussian(0.0), lambda: Gaussian(INF), lambda: Categorical(1), lambda: Categorical(True)):
        with pytest.raises(ValueError, match="is needed"):
            family()
    with pytest.raises(ValueError, match="clamp splits a one-hot variable"):
        Categorical(3).sample(torch.zeros(1, 3), torch.tensor([True, False, False]), torch.zeros(1, 3))
