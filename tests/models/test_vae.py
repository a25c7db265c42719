"""The autoencoders with hard codes: against sums over all codes, written with torch.distributions."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Bernoulli, Independent, OneHotCategorical

import dither
from dither import exact
from dither.models.vae import BinaryVAE, CategoricalVAE


def randomised(model):
    """In double precision, with random weights and prior so that nothing is zero or near a fair coin."""
    model.double()
    with torch.no_grad():
        for p in [*model.parameters(), model.prior_logits]:
            p.copy_(0.8 * torch.randn_like(p))
    return model


def binary(kl="analytic", prior="learned"):
    torch.manual_seed(1)
    return randomised(BinaryVAE((6, 4, 3), prior=prior, kl=kl))


def categorical(kl="analytic", prior="learned"):
    torch.manual_seed(2)
    return randomised(CategoricalVAE((6, 5, 4), units=2, categories=3, prior=prior, kl=kl))


def codes(model):
    if isinstance(model, BinaryVAE):
        return torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)
    one_hot = torch.eye(3, dtype=torch.float64)
    return torch.stack([torch.stack(pair) for pair in itertools.product(one_hot, one_hot)])


def tables(model, x):
    """log q(z | x), log p(z) and log p(x | z) of every code z, each (codes, batch)."""
    kind = Bernoulli if isinstance(model, BinaryVAE) else OneHotCategorical
    z, count = codes(model), len(codes(model))
    logits = model.encoder(x).unflatten(1, model.code)
    q = Independent(kind(logits=logits), 1).log_prob(z.unsqueeze(1))
    p = Independent(kind(logits=model.prior_logits), 1).log_prob(z)
    pixels = Bernoulli(logits=model.decoder(z.flatten(1)).unsqueeze(1), validate_args=False)
    return q, p.unsqueeze(1).expand(count, len(x)), pixels.log_prob(x).sum(-1)


MODELS = [binary, categorical]
torch_grey = torch.rand(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
X = (torch_grey > 0.5).double()


@pytest.mark.parametrize("kl", ["analytic", "sampled"])
@pytest.mark.parametrize("make", MODELS)
def test_the_expected_cost_and_its_gradient_are_those_of_the_sum_over_codes(make, kl):
    model = make(kl)
    q, p, likelihood = tables(model, X)
    expected = (q.exp() * (q - p - likelihood)).sum(0)
    costs = exact.expectation({"node": model.node}, lambda: model.cost(X)).cost.reshape(-1)
    torch.testing.assert_close(costs, expected)
    names, parameters = zip(*model.named_parameters(), strict=True)
    theirs = torch.autograd.grad(expected.sum(), parameters)
    for name, ours, truth in zip(names, torch.autograd.grad(costs.sum(), parameters), theirs, strict=True):
        torch.testing.assert_close(ours, truth, msg=lambda text, name=name: f"{name}: {text}")
    assert "prior_logits" in names


@pytest.mark.parametrize("make", MODELS)
def test_a_sampled_cost_is_its_log_weight_turned_round(make):
    model = make("sampled")
    torch.manual_seed(5)
    cost = model.cost(X)
    torch.manual_seed(5)
    torch.testing.assert_close(-model.log_weights(X), cost)
    q, p, likelihood = tables(model, X)
    torch.testing.assert_close((cost.unsqueeze(0) - (q - p - likelihood)).abs().amin(0), torch.zeros(4).double())


@pytest.mark.parametrize("make", MODELS)
def test_the_bound_rises_from_the_elbo_to_the_likelihood(make):
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.6)  # so that the posterior is broad, and few samples find the likelihood
    q, p, likelihood = tables(model, X)
    evidence = torch.logsumexp(p + likelihood, 0)
    elbo = -(q.exp() * (q - p - likelihood)).sum(0)
    many = X.repeat(1000, 1)

    def bound(samples):
        torch.manual_seed(samples)
        values = model.bound(many, samples).view(1000, 4)
        return values.mean(0), 5 * values.std(0) / 1000**0.5

    one, error = bound(1)
    assert ((one - elbo).abs() < error).all()
    five, error_of_five = bound(5)
    assert (five > one + error).all() and (five < evidence + error_of_five).all()
    assert ((bound(300)[0] - evidence).abs() < 0.02).all() and ((evidence - elbo) > 0.03).all()
    with pytest.raises(ValueError, match="samples is 0"):
        model.bound(X, 0)


@pytest.mark.parametrize("make", MODELS)
def test_the_gradient_of_the_sampled_terms_is_the_difference_of_a_flip(make):
    """An estimator that differentiates the cost by the code needs it: linear in z, whatever the logits."""
    model, z = make(), codes(make())[:1].clone()
    logits = 3 * torch.randn(1, *model.code, dtype=torch.float64)
    for unit in range(model.code[0]):
        other = z.clone()
        other[0, unit] = 1 - z[0, unit] if isinstance(model, BinaryVAE) else z[0, unit].roll(1)
        start = z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model._log_ratio(logits, start).sum(), start)
        difference = model._log_ratio(logits, other) - model._log_ratio(logits, z)
        torch.testing.assert_close((gradient * (other - z)).sum(), difference.sum())


def test_the_analytic_cost_reaches_the_encoder_without_the_code():
    """Nothing but the distortion depends on z: with a decoder that ignores z, all samples cost the same."""
    model = binary()
    with torch.no_grad():
        model.decoder[0].weight.zero_()
    torch.manual_seed(0)
    first = model.cost(X)
    assert all(torch.equal(model.cost(X), first) for _ in range(5))
    model.kl = "sampled"
    assert not all(torch.equal(model.cost(X), first) for _ in range(5))


@pytest.mark.parametrize("make", MODELS)
def test_grey_pixels_cost_their_cross_entropy_and_large_logits_stay_finite(make):
    model = make().float()
    grey, z = torch_grey.float(), codes(model).float()[:4]
    with torch.no_grad():
        model.decoder[-1].bias.copy_(torch.tensor([50.0, -50, 50, -50, 0, 1]))
        model.encoder[-1].bias.copy_(torch.linspace(-50, 50, len(model.encoder[-1].bias)))
    truth = F.binary_cross_entropy_with_logits(model.decode(z), grey, reduction="none").sum(1)
    torch.testing.assert_close(model._distortion(z, grey), truth)
    for model.kl in ("analytic", "sampled"):
        cost = model.cost(grey)
        cost.sum().backward()
        assert cost.isfinite().all() and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_mean_centres_the_input_and_starts_the_output():
    torch.manual_seed(0)
    plain = BinaryVAE((6, 4, 3))
    torch.manual_seed(0)
    mean = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.5, 1.0])
    centred = BinaryVAE((6, 4, 3), mean=mean)
    x = X.float()
    assert torch.equal(centred.encode(x), plain.encode(x - mean))
    start = torch.sigmoid(centred.decode(torch.zeros(1, 3)))[0]  # biases before it are zero
    torch.testing.assert_close(start, mean.clamp(1e-3, 1 - 1e-3))
    assert "mean" in centred.state_dict() and "mean" not in plain.state_dict()


def test_the_layers_of_the_papers():
    widths = [tuple(m.weight.shape) for m in BinaryVAE().modules() if isinstance(m, torch.nn.Linear)]
    assert widths == [(200, 784), (200, 200), (200, 200), (200, 200), (200, 200), (784, 200)]
    widths = [tuple(m.weight.shape) for m in CategoricalVAE().modules() if isinstance(m, torch.nn.Linear)]
    assert widths == [(512, 784), (256, 512), (512, 256), (256, 512), (512, 256), (784, 512)]
    assert {m.negative_slope for m in BinaryVAE().modules() if isinstance(m, torch.nn.LeakyReLU)} == {0.3}
    assert {m.negative_slope for m in CategoricalVAE().modules() if isinstance(m, torch.nn.LeakyReLU)} == {0.2}
    # Without a code the cost of black images at the start is the entropy of fair coins: zero biases, no prior.
    fresh = BinaryVAE((6, 3))
    assert fresh._distortion(torch.zeros(1, 3), torch.zeros(1, 6)).item() == pytest.approx(6 * math.log(2))


@pytest.mark.parametrize("prior", ["fixed", "learned"])
@pytest.mark.parametrize("make", MODELS)
def test_the_prior_is_a_parameter_only_when_learned(make, prior):
    model = make(prior=prior)
    assert ("prior_logits" in dict(model.named_parameters())) == (prior == "learned")
    assert "prior_logits" in model.state_dict()


@pytest.mark.parametrize("make", MODELS)
def test_estimators_take_the_code_over(make):
    model = make()
    for estimator in (dither.ScoreFunction(model, baseline="leave-one-out", samples=2), dither.StraightThrough(model)):
        model.zero_grad()
        estimator(lambda: model.cost(X)).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: BinaryVAE((6,)), "at least two positive widths"),
        (lambda: BinaryVAE((6, 0)), "at least two positive widths"),
        (lambda: BinaryVAE((6, 3), prior="flat"), "prior is 'flat'"),
        (lambda: BinaryVAE((6, 3), kl="exact"), "kl is 'exact'"),
        (lambda: BinaryVAE((6, 3), mean=torch.zeros(5)), r"mean has shape \(5,\), expected \(6,\)"),
        (lambda: CategoricalVAE((6,), units=2, categories=1), "at least two categories"),
        (lambda: BinaryVAE((6, 3)).cost(torch.zeros(2, 3, 3)), r"built for 6: build it with sizes=\(9, \.\.\.\)"),
    ],
)
def test_bad_arguments(call, words):
    with pytest.raises(ValueError, match=words):
        call()
