"""The ends of the number line: saturated, infinite and NaN logits, in every width."""

import mpmath
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from dither import functional as F

INF, NAN = float("inf"), float("nan")
WIDTHS = [torch.float64, torch.float32, torch.bfloat16]
LOGITS = [0.0, 1e-30, 1e-4, 0.5, 3.0, 17.0, 88.0, 104.0, 745.0, 1e4, 1e30, INF]
LOGITS = [sign * a for a in LOGITS for sign in (1, -1)]
any_logit = st.floats(width=32, allow_nan=False) | st.sampled_from([INF, -INF, 3e38, -3e38, 1e37, 1e-44, 0.0])
units = st.floats(2.0**-33, 1 - 2.0**-24)


def exact_entropy(probabilities):
    return float(-sum(p * mpmath.log(p) for p in probabilities if p > 0))


def sigmoid(a):
    return mpmath.mpf(a > 0) if a in (INF, -INF) else 1 / (1 + mpmath.exp(-mpmath.mpf(a)))


def gradient_of(f, logits):
    logits = logits.detach().requires_grad_()
    value = f(logits)
    return value.detach(), torch.autograd.grad(value.sum(), logits)[0]


# --- log-probabilities and entropies ------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", WIDTHS)
def test_bits_against_exact_arithmetic(dtype):
    a = torch.tensor(LOGITS).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    close = {"rtol": 1e-12, "atol": 1e-300} if dtype == torch.float64 else {"rtol": 2e-6, "atol": 1e-37}
    with mpmath.workdps(400):
        p, q = [sigmoid(x) for x in a.tolist()], [sigmoid(-x) for x in a.tolist()]
        entropy = torch.tensor([exact_entropy(pair) for pair in zip(p, q, strict=True)], dtype=wide)
        logs = torch.tensor([float(mpmath.log(x)) if x > 0 else y for x, y in zip(p, a.tolist(), strict=True)], dtype=wide)
        down = torch.tensor([float(x) for x in q], dtype=wide)
        slope = torch.tensor([-x * float(u * v) if abs(x) < INF else 0.0 for x, u, v in zip(a.tolist(), p, q, strict=True)])
    value, gradient = gradient_of(lambda x: F.bernoulli_log_prob(x, torch.ones_like(x)), a)
    assert value.dtype == wide and gradient.dtype == dtype
    torch.testing.assert_close(value, logs, **close)
    torch.testing.assert_close(gradient.to(wide), down.to(dtype).to(wide), rtol=max(close["rtol"], 1e-6), atol=1e-37)
    value, gradient = gradient_of(F.bernoulli_entropy, a)
    assert value.dtype == wide
    torch.testing.assert_close(value, entropy, **close)
    torch.testing.assert_close(gradient.to(wide), slope.to(dtype).to(wide), rtol=max(close["rtol"], 4e-6), atol=1e-7)


@pytest.mark.parametrize("dtype", WIDTHS)
def test_categories_against_exact_arithmetic(dtype):
    rows = [[a, 0.0, b] for a in LOGITS for b in (0.0, -3.0, 1e4, -INF)]
    a = torch.tensor(rows).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    # Absolute: the least of the categories are below the rounding of the greatest.
    close = {"rtol": 1e-11, "atol": 1e-15} if dtype == torch.float64 else {"rtol": 5e-6, "atol": 2e-7}
    entropies, log_masses = [], []
    with mpmath.workdps(400):
        for row in a.tolist():
            row = [0.0 if x == INF else -INF for x in row] if INF in row else row
            top = max(row)
            weights = [mpmath.exp(mpmath.mpf(x) - top) if x > -INF else mpmath.mpf(0) for x in row]
            p = [w / sum(weights) for w in weights]
            entropies.append(exact_entropy(p))
            log_masses.append([float(mpmath.log(x)) if x > 0 else -INF for x in p])
    value, gradient = gradient_of(F.categorical_entropy, a)
    assert gradient.isfinite().all()
    torch.testing.assert_close(value, torch.tensor(entropies, dtype=wide), **close)
    for k in range(3):
        one_hot = torch.eye(3, dtype=dtype)[k].expand_as(a)
        value, gradient = gradient_of(lambda x, h=one_hot: F.categorical_log_prob(x, h), a)
        torch.testing.assert_close(value, torch.tensor(log_masses, dtype=wide)[:, k], **close)
        assert gradient.isfinite().all()


def further(u):
    """Two draws of further noise, at the ends of the interval."""
    return torch.stack((torch.full_like(u, 2.0**-33), torch.full_like(u, 1 - 2.0**-24)))


# --- no NaN from numbers ------------------------------------------------------------------------------------------------
BITS = [
    F.bernoulli_straight_through,
    F.bernoulli_straight_through_sigmoid,
    F.bernoulli_straight_through_clipped,
    F.bernoulli_slope_annealed,
    F.bernoulli_reinmax,
    F.bernoulli_mve,
    lambda a, u: F.bernoulli_gumbel_softmax(a, u, temperature=0.1, hard=True),
    lambda a, u: F.bernoulli_gumbel_rao(a, u, further(u), temperature=0.1),
]
CATEGORIES = [
    F.categorical_straight_through,
    F.reinmax,
    lambda a, u: F.reinmax(a, u, temperature=0.1),
    F.mve,
    lambda a, u: F.mve(a, u, quadratic=1e6),
    lambda a, u: F.gumbel_rao(a, u, further(u), temperature=0.1),
    lambda a, u: F.gumbel_softmax(a, u, temperature=0.1),
    lambda a, u: F.gumbel_softmax(a, u, temperature=0.1, hard=True),
]


