"""Every path gives the same samples, bit for bit: AVX-512, AVX2, portable C++, and plain torch, which is the oracle.

Shapes, strides, ids, thread counts and logits are hypothesis'; the native library switches its path while it runs.
"""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dither.kernels import _library, _native, _reference

LIBRARY = _library.LIBRARY
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="the native library is not installed, or turned off")
NAMES = ("avx512", "avx2", "neon", "portable")
PATHS = [name for name in NAMES if LIBRARY is not None and LIBRARY.dither_set_path(name.encode())]
if LIBRARY is not None:
    LIBRARY.dither_set_path(PATHS[0].encode())

SPECIAL = (0.0, -0.0, math.inf, -math.inf, 87.0, -87.0, 88.5, -88.5, 1e30, -1e30, 1e-40, 16.0, -16.0, -11.0903549, 13.8155)


@pytest.fixture(autouse=True)
def best_path_afterwards():
    yield
    LIBRARY.dither_set_path(PATHS[0].encode())


def on_paths(f):
    """What f returns on every path with one and with three threads, as (name, result)."""
    before = torch.get_num_threads()
    try:
        for name, threads in itertools.product(PATHS, (1, 3)):
            assert LIBRARY.dither_set_path(name.encode())
            torch.set_num_threads(threads)
            yield f"{name}, {threads} threads", f()
    finally:
        torch.set_num_threads(before)


def agree(f, expected, equal=torch.equal):
    for name, actual in on_paths(f):
        assert equal(actual, expected), name


@st.composite
def rows(draw, max_units=700):
    """(seed, site, samples, ids, units): also empty batches, and ids and samples that need their upper words."""
    lead, batch = draw(st.integers(1, 3)), draw(st.sampled_from([0, 1, 2, 5]))
    units = draw(st.one_of(st.integers(1, max_units), st.sampled_from([64, 65, 127, 128, 129, 256, 1024, 1025])))
    ids = draw(st.lists(st.integers(0, 2**48 - 1), min_size=lead * batch, max_size=lead * batch))
    samples = draw(st.lists(st.integers(0, 2**16 - 1), min_size=lead, max_size=lead))
    ids = torch.tensor(ids, dtype=torch.int64).view(lead, batch)
    seed, site = draw(st.integers(-(2**63), 2**63 - 1)), draw(st.integers(0, 2**40))
    return seed, site, torch.tensor(samples), ids, units


def logits_for(key, dtype=torch.float32, generator_seed=0):
    """Logits (lead, batch, units) of every size, some special, in a tensor whose rows are apart."""
    ids, units = key[3], key[4]
    generator = torch.Generator().manual_seed(generator_seed)
    wide = (
        torch.randn(*ids.shape, units + 5, generator=generator)
        * torch.tensor([0.1, 3.0, 30.0, 1.0]).repeat(units + 5)[: units + 5]
    )
    places = torch.randint(0, units + 5, (len(SPECIAL),), generator=generator)
    wide[..., places] = torch.tensor(SPECIAL)
    return wide.to(dtype)[..., 3 : 3 + units]


@given(rows())
@settings(max_examples=60)
def test_uniforms(key):
    agree(lambda: _native.uniform(*key), _reference.uniform(*key))


@given(rows())
@settings(max_examples=60)
def test_normals(key):
    agree(lambda: _native.normal(*key), _reference.normal(*key), lambda a, b: ulps(a, b) <= 1)


def ulps(a, b):
    return int((a.view(torch.int32) - b.view(torch.int32)).abs().max()) if a.numel() else 0


