"""Corruption: samples have the density that `log_prob` gives, and what is no corruption is refused."""

import pytest
import torch
from scipy import stats

from dither import corruption, noise
from dither.corruption import Custom, Gaussian, Joint, Masking, Mixture, Resampling, SaltAndPepper
from small_distributions import FALSE_ALARM, assert_follow, index_of, one_hot, products

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INF, NAN = float("inf"), float("nan")


def flip(x):
    u = noise.fresh("uniform", tuple(x.shape), x.device).draw(x)
    return torch.where(u < 0.2, 1 - x, x)


def flip_log_prob(corrupted, x):
    return torch.where(corrupted == x, 0.8, 0.2).log().sum(-1)


# name: (corruption, inputs x, every x~ that any of them may become, and some that they may not)
GREY = products((0, 0.5, 1), (0, 0.5, 1))
SPACES = {
    "salt and pepper": (SaltAndPepper(0.4), GREY, GREY),
    "always": (SaltAndPepper(1.0), GREY, GREY),
    "odd values": (SaltAndPepper(0.3, -0.1, 0.7), products((0.7, 0.2), (-0.1, 0.7)), products(*[(-0.1, 0.7, 0.2)] * 2)),
    "masking": (Masking(0.3), GREY, GREY),
    "masking by .1": (Masking(0.6, 0.1), products((0.1, 0.5), (0, 1)), products((0.1, 0.5), (0, 1, 0.1))),
    "resampling": (Resampling(0.5, 3), one_hot(2, 3), one_hot(2, 3)),
    "resampling of two": (Resampling(0.3, 2), one_hot(2, 2), products(*[(0, 1)] * 4)),
    "custom": (Custom(flip, flip_log_prob), products((0, 1), (0, 1)), products((0, 1), (0, 1))),
    "mixture": (Mixture([SaltAndPepper(0.2), Masking(0.9), SaltAndPepper(0.7)], [1, 2, 5]), GREY, GREY),
    "joint": (
        Joint([(SaltAndPepper(0.4), 1), (Resampling(0.5, 2), 2)]),
        products((0, 0.5), (0,), (1,)),
        products((0, 0.5, 1), (0, 1), (0, 1)),
    ),
}
CORRUPTIONS = {name: corrupt for name, (corrupt, *_) in SPACES.items()} | {"gaussian": Gaussian(0.5)}


def example(name, *lead):
    x = SPACES[name][1][-1] if name in SPACES else torch.tensor([0.5, 1.0, -2.0, 0.0], dtype=torch.float64)
    return x.float().expand(*lead, len(x)).contiguous()


# --- the density --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPACES)
def test_density_sums_to_one_and_is_that_of_the_samples(name, dtype):
    corrupt, inputs, states = SPACES[name]
    torch.manual_seed(0)
    for x in inputs.to(dtype):
        log_prob = corrupt.log_prob(states.to(dtype), x.expand_as(states))
        assert log_prob.dtype == torch.promote_types(dtype, torch.float32) or name == "custom"
        tolerance = 1e-12 if dtype == torch.float64 and name != "custom" else 1e-6
        assert float(log_prob.exp().sum()) == pytest.approx(1, abs=tolerance)
        samples = corrupt(x.expand(1 << 14, len(x)))
        assert samples.dtype == dtype
        assert_follow(index_of(samples, states), log_prob.exp())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaussian_density(dtype):
    x = torch.tensor([0.3, -1.0], dtype=dtype)
    line = torch.linspace(-6, 6, 4001, dtype=dtype)
    density = Gaussian(0.7).log_prob(line.unsqueeze(1), x[:1].expand(len(line), 1)).exp()
    assert float(torch.trapezoid(density, line)) == pytest.approx(1, abs=1e-5)
    near = torch.tensor([[0.0, 1.0], [40.0, -3.0]], dtype=dtype)
    expected = torch.distributions.Normal(x, 0.7).log_prob(near).sum(-1)
    torch.testing.assert_close(Gaussian(0.7).log_prob(near, x.expand_as(near)), expected)
    torch.manual_seed(0)
    z = (Gaussian(0.7)(x.expand(1 << 14, 2)) - x) / 0.7
    assert z.dtype == dtype and stats.kstest(z.flatten().numpy(), "norm").pvalue > FALSE_ALARM
    assert FALSE_ALARM < stats.chi2(z.numel()).sf(float(z.double().square().sum())) < 1 - FALSE_ALARM


@pytest.mark.parametrize(
    ("corrupt", "corrupted", "x", "expected"),
    [
        (SaltAndPepper(0.4), [0.25, 1], [0.5, 1], -INF),
        (Masking(0.4), [1.0, 0], [0.0, 0], -INF),
        (Masking(1.0), [1.0, 0], [1.0, 0], -INF),
        (Resampling(0.5, 2), [0.0, 0], [1.0, 0], -INF),
        (Resampling(0.5, 2), [1.0, 1], [1.0, 0], -INF),
        (Resampling(0.5, 2), [0.5, 0.5], [1.0, 0], -INF),
        (Resampling(0.5, 2), [0.5, 0.5], [0.5, 0.5], 0.5),
        (SaltAndPepper(0.4), [NAN, 1], [0.5, 1], NAN),
        (Masking(0.4), [1.0, 0], [1.0, NAN], NAN),
        (Resampling(0.4, 2), [1.0, 0], [NAN, NAN], NAN),
    ],
)
def test_what_cannot_happen(corrupt, corrupted, x, expected):
    log_prob = corrupt.log_prob(torch.tensor([corrupted]), torch.tensor([x]))
    torch.testing.assert_close(log_prob.exp() if expected == 0.5 else log_prob, torch.tensor([expected]), equal_nan=True)


