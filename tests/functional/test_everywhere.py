"""Every function in every setting: compiled, vmapped, any strides, empty, under autocast."""

from functools import partial

import pytest
import torch

from dither import functional as F

# torch compiles some of its own functions by a way that it has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")

# name: (function of (logits, noise), shape of logits, shape of noise)
IMAGE, POOLED, ROWS = (3, 2, 6, 4), (3, 2, 3, 2), (3, 5)


def on_samples(f, draw):
    """A function of (logits, sample) as one of (logits, noise)."""
    return lambda logits, noise: f(logits, draw(logits, noise).detach())


def surrogate(logits, noise):
    h = F.bernoulli_sample(logits, noise)
    return F.score_function_surrogate(h.sum(-1, keepdim=True), F.bernoulli_log_prob(logits, h), 0.5)


def pick(logits, noise):
    return F.stochastic_pool2d_pick(logits, F.stochastic_pool2d_sample(logits, noise, 2), 2)


def averaged(f):
    """Gumbel-Rao's function of (logits, noise): its further noise is made from the first."""
    return lambda logits, noise: f(logits, noise, torch.stack((1 - noise, noise * 0.7 + 0.1)), temperature=0.5)


def unary(f, *args, **options):
    return lambda logits, noise: f(logits, *args, **options)


def conditional(f, draw):
    """A function of (logits, sample, noise): the sample by the first noise, its law by 1 - noise."""
    return lambda logits, noise: f(F.widen(logits), F.widen(draw(logits, noise).detach()), 1 - noise.to(F.widen(logits).dtype))