@given(any_logit, units, st.sampled_from(WIDTHS))
def test_no_bit_makes_a_nan(a, u, dtype):
    logits, noise = torch.tensor([a]).to(dtype), torch.tensor([u])
    for f in BITS:
        h, gradient = gradient_of(lambda x, f=f: f(x, noise), logits)
        assert h.item() in (0, 1) and gradient.isfinite().all(), f
        log_prob, gradient = gradient_of(lambda x, h=h: F.bernoulli_log_prob(x, h), logits)
        assert log_prob.isfinite().all() and gradient.isfinite().all(), f


@given(st.lists(st.tuples(any_logit, units), min_size=2, max_size=4), st.sampled_from(WIDTHS))
@example([(3e38, 0.5), (-3e38, 0.5)], torch.float32)
@example([(3e38, 0.5), (3e38, 0.4), (-INF, 0.5)], torch.bfloat16)
def test_no_category_makes_a_nan(pairs, dtype):
    logits, noise = (torch.tensor(part) for part in zip(*pairs, strict=True))
    logits = logits.to(dtype)
    if (logits == -INF).all():
        return  # every category forbidden: below
    for f in CATEGORIES:
        h, gradient = gradient_of(lambda x, f=f: f(x, noise) * torch.arange(1, 1 + len(pairs)), logits)
        assert h.isfinite().all() and gradient.isfinite().all(), f
    h = F.categorical_sample(logits, noise)
    assert sorted(h.tolist()) == [0.0] * (len(pairs) - 1) + [1.0]
    value, gradient = gradient_of(lambda x: F.categorical_log_prob(x, h), logits)
    assert value > -INF and gradient.isfinite().all()
    value, gradient = gradient_of(F.categorical_entropy, logits)
    assert value >= 0 and gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [*WIDTHS, torch.float16])
@pytest.mark.parametrize("u", [2.0**-33, 0.5, 1 - 2.0**-24])
def test_infinite_logits_are_certainties(dtype, u):
    logits = torch.tensor([INF, -INF], dtype=dtype)
    for f in (F.bernoulli_sample, *BITS):
        assert f(logits, torch.full((2,), u)).tolist() == [1, 0]
    rows = torch.tensor([[INF, 0, 5], [0, INF, -INF], [-INF, -INF, -9]], dtype=dtype)
    noise = torch.tensor([1 - 2.0**-24, u, 2.0**-33]).expand(3, 3)  # against the certain one where it can be
    for f in (F.categorical_sample, *CATEGORIES):
        assert f(rows, noise).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_several_certain_categories_share_the_mass():
    logits, noise = torch.tensor([INF, 3.0, INF]), torch.rand(4000, 3, generator=torch.Generator().manual_seed(0))
    rate = F.categorical_sample(logits.expand(4000, 3), noise).mean(0)
    assert rate[1] == 0 and abs(rate[0] - 0.5) < 6.1 * 0.5 / 4000**0.5
    assert F.categorical_entropy(logits).item() == pytest.approx(0.6931472)


# --- NaN stays NaN ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("f", [F.bernoulli_sample, *BITS])
def test_a_nan_logit_is_a_nan_bit(f):
    for dtype in (*WIDTHS, torch.float16):
        h = f(torch.tensor([NAN, 50.0, -50.0], dtype=dtype), torch.full((3,), 0.5))
        assert h.isnan().tolist() == [True, False, False] and h[1:].tolist() == [1, 0]
        assert F.bernoulli_log_prob(torch.tensor([NAN, 1.0, NAN]), torch.tensor([1.0, NAN, NAN])).isnan().all()


@pytest.mark.parametrize("f", [F.categorical_sample, *CATEGORIES])
@pytest.mark.parametrize("row", [[NAN, 0, 0], [0, NAN, INF], [INF, NAN, 0], [NAN, -INF, -INF], [-INF, -INF, -INF]])
def test_a_nan_logit_is_a_nan_category(f, row):
    h = f(torch.tensor([row, [0.0, 1.0, 2.0]]), torch.full((2, 3), 0.5))
    assert h[0].isnan().all() and h[1].isfinite().all()
    assert F.categorical_log_prob(torch.tensor(row), h[0]).isnan()
    assert F.categorical_entropy(torch.tensor(row)).isnan()


@pytest.mark.parametrize("bad", [NAN, INF, -1.0])
@pytest.mark.parametrize("place", range(4))
def test_a_window_without_probabilities_pools_to_nan(bad, place):
    x = torch.ones(1, 1, 2, 4)
    x[0, 0, place // 2, place % 2] = bad
    for u in (0.01, 0.5, 0.99):
        pooled = F.stochastic_pool2d(x, torch.full((1, 1, 1, 2), u), 2).flatten().tolist()
        assert pooled[0] != pooled[0] and pooled[1] == 1
    assert F.stochastic_pool2d_mean(x, 2)[..., 0].isnan().all()