def test_half_precision_keeps_the_digits_of_a_sum():
    x = torch.rand(3, 784).round().bfloat16()
    log_prob = SaltAndPepper(0.4).log_prob(x, x)
    torch.testing.assert_close(log_prob, SaltAndPepper(0.4).log_prob(x.double(), x.double()).float())


# --- the noise ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_noise_is_keyed_and_follows_the_examples(name):
    corrupt, x = CORRUPTIONS[name], example(name, 64)

    def run(rows):
        torch.manual_seed(1)
        with noise.examples(rows):
            return corrupt(x[rows])

    whole = run(torch.arange(64))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(run(order), whole[order])
    assert torch.equal(torch.cat([run(rows) for rows in torch.arange(64).split(7)]), whole)
    torch.manual_seed(1)
    assert torch.equal(corrupt(x), whole)
    assert not torch.equal(corrupt(x), whole), "fresh at every call"
    assert not torch.equal(corrupt.eval()(x), corrupt(x)), "also in eval"
    assert len({tuple(row.tolist()) for row in whole}) > 1, "rows share their noise"


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_vmap_gives_each_slice_noise_of_its_own(name):
    corrupt, x = CORRUPTIONS[name], example(name, 5, 32)
    samples = torch.func.vmap(corrupt, randomness="different")(x)
    assert samples.shape == x.shape and len({tuple(s.flatten().tolist()) for s in samples}) == 5
    assert torch.equal(torch.func.vmap(corrupt.log_prob)(samples, x), corrupt.log_prob(samples, x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in ("always", "custom")])
def test_what_is_kept_carries_its_gradient(name, dtype):
    """That of a sum is 1 where a unit is kept, 0 where it is replaced; the noise does not depend on who asks for one."""
    x = example(name, 4).to(dtype)
    torch.manual_seed(0)
    plain = CORRUPTIONS[name](x)
    torch.manual_seed(0)
    corrupted = CORRUPTIONS[name](x.requires_grad_())
    torch.testing.assert_close(corrupted.detach(), plain, rtol=0, atol=0)
    corrupted.sum().backward()
    assert ((x.grad == 0) | (x.grad == 1)).all() and x.grad.any()
    if name != "gaussian":
        assert not x.grad.all() and torch.equal(corrupted.detach()[x.grad == 1], x.detach()[x.grad == 1])


# --- what is refused ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: SaltAndPepper(0.0), "keeps everything leaves only the identity"),
        (lambda: Masking(-0.1), "above 0 and at most 1"),
        (lambda: Resampling(1.01, 3), "above 0 and at most 1"),
        (lambda: SaltAndPepper(NAN), "rate is nan"),
        (lambda: SaltAndPepper(0.4, 1, 1), "two different values; see Masking"),
        (lambda: SaltAndPepper(0.4, NAN, 1), "low is nan: a finite number"),
        (lambda: Masking(0.4, INF), "value is inf: a finite number"),
        (lambda: Gaussian(0.0), "scale is 0.0: it must be positive.*identity"),
        (lambda: Gaussian(NAN), "scale is nan"),
        (lambda: Gaussian(INF), "scale is inf"),
        (lambda: Resampling(0.5, 1), "categories is 1: an integer of at least 2"),
        (lambda: Joint([]), "at least one"),
        (lambda: Mixture([Masking()]), "parts has 1 corruptions: at least two"),
        (lambda: Mixture([Masking(), Gaussian()], [1]), "2 positive numbers are needed"),
        (lambda: Mixture([Masking(), Gaussian()], [1, 0]), "2 positive numbers are needed"),
        (lambda: Joint([(Masking(), 0)]), r"sizes \[0\]"),
    ],
)
def test_what_is_no_corruption_is_refused(build, reason):
    with pytest.raises(ValueError, match=reason):
        build()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_wrong_shapes_and_types(name):
    corrupt, x = CORRUPTIONS[name], example(name, 4)
    with pytest.raises(ValueError, match="must be the same"):
        corrupt.log_prob(x, x[:1])
    if name != "custom":
        with pytest.raises(ValueError, match=r"\(batch, units\) is needed; use x.flatten"):
            corrupt(x[0])
        with pytest.raises(TypeError, match=r"torch.int64: .* convert with x.float"):
            corrupt(x.long())


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: Resampling(0.5, 3)(x), ValueError, "4 units, no multiple of categories=3"),
        (lambda x: Joint([(Masking(), 3)])(x), ValueError, r"x has 4 units, the parts \[3\] add up to 3"),
        (lambda x: Custom(lambda x: x[:, :2])(x), ValueError, r"corrupt\(x\) has shape \(2, 2\)"),
        (lambda x: Custom(lambda x: x > 0)(x), ValueError, "dtype torch.bool"),
        (lambda x: Custom(flip, lambda a, b: a - b).log_prob(x, x), ValueError, r"log_prob has shape \(2, 4\): one value per"),
        (lambda x: Custom(flip).log_prob(x, x), NotImplementedError, r"no density: pass Custom\(corrupt, log_prob\)"),
        (lambda x: corruption.Corruption().log_prob(x, x), NotImplementedError, "Corruption has no known density"),
    ],
)
def test_calls_that_make_no_sense(call, error, text):
    with pytest.raises(error, match=text):
        call(torch.zeros(2, 4))
