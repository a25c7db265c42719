"""The Gumbel family and MVE: against integrals over their noise, and against the problem that MVE claims to solve."""

from functools import partial

import pytest
import torch

from dither import functional as F
from dither import testing

GRID = 20_000
POINTS = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID


def jacobian(f, logits):
    return torch.func.jacrev(f)(logits)


def slope_of(f, a):
    a = a.clone().requires_grad_()
    return torch.autograd.grad(f(a).sum(), a)[0]


# --- binary -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("hard", [False, True])
def test_a_concrete_bit_is_two_categories(hard):
    """The uniforms (u_0, u_1) of two categories give the logistic noise G_1 - G_0, that is, another uniform."""
    generator = torch.Generator().manual_seed(0)
    a, pair = (f(300, *n, generator=generator, dtype=torch.float64) for f, n in ((torch.randn, ()), (torch.rand, (2,))))
    gumbel = F.gumbel(pair)
    u = torch.sigmoid(gumbel[:, 0] - gumbel[:, 1])
    two = lambda a: F.gumbel_softmax(torch.stack((torch.zeros_like(a), a), -1), pair, temperature=0.6, hard=hard)[:, 1]  # noqa: E731
    one = lambda a: F.bernoulli_gumbel_softmax(a, u, temperature=0.6, hard=hard)  # noqa: E731
    torch.testing.assert_close(one(a), two(a), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(slope_of(one, a), slope_of(two, a), rtol=1e-9, atol=1e-12)


def test_bits_are_those_of_the_plain_sample():
    generator = torch.Generator().manual_seed(1)
    a, u = torch.randn(10_000, generator=generator) * 3, torch.rand(10_000, generator=generator)
    expected = F.bernoulli_sample(a, u)
    extra = torch.rand(3, 10_000, generator=generator).clamp(1e-6)
    assert torch.equal(F.bernoulli_gumbel_softmax(a, u, temperature=0.5, hard=True), expected)
    assert torch.equal(F.bernoulli_gumbel_rao(a, u, extra, temperature=0.5), expected)
    assert torch.equal(F.bernoulli_mve(a, u), expected)
    assert torch.equal(F.bernoulli_straight_through_clipped(a, u), expected)
    soft = F.bernoulli_gumbel_softmax(a, u, temperature=0.5)
    assert torch.equal((soft > 0.5).float()[(soft - 0.5).abs() > 1e-5], expected[(soft - 0.5).abs() > 1e-5])


def test_clipped_passes_between_minus_one_and_one():
    a = torch.tensor([-3.0, -1.001, -1.0, -0.2, 0.0, 1.0, 1.001, 9.0])
    assert slope_of(lambda a: F.bernoulli_straight_through_clipped(a, torch.full((8,), 0.5)), a).tolist() == [
        0,
        0,
        1,
        1,
        1,
        1,
        0,
        0,
    ]


@pytest.mark.parametrize("a", [-1.3, 0.4, 3.0])
@pytest.mark.parametrize("bit", [0, 1])
def test_the_averaged_bit_integrates_the_noise_that_gives_it(a, bit):
    """E[slope; h] of the plain estimator, over its own uniform, is P(h) times the averaged one's over its further uniform."""
    logits, p = torch.full((GRID,), a, dtype=torch.float64), torch.sigmoid(torch.tensor(a, dtype=torch.float64))
    plain = slope_of(lambda x: F.bernoulli_gumbel_softmax(x, POINTS, temperature=0.7, hard=True), logits)
    given = torch.tensor([p / 2 if bit else (1 + p) / 2], dtype=torch.float64)
    single = torch.full((1,), a, dtype=torch.float64)
    averaged = slope_of(lambda x: F.bernoulli_gumbel_rao(x, given, POINTS.unsqueeze(1), temperature=0.7), single)
    mass = p if bit else 1 - p
    same = (p > POINTS) == bool(bit)
    torch.testing.assert_close(mass * averaged[0], plain[same].sum() / GRID, rtol=2e-3, atol=0)


# --- categories ---------------------------------------------------------------------------------------------------------
def test_two_categories_average_as_a_bit_does():
    """The further noise of two categories enters by the ratio of two exponentials alone: E_loser / E_winner."""
    a, ratio = torch.tensor([0.4, -0.9], dtype=torch.float64), POINTS / (1 - POINTS)
    # E_winner = 1 and E_loser = ratio, as uniforms 1 - exp(-E)
    for k in (0, 1):
        u = torch.full((2,), 0.5, dtype=torch.float64)
        u[k] = 1e-9
        exponential = torch.ones(GRID, 2, dtype=torch.float64)
        exponential[:, 1 - k] = ratio
        representable = exponential[:, 1 - k] < 30  # beyond, 1 - exp(-E) is 1 in float64, and the winner leads by more than 3
        extra = -torch.expm1(-exponential[representable])
        pair = jacobian(partial(F.gumbel_rao, noise=u, extra_noise=extra, temperature=0.7), a)
        single = torch.full((1,), float(a[1] - a[0]), dtype=torch.float64)
        given = torch.tensor([1e-6 if k else 1 - 1e-6], dtype=torch.float64)
        bit = slope_of(lambda x, g=given: F.bernoulli_gumbel_rao(x, g, POINTS.unsqueeze(1), temperature=0.7), single)
        torch.testing.assert_close(pair[1, 1], bit[0], rtol=0.05, atol=1e-3)
        torch.testing.assert_close(pair[0, 1], -pair[1, 1])


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_averaging_keeps_the_mean_given_the_sample_and_lowers_the_variance(temperature):
    generator = torch.Generator().manual_seed(3)
    a, draws = torch.tensor([0.3, -0.8, 1.1], dtype=torch.float64), 60_000
    cost = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    logits = a.expand(draws, 3).clone()
    u, extra = torch.rand(draws, 3, generator=generator), torch.rand(8, draws, 3, generator=generator).clamp(1e-7)
    hard = F.categorical_sample(logits, u)
    slopes = hard @ torch.randn(3, 3, generator=generator, dtype=torch.float64) + cost  # d L / d z depends on the sample
    plain = slope_of(lambda x: (F.gumbel_softmax(x, u, temperature=temperature, hard=True) * slopes).sum(1), logits)
    averaged = slope_of(lambda x: (F.gumbel_rao(x, u, extra, temperature=temperature) * slopes).sum(1), logits)
    assert torch.equal(F.gumbel_rao(logits, u, extra, temperature=temperature), hard)
    for k in range(3):  # given each sample
        testing.assert_mean((plain - averaged)[hard[:, k] > 0.5], 0.0)
    assert averaged.var(0).sum() < 0.7 * plain.var(0).sum()


def test_gumbel_given_a_sample_lets_it_win():
    from dither.functional import conditional_gumbel

    generator = torch.Generator().manual_seed(4)
    a, e = torch.randn(500, 5, generator=generator), torch.rand(500, 5, generator=generator).clamp(1e-7)
    hard = torch.eye(5)[torch.randint(5, (500,), generator=generator)]
    assert torch.equal(conditional_gumbel(a, hard, e).argmax(1), hard.argmax(1))


def test_without_temperature_and_with_many_draws_it_is_reinmax():
    """Shekhovtsov 2023: the limit at temperature 0 is ZGR."""
    a, u = torch.tensor([0.4, -0.9, 0.1], dtype=torch.float64), torch.tensor([0.9, 0.1, 0.8], dtype=torch.float64)
    extra = torch.rand(400_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).clamp(1e-9)
    limit = jacobian(partial(F.gumbel_rao, noise=u, extra_noise=extra, temperature=0.02), a)
    torch.testing.assert_close(limit, jacobian(partial(F.reinmax, noise=u), a), rtol=0, atol=0.02)


@pytest.mark.parametrize("extra", [torch.rand(3), torch.rand(2, 4), torch.rand(0, 3)])
def test_further_noise_has_a_shape(extra):
    for f in (F.gumbel_rao, F.bernoulli_gumbel_rao):
        with pytest.raises(ValueError, match="extra_noise"):
            f(torch.zeros(3), torch.rand(3), extra, temperature=0.5)


# --- MVE ----------------------------------------------------------------------------------------------------------------
def matrices(a, quadratic):
    """S_x of every sample x, (K, K, K)."""
    noise = torch.where(torch.eye(len(a)) > 0, 1e-9, 0.5).double()
    return torch.stack([jacobian(partial(F.mve, noise=u, quadratic=quadratic), a) for u in noise])


def least_variance(p, weight):
    """The same by brute force: one column of S at a time, a least-squares problem in the K * K entries S_x[i]."""
    count = len(p)
    j = torch.diag(p) - torch.outer(p, p)
    linear, products = [], []
    for i in range(count):
        row = torch.zeros(count, count, dtype=torch.float64)
        row[:, i] = p
        linear.append((row.flatten(), j[i]))
        for m in range(i, count):
            row = torch.zeros(count, count, dtype=torch.float64)  # S_x[i] at [x, i]
            row[m, i] += p[m]
            row[i, m] += p[i]
            products.append((row.flatten(), j[i] if i == m else torch.zeros_like(p)))
    size = p.sqrt().repeat_interleave(count)
    if weight == float("inf"):
        rows, right = (torch.stack(part) for part in zip(*linear, *products, strict=True))
        solution = torch.linalg.pinv(rows / size, rtol=1e-12) @ right / size.unsqueeze(1)
    else:
        # minimise sum p |S|^2 + weight / 2 sum (all ordered pairs) error^2 subject to the linear ones: the KKT system
        rows, right = (torch.stack(part) for part in zip(*products, strict=True))
        pairs = torch.tensor([0.5 if i == m else 1.0 for i in range(count) for m in range(i, count)], dtype=torch.float64)
        a, c = (torch.stack(part) for part in zip(*linear, strict=True))
        hessian = torch.diag(size**2) + weight * rows.T @ (pairs.unsqueeze(1) * rows)
        top = torch.cat((hessian, a.T), 1)
        bottom = torch.cat((a, torch.zeros(count, count, dtype=torch.float64)), 1)
        solution = torch.linalg.solve(torch.cat((top, bottom)), torch.cat((weight * rows.T @ (pairs.unsqueeze(1) * right), c)))
    return solution[: count * count].view(count, count, count)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("quadratic", [0.3, 5.0, 1e3, float("inf")])
def test_mve_is_what_it_minimises(count, quadratic):
    a = torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(count)) * 1.5
    torch.testing.assert_close(matrices(a, quadratic), least_variance(torch.softmax(a, 0), quadratic), rtol=1e-6, atol=1e-8)


