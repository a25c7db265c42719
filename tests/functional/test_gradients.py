"""Derivatives: of smooth functions against finite differences, of the others against the formula that each declares."""

from functools import partial

import pytest
import torch

from dither import functional as F

GENERATOR = partial(torch.Generator().manual_seed, 5)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=GENERATOR()) * 2


def uniform(*shape, seed=5):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def diag(p):
    return torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)


def jacobian(f, logits):
    """d f_i / d logits_j for each row, (rows, K, K)."""
    return torch.func.vmap(torch.func.jacrev(f))(logits)


# --- smooth in the logits for fixed noise -------------------------------------------------------------------------------
ROWS = (4, 5)
HARD = F.categorical_sample(normal(*ROWS), uniform(*ROWS))
BITS = (uniform(*ROWS) < 0.5).double()
SMOOTH = {
    "bernoulli_log_prob": (lambda a: F.bernoulli_log_prob(a, BITS), normal(*ROWS)),
    "bernoulli_entropy": (F.bernoulli_entropy, normal(*ROWS)),
    "categorical_log_prob": (lambda a: F.categorical_log_prob(a, HARD), normal(*ROWS)),
    "categorical_entropy": (F.categorical_entropy, normal(*ROWS)),
    "gumbel_softmax": (lambda a: F.gumbel_softmax(a, uniform(*ROWS), temperature=0.7), normal(*ROWS)),
    "noisy_tanh": (lambda a: F.noisy_tanh(a, normal(*ROWS, 2), before=0.7, after=0.3), normal(*ROWS)),
    # Away from kinks and ties, where neither derivative exists.
    "noisy_relu": (lambda a: F.noisy_relu(a, normal(*ROWS).sign() * 3, scale=0.7), normal(*ROWS).clamp(-1, 1)),
    "noisy_max_pool2d": (lambda a: F.noisy_max_pool2d(a, normal(1, 2, 4, 4), 2), torch.arange(32.0).double().view(1, 2, 4, 4)),
    "stochastic_pool2d": (lambda a: F.stochastic_pool2d(a, uniform(1, 2, 2, 2), 2), uniform(1, 2, 4, 4)),
    "stochastic_pool2d_mean": (lambda a: F.stochastic_pool2d_mean(a, 3, stride=1), uniform(1, 2, 4, 4)),
    "score_function_surrogate": (lambda a: F.score_function_surrogate(BITS, F.bernoulli_log_prob(a, BITS), 0.3), normal(*ROWS)),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_finite_differences(name):
    f, logits = SMOOTH[name]
    assert torch.autograd.gradcheck(f, (logits.clone().requires_grad_(),))
    if name not in ("noisy_relu", "noisy_max_pool2d", "stochastic_pool2d"):
        assert torch.autograd.gradgradcheck(f, (logits.clone().requires_grad_(),))


def test_the_score_of_a_bit():
    a, cost = normal(*ROWS).requires_grad_(), normal(4, 1)
    F.score_function_surrogate(cost, F.bernoulli_log_prob(a, BITS), 0.3).sum().backward()
    torch.testing.assert_close(a.grad, (BITS - torch.sigmoid(a.detach())) * (cost - 0.3))


def test_a_surrogate_has_no_gradient_through_cost_or_baseline():
    cost, log_prob, baseline = (normal(3).requires_grad_() for _ in range(3))
    F.score_function_surrogate(cost, log_prob, baseline).sum().backward()
    assert cost.grad is None and baseline.grad is None and log_prob.grad is not None


# --- declared gradients of hard samples ---------------------------------------------------------------------------------
def slope_of(f, a, u):
    a = a.clone().requires_grad_()
    h = f(a, u)
    assert torch.equal(h, F.bernoulli_sample(a.detach(), u)), "an estimator of the gradient changed the sample"
    return torch.autograd.grad(h.sum(), a)[0]


A, U = normal(200), uniform(200)
P, H = torch.sigmoid(A), (uniform(200) < torch.sigmoid(A)).double()


def test_bernoulli_straight_through():
    assert torch.equal(F.bernoulli_sample(A, U), H)
    assert torch.equal(slope_of(F.bernoulli_straight_through, A, U), torch.ones(200).double())
    torch.testing.assert_close(slope_of(F.bernoulli_straight_through_sigmoid, A, U), P * (1 - P))


def test_bernoulli_slope_annealed():
    steep = torch.sigmoid(3 * A)
    a = A.clone().requires_grad_()
    h = F.bernoulli_slope_annealed(a, U, slope=3.0)
    assert torch.equal(h, (steep > U).double())
    torch.testing.assert_close(torch.autograd.grad(h.sum(), a)[0], 3 * steep * (1 - steep))


def test_a_slope_per_unit_keeps_the_dtype():
    assert F.bernoulli_slope_annealed(A.bfloat16(), U, slope=torch.full((200,), 2.0)).dtype == torch.bfloat16


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_bernoulli_reinmax(temperature):
    q = (H + torch.sigmoid(A / temperature)) / 2
    torch.testing.assert_close(
        slope_of(partial(F.bernoulli_reinmax, temperature=temperature), A, U), 2 * q * (1 - q) - P * (1 - P) / 2
    )


@pytest.mark.parametrize("bit", [0, 1])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_two_categories_of_reinmax_are_a_bit(bit, temperature):
    # Logits (0, a): the same formula, reached by other noise.
    force = torch.tensor([[1e-9, 0.5], [0.5, 1e-9]]).double()[bit]
    pair = jacobian(lambda a: F.reinmax(a, force, temperature=temperature), torch.stack((torch.zeros_like(A), A), -1))
    u = torch.full_like(A, 1e-12 if bit else 1 - 1e-12)
    binary = slope_of(partial(F.bernoulli_reinmax, temperature=temperature), A, u)
    torch.testing.assert_close(pair[:, 1, 1], binary)
    torch.testing.assert_close(pair[:, 0, 1], -binary)


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_jacobians_of_categorical_samples(temperature):
    logits, u = normal(40, 4), uniform(4)
    p, tempered = torch.softmax(logits, -1), torch.softmax(logits / temperature, -1)
    hard = F.categorical_sample(logits, u.expand_as(logits))
    assert hard.sum(0).count_nonzero() > 1
    q = (hard + tempered) / 2
    soft = torch.softmax((logits - torch.log(-torch.log1p(-u))) / temperature, -1)
    expected = {
        partial(F.categorical_straight_through): diag(p),
        partial(F.reinmax, temperature=temperature): 2 * diag(q) - diag(p) / 2,
        partial(F.gumbel_softmax, temperature=temperature, hard=True): diag(soft) / temperature,
        partial(F.gumbel_softmax, temperature=temperature): diag(soft) / temperature,
    }
    for f, matrix in expected.items():
        torch.testing.assert_close(jacobian(lambda a, f=f: f(a, u), logits), matrix)
        expected_value = soft if "hard" not in f.keywords and f.func is F.gumbel_softmax else hard
        torch.testing.assert_close(f(logits, u.expand_as(logits)), expected_value, rtol=1e-12, atol=1e-15)


def test_reinmax_is_exact_for_quadratic_costs():
    # The mean over samples of reinmax's gradient is that of E[h'Mh + c'h] (ZGR): the formula, seen from its purpose.
    a, m = normal(3), normal(3, 3)
    p = torch.softmax(a, 0)
    total = torch.zeros(3, dtype=torch.float64)
    for k in range(3):
        u = torch.full((3,), 0.9, dtype=torch.float64)
        u[k] = 1e-9
        x = a.clone().requires_grad_()
        h = F.reinmax(x, u)
        total += p[k] * torch.autograd.grad(h @ m @ h, x)[0]
    exact = diag(p) @ m.diagonal()
    torch.testing.assert_close(total, exact)


def test_pooling_gives_its_gradient_to_the_picked_one_alone():
    x = uniform(2, 3, 4, 4).requires_grad_()
    F.stochastic_pool2d(x, uniform(2, 3, 2, 2), 2).sum().backward()
    assert x.grad.unique().tolist() == [0, 1]
    assert F.windows(x.grad, 2).sum(-1).eq(1).all()


@pytest.mark.parametrize(
    ("f", "argument"),
    [
        *((f, "temperature") for f in (F.gumbel_softmax, F.reinmax, partial(F.gumbel_softmax, hard=True), F.bernoulli_reinmax)),
        (F.bernoulli_slope_annealed, "slope"),
    ],
)
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_temperatures_and_slopes_are_positive(f, argument, value):
    with pytest.raises(ValueError, match=r"must be positive; .*1"):
        f(A.view(-1, 2), U.view(-1, 2), **{argument: value})