@given(rows(), st.sampled_from([torch.float32, torch.bfloat16]), st.booleans())
@settings(max_examples=80)
def test_bits(key, dtype, biased):
    logits = logits_for(key, dtype)
    bias = torch.linspace(-1, 1, key[4]) if biased else None
    shifted = logits.float() if bias is None else logits.float() + bias
    expected = _reference.bernoulli_from_uniform(shifted, _reference.uniform(*key)).to(dtype)
    agree(lambda: _native.bernoulli(logits, *key[:4], bias), expected)
    words = _reference.pack(expected.nan_to_num().flatten(0, 1)).view(*key[3].shape, -(-key[4] // 64))
    agree(lambda: _native.bernoulli_bits(logits, *key[:4], bias), words)


@given(rows(max_units=150), st.integers(2, 20), st.sampled_from([torch.float32, torch.bfloat16]))
@settings(max_examples=60)
def test_categories(key, categories, dtype):
    key = (*key[:4], key[4] * categories)
    logits = logits_for(key, dtype)
    split = [t.unflatten(-1, (-1, categories)) for t in (logits.float(), _reference.uniform(*key))]
    expected = _reference.categorical_from_uniform(*split).flatten(-2).to(dtype)
    agree(lambda: _native.categorical(logits, *key[:4], categories), expected, same)
    agree(lambda: _native.categorical_from_uniform(*split).flatten(-2).to(dtype), expected, same)


def same(a, b):
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(7), b.nan_to_num(7))


@given(rows(), st.sampled_from([0.0, 0.1, 0.4, 1.0]))
@settings(max_examples=40)
def test_salt_and_pepper(key, rate):
    x = logits_for(key)
    expected = _reference.salt_and_pepper(x, _reference.uniform(*key), rate, -1.0, 2.0)
    agree(lambda: _native.salt_and_pepper(x, *key[:4], rate, -1.0, 2.0), expected)


@given(rows())
@settings(max_examples=40)
def test_noisy_units(key):
    logits = logits_for(key).clamp(-50, 50)
    expected = _reference.noisy_relu(logits, _reference.normal(*key), 0.7)
    agree(lambda: _native.noisy_relu(logits, *key[:4], 0.7), expected, close)
    normals = _reference.normal(*key[:4], 2 * key[4]).unflatten(-1, (-1, 2))
    expected = _reference.noisy_tanh(logits, normals, 0.7, 0.3)
    for part in (0, 1):
        agree(lambda part=part: _native.noisy_tanh(logits, *key[:4], 0.7, 0.3)[part], expected[part], close)
    first, *others = (output for _, output in on_paths(lambda: _native.noisy_tanh(logits, *key[:4], 0.7, 0.3)[0]))
    assert all(torch.equal(first, other) for other in others), "the native paths agree to the last bit"


def close(a, b):
    return torch.allclose(a, b, rtol=1e-6, atol=5e-7)


@given(rows(max_units=300), st.sampled_from([torch.float32, torch.bfloat16]))
@settings(max_examples=30)
def test_one_sample_of_contiguous_values(key, dtype):
    """Ids (batch,) and values (batch, *units): what rows (1, batch, units) are."""
    seed, site, samples, ids, units = key
    if not ids.numel():
        return
    logits = logits_for(key, dtype)[:1].clamp(-50, 50).contiguous()
    of_rows, one = (seed, site, samples[:1], ids[:1]), (seed, site, samples[0], ids[0])
    for name, args in {
        "bernoulli": (torch.linspace(-1, 1, units),), "bernoulli_packed": (), "bernoulli_bits": (), "categorical": (units,),
        "noisy_relu": (0.7,), "noisy_tanh": (0.7, 0.3), "salt_and_pepper": (0.4, -1.0, 2.0),
    }.items():  # fmt: skip
        kernel = getattr(_native, name)
        expected = kernel(logits, *of_rows, *args)
        expected = tuple(t[0] for t in (expected if isinstance(expected, tuple) else (expected,)))
        for shape in ((len(ids[0]), units), (len(ids[0]), 1, units)):
            actual = kernel(logits[0].view(shape), *one, *args)
            actual = actual if isinstance(actual, tuple) else (actual,)
            assert all(torch.equal(a.flatten(1), e) for a, e in zip(actual, expected, strict=True)), name


# --- from uniforms -----------------------------------------------------------------------------------------------------
def test_samples_at_the_probability_itself():
    # Uniforms within a few units of the last place of sigmoid(a), where nothing but the very same operations agrees.
    a = torch.linspace(-20, 20, 40_001)
    p = (1 / (1 + torch.exp(-a.double()))).float().clamp(2.0**-33, 1 - 2.0**-24)
    for steps in range(-4, 5):
        u = (p.view(torch.int32) + steps).view(torch.float32).clamp(2.0**-33, 1 - 2.0**-24)
        expected = _reference._exactly.below_sigmoid(u, a).float()
        assert torch.equal(_reference.bernoulli_from_uniform(a, u), expected)
        agree(lambda u=u: _native.bernoulli_from_uniform(a, u), expected)


@pytest.mark.parametrize("count", [1, 7, 16, 17, 1000])
def test_straight_through(count):
    gradient, a = torch.randn(count), torch.linspace(-30, 30, count)
    p = torch.sigmoid(a.double())
    expected = (3 * gradient.double() * p * (1 - p)).float()
    agree(lambda: _native.straight_through(gradient, a, 3.0), expected, lambda x, y: torch.allclose(x, y, rtol=0, atol=9e-7))


def test_probabilities_are_as_accurate_as_those_of_torch():
    a = torch.linspace(-16, 16, 100_001)
    true = 1 / (1 + torch.exp(-a.double()))
    zeros = torch.zeros(len(a), 1, dtype=torch.int64)
    for name, p in on_paths(lambda: -_native.packed_score(zeros, a.view(-1, 1), torch.ones(1, 1)).flatten()):
        assert float((p.double() - true).abs().max()) < 1.5e-7, name
        assert float(((p.double() - true) / true).abs().max()) < 2.5e-7, name


def test_fused_samples_at_the_edge_of_their_noise():
    # Logits whose probability lies beside the uniform of their unit: by less than the upper halves of words can tell,
    # by about as much, and by more. Anywhere else a wrong margin would hide for millions of samples.
    key = (5, 0, torch.tensor([0]), torch.arange(64).view(1, 64))
    u = _reference.uniform(*key, 512).double()
    for k in range(10, 26):
        for sign in (-1, 1):
            p = (u + sign * 2.0**-k * torch.rand(u.shape, generator=torch.Generator().manual_seed(k))).clamp(
                2.0**-33, 1 - 2.0**-25
            )
            logits = torch.log(p / (1 - p)).float()
            expected = _reference.bernoulli_from_uniform(logits, u.float())
            agree(lambda logits=logits: _native.bernoulli(logits, *key), expected)


@pytest.mark.parametrize("shape", [(3, 7, 16_389), (1, 1, 200_001), (1, 700, 130)])
def test_work_that_is_worth_several_threads(shape):
    """Below some 65,000 values one thread does it all, so the shapes above say nothing of how threads share the work:
    by rows, or where rows are fewer, by units."""
    lead, batch, units = shape
    key = (9, 1, torch.arange(lead), torch.arange(lead * batch).view(lead, batch), units)
    logits = logits_for(key)
    expected = _reference.bernoulli_from_uniform(logits, _reference.uniform(*key))
    agree(lambda: _native.bernoulli(logits, *key[:4]), expected)
    words = _reference.pack(expected.flatten(0, 1)).view(lead, batch, -1)
    agree(lambda: _native.bernoulli_bits(logits, *key[:4]), words)
    agree(lambda: _native.normal(*key), _reference.normal(*key), lambda a, b: ulps(a, b) <= 1)
    corrupted = _reference.salt_and_pepper(logits, _reference.uniform(*key), 0.4, 0.0, 1.0)
    agree(lambda: _native.salt_and_pepper(logits, *key[:4], 0.4, 0.0, 1.0), corrupted, same)
    whole = (*key[:4], units // 3 * 3)
    split = [t[..., : whole[4]].unflatten(-1, (-1, 3)) for t in (logits, _reference.uniform(*key))]
    expected = _reference.categorical_from_uniform(*split).flatten(-2)
    agree(lambda: _native.categorical(logits[..., : whole[4]], *key[:4], 3), expected, same)