CASES = {
    "bernoulli_sample": (F.bernoulli_sample, ROWS, ROWS),
    "bernoulli_straight_through": (F.bernoulli_straight_through, ROWS, ROWS),
    "bernoulli_straight_through_sigmoid": (F.bernoulli_straight_through_sigmoid, ROWS, ROWS),
    "bernoulli_straight_through_clipped": (F.bernoulli_straight_through_clipped, ROWS, ROWS),
    "bernoulli_gumbel_softmax": (partial(F.bernoulli_gumbel_softmax, temperature=0.5), ROWS, ROWS),
    "bernoulli_gumbel_softmax hard": (partial(F.bernoulli_gumbel_softmax, temperature=0.5, hard=True), ROWS, ROWS),
    "bernoulli_gumbel_rao": (averaged(F.bernoulli_gumbel_rao), ROWS, ROWS),
    "bernoulli_mve": (partial(F.bernoulli_mve, quadratic=2.0), ROWS, ROWS),
    "bernoulli_slope_annealed": (partial(F.bernoulli_slope_annealed, slope=2.0), ROWS, ROWS),
    "bernoulli_reinmax": (partial(F.bernoulli_reinmax, temperature=1.5), ROWS, ROWS),
    "bernoulli_log_prob": (on_samples(F.bernoulli_log_prob, F.bernoulli_sample), ROWS, ROWS),
    "bernoulli_entropy": (unary(F.bernoulli_entropy), ROWS, ROWS),
    "categorical_sample": (F.categorical_sample, ROWS, ROWS),
    "categorical_straight_through": (F.categorical_straight_through, ROWS, ROWS),
    "gumbel": (lambda logits, noise: logits + F.gumbel(noise).to(logits.dtype), ROWS, ROWS),
    "gumbel_softmax": (partial(F.gumbel_softmax, temperature=0.5), ROWS, ROWS),
    "gumbel_softmax hard": (partial(F.gumbel_softmax, temperature=0.5, hard=True), ROWS, ROWS),
    "gumbel_rao": (averaged(F.gumbel_rao), ROWS, ROWS),
    "mve": (F.mve, ROWS, ROWS),
    "mve weighted": (partial(F.mve, quadratic=2.0), ROWS, ROWS),
    "reinmax": (partial(F.reinmax, temperature=1.5), ROWS, ROWS),
    "categorical_log_prob": (on_samples(F.categorical_log_prob, F.categorical_sample), ROWS, ROWS),
    "categorical_entropy": (unary(F.categorical_entropy), ROWS, ROWS),
    "attach": (lambda logits, noise: F.attach(noise.to(logits.dtype), logits), ROWS, ROWS),
    "widen": (unary(F.widen), ROWS, ROWS),
    "without_infinities": (unary(F.without_infinities), ROWS, ROWS),
    "proper_logits": (unary(F.proper_logits), ROWS, ROWS),
    "tempered_softmax": (unary(F.tempered_softmax, 0.5), ROWS, ROWS),
    "one_hot": (lambda logits, noise: logits * F.one_hot(noise.argmax(-1), logits), ROWS, ROWS),
    "conditional_gumbel": (conditional(F.conditional_gumbel, F.categorical_sample), ROWS, ROWS),
    "conditional_logit": (conditional(F.conditional_logit, F.bernoulli_sample), ROWS, ROWS),
    "bernoulli_reinmax_given": (on_samples(F.bernoulli_reinmax_given, F.bernoulli_sample), ROWS, ROWS),
    "bernoulli_mve_given": (on_samples(F.bernoulli_mve_given, F.bernoulli_sample), ROWS, ROWS),
    "mve_given": (on_samples(F.mve_given, F.categorical_sample), ROWS, ROWS),
    "reinmax_given": (on_samples(F.reinmax_given, F.categorical_sample), ROWS, ROWS),
    "noisy_relu": (partial(F.noisy_relu, scale=0.5), ROWS, ROWS),
    "noisy_tanh": (partial(F.noisy_tanh, before=0.5, after=0.2), ROWS, (*ROWS, 2)),
    "noisy_max_pool2d": (partial(F.noisy_max_pool2d, kernel_size=2), IMAGE, IMAGE),
    "windows": (unary(F.windows, 3, stride=1), IMAGE, POOLED),
    "stochastic_pool2d_sample": (partial(F.stochastic_pool2d_sample, kernel_size=2), IMAGE, POOLED),
    "stochastic_pool2d_probabilities": (unary(F.stochastic_pool2d_probabilities, (2, 2)), IMAGE, POOLED),
    "stochastic_pool2d": (partial(F.stochastic_pool2d, kernel_size=2), IMAGE, POOLED),
    "stochastic_pool2d_pick": (pick, IMAGE, POOLED),
    "stochastic_pool2d_mean": (unary(F.stochastic_pool2d_mean, 2, stride=2), IMAGE, POOLED),
    "score_function_surrogate": (surrogate, ROWS, ROWS),
}
HARD = ("bernoulli_s", "bernoulli_g", "bernoulli_m", "bernoulli_r", "categorical_s", "gumbel_", "reinmax", "mve", "noisy")
SAMPLERS = [n for n in CASES if n.startswith(HARD)]


def inputs(name, dtype=torch.float64, batch=3, seed=1):
    _, shape, noise_shape = CASES[name]
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, *shape[1:], generator=generator, dtype=torch.float64)
    logits = logits.abs() if "pool2d" in name else logits
    noise = torch.rand(batch, *noise_shape[1:], generator=generator)
    return logits.to(dtype), noise


def value_and_gradient(f, logits, noise):
    logits = logits.detach().requires_grad_()
    value = f(logits, noise)
    if not value.requires_grad:
        return value, None
    gradient = torch.autograd.grad(value.double().sin().sum(), logits)[0]
    return value.detach(), gradient


def test_the_table_is_complete():
    assert {name.split()[0] for name in CASES} == set(F.__all__) - {"Size"}


@pytest.mark.parametrize("name", CASES)
def test_compiles_to_one_graph(name):
    f = CASES[name][0]
    torch._dynamo.reset()
    # The front end and the split into forward and backward, without code generation: that is tested below, all at once.
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager_decomp_partition")
    logits, noise = inputs(name)
    torch.testing.assert_close(value_and_gradient(compiled, logits, noise), value_and_gradient(f, logits, noise))