def test_mve_of_equal_and_of_forbidden_categories():
    equal = matrices(torch.zeros(4, dtype=torch.float64), float("inf"))
    torch.testing.assert_close(equal, least_variance(torch.full((4,), 0.25, dtype=torch.float64), float("inf")))
    a = torch.tensor([0.3, -torch.inf, -0.5], dtype=torch.float64)
    u = torch.tensor([0.1, 0.5, 0.5], dtype=torch.float64)
    three = jacobian(partial(F.mve, noise=u), a)[[0, 2]][:, [0, 2]]
    torch.testing.assert_close(three, jacobian(partial(F.mve, noise=u[[0, 2]]), a[[0, 2]]))


def test_mve_at_its_ends():
    a, u = torch.tensor([0.3, -0.8, 1.1], dtype=torch.float64), torch.tensor([0.2, 0.7, 0.9], dtype=torch.float64)
    torch.testing.assert_close(
        jacobian(partial(F.mve, noise=u, quadratic=1e-9), a), jacobian(partial(F.categorical_straight_through, noise=u), a)
    )
    torch.testing.assert_close(matrices(a, 1e9), matrices(a, float("inf")), rtol=1e-6, atol=1e-7)
    bits, points = torch.linspace(-4, 4, 9, dtype=torch.float64), torch.full((9,), 0.4, dtype=torch.float64)
    torch.testing.assert_close(
        slope_of(lambda x: F.bernoulli_mve(x, points), bits), slope_of(lambda x: F.bernoulli_reinmax(x, points), bits)
    )


@pytest.mark.parametrize(
    ("f", "argument"), [(F.bernoulli_gumbel_softmax, "temperature"), (F.mve, "quadratic"), (F.bernoulli_mve, "quadratic")]
)
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_temperatures_and_weights_are_positive(f, argument, value):
    with pytest.raises(ValueError, match="must be positive"):
        f(torch.zeros(1, 2), torch.full((1, 2), 0.5), **{argument: value})