def test_generated_code_gives_the_same_samples():
    names = ["bernoulli_reinmax", "categorical_straight_through", "noisy_tanh", "stochastic_pool2d"]

    def all_of(arguments):
        return [CASES[name][0](*arguments[name]) for name in names]

    torch._dynamo.reset()
    arguments = {name: inputs(name, torch.float32) for name in names}
    arguments["bernoulli_reinmax"][0][0, 0] = torch.nan  # a compiler may fold 0 * x, and lose a NaN
    arguments["categorical_straight_through"][0][0, 0] = torch.nan
    arguments["stochastic_pool2d"][0][0, 0, 1, 1] = torch.nan
    expected = all_of(arguments)
    assert all(bool(expected[i].isnan().any()) for i in (0, 1, 3))
    compiled = torch.compile(all_of, fullgraph=True)(arguments)
    torch.testing.assert_close(compiled, expected, equal_nan=True)


@pytest.mark.parametrize("name", CASES)
def test_vmap_is_a_loop(name):
    f = CASES[name][0]
    pairs = [inputs(name, seed=seed) for seed in range(4)]
    logits, noise = (torch.stack(part) for part in zip(*pairs, strict=True))
    loop = torch.stack([f(*pair) for pair in pairs])
    torch.testing.assert_close(torch.func.vmap(f)(logits, noise), loop, rtol=0, atol=1e-15)
    shared = torch.stack([f(logits[0], noise[k]) for k in range(4)])
    torch.testing.assert_close(torch.func.vmap(f, (None, 0))(logits[0], noise), shared, rtol=0, atol=1e-15)
    last = torch.func.vmap(f, (-1, 0), -1)(logits.movedim(0, -1), noise)
    torch.testing.assert_close(last.movedim(-1, 0), loop, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", CASES)
def test_gradients_by_functional_transform(name):
    f = CASES[name][0]
    logits, noise = inputs(name)
    _, gradient = value_and_gradient(f, logits, noise)
    if gradient is not None:
        got = torch.func.grad(lambda a: f(a, noise).double().sin().sum())(logits)
        torch.testing.assert_close(got, gradient)


@pytest.mark.parametrize("name", CASES)
def test_strides_do_not_matter(name):
    f = CASES[name][0]
    logits, noise = inputs(name)
    expected = value_and_gradient(f, logits, noise)
    wide = torch.stack((logits, torch.full_like(logits, torch.nan)), -1)[..., 0]
    turned = logits.movedim(-1, 0).contiguous().movedim(0, -1)
    for strided in (wide, turned):
        assert not strided.is_contiguous()
        torch.testing.assert_close(value_and_gradient(f, strided, noise), expected)
    turned = noise.movedim(-1, 0).contiguous().movedim(0, -1)
    torch.testing.assert_close(value_and_gradient(f, logits, turned), expected)
    row = logits[:1].expand_as(logits)
    torch.testing.assert_close(value_and_gradient(f, row, noise), value_and_gradient(f, row.clone(), noise))


@pytest.mark.parametrize("name", CASES)
def test_an_empty_batch_gives_an_empty_result(name):
    logits, noise = inputs(name, batch=0)
    value = CASES[name][0](logits.requires_grad_(), noise)
    assert value.shape[0] == 0 and value.shape[1:] == CASES[name][0](*inputs(name)).shape[1:]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(name, dtype):
    f = CASES[name][0]
    expected = value_and_gradient(f, *inputs(name, dtype))
    with torch.autocast("cpu", torch.bfloat16):
        got = value_and_gradient(f, *inputs(name, dtype))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_samples_and_gradients_keep_the_dtype(name, dtype):
    logits, noise = inputs(name, dtype)
    value, gradient = value_and_gradient(CASES[name][0], logits, noise)
    assert value.dtype == dtype and (gradient is None or gradient.dtype == dtype)
