"""The generator and its keys: which bits come out, and what they may depend on."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dither import kernels, noise
from dither.kernels import _reference

WORD = st.integers(0, 2**32 - 1)
LIKE = torch.zeros(1)
KINDS = [noise.uniform, noise.normal]

# The three Philox4x32-10 vectors of the Random123 distribution (kat_vectors): counter, key, words.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text):
    return tuple(int(word, 16) for word in text.split())


def draw(kind, *shape, seed=7, site=0, sample=0):
    return kind(torch.tensor(seed), site, torch.tensor(sample), shape, LIKE)


# --- Philox -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    assert kernels.philox_words(words(counter), words(key)) == words(expected)
    many = torch.tensor(words(counter)).view(4, 1).expand(4, 3)
    assert kernels.philox(many, words(key)).T.tolist() == [list(words(expected))] * 3


@given(st.lists(st.tuples(WORD, WORD, WORD, WORD), min_size=1, max_size=9), st.tuples(WORD, WORD))
def test_tensors_give_the_words_of_integers(counters, key):
    before = torch.tensor(counters).T.contiguous()
    after = kernels.philox(before, key)
    assert [tuple(row) for row in after.T.tolist()] == [kernels.philox_words(c, key) for c in counters]
    assert before.T.tolist() == [list(c) for c in counters], "the counters were changed in place"


def word_of(seed, site, sample, example, stream, number):
    """A word of a stream, written out a second time: stored runs rely on it, and kernels must give the same."""
    key = kernels.philox_words((site, 0, 0, 0), (seed % 2**32, seed >> 32))[:2]
    counter = (number // 4, example % 2**32, (sample << 16) + (example >> 32), stream)
    return kernels.philox_words(counter, key)[number % 4]


def scaled(word):
    """2^32 u of a word: its first 24 significant bits, and 1/2, rounded to 24 bits."""
    cut = max(word.bit_length() - 24, 0)
    return np.float32((word >> cut) << cut) + np.float32(0.5)


KEYS = (st.integers(0, 2**48 - 1), st.integers(0, 2**16 - 1), st.integers(0, 300), st.integers(0, 2**63 - 1))


@given(*KEYS)
def test_layout_of_uniforms(example, sample, unit, seed):
    group, place = divmod(unit, 128)
    high, low = (word_of(seed, 5, sample, example, stream, 64 * group + place % 64) for stream in (0, 1))
    shift = 16 * (place // 64)
    word = (high >> shift & 0xFFFF) << 16 | (low >> shift & 0xFFFF)
    with noise.examples(torch.tensor([example])):
        drawn = draw(noise.uniform, 1, unit + 1, seed=seed, site=5, sample=sample)[0, unit]
    assert float(drawn) == scaled(word) * 2.0**-32


@given(*KEYS)
def test_layout_of_normals(example, sample, unit, seed):
    first, second = (word_of(seed, 5, sample, example, 2, unit // 2 * 2 + i) for i in (0, 1))
    turn = math.cos if unit % 2 == 0 else math.sin
    expected = math.sqrt(-2 * math.log(float(scaled(first)) * 2.0**-32)) * turn(2 * math.pi * second * 2.0**-32)
    with noise.examples(torch.tensor([example])):
        drawn = draw(noise.normal, 1, unit + 1, seed=seed, site=5, sample=sample)[0, unit]
    assert float(drawn) == pytest.approx(expected, rel=4e-7, abs=1e-9)


@pytest.mark.parametrize(("word", "expected"), [(0, 2.0**-33), (2**32 - 1, 1 - 2.0**-24), (2**31, 0.5)])
def test_interval_is_open_at_both_ends(monkeypatch, word, expected):
    monkeypatch.setattr(_reference, "philox", lambda counter, key: torch.full_like(counter, word))
    ids = torch.arange(2).view(1, 2)
    drawn = _reference.uniform(7, 0, torch.tensor([0]), ids, 200)
    half = word & 0xFFFF | (word & 0xFFFF) << 16, word >> 16 | word >> 16 << 16
    assert drawn[..., :64].eq(float(scaled(half[0])) * 2.0**-32).all() and 0 < float(drawn.min()) <= float(drawn.max()) < 1
    assert float(scaled(word)) * 2.0**-32 == expected
    normals = _reference.normal(7, 0, torch.tensor([0]), ids, 5)
    assert normals.isfinite().all(), "the logarithm of 0"


# --- what the noise may not depend on -----------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("units", [1, 3, 4, 5, 17, 64, 257])
def test_splits_and_permutations_keep_every_example(kind, units):
    whole = draw(kind, 23, units)
    for size in (1, 2, 7, 16):
        parts = []
        for ids in torch.arange(23).split(size):
            with noise.examples(ids):
                parts.append(draw(kind, len(ids), units))
        assert torch.equal(torch.cat(parts), whole), f"batches of {size}"
    order = torch.randperm(23, generator=torch.Generator().manual_seed(0))
    with noise.examples(order):
        assert torch.equal(draw(kind, 23, units), whole[order])


@pytest.mark.parametrize("kind", KINDS)
def test_more_units_or_another_shape_keep_the_first(kind):
    assert torch.equal(draw(kind, 3, 40)[:, :6], draw(kind, 3, 6))
    assert torch.equal(draw(kind, 3, 2, 3), draw(kind, 3, 6).view(3, 2, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_threads(kind):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = draw(kind, 1001, 257)
        torch.set_num_threads(2)
        assert torch.equal(draw(kind, 1001, 257), one)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_over_samples_equals_a_loop(kind):
    def one(sample):
        return kind(torch.tensor(7), 3, sample, (5, 7), LIKE)

    loop = torch.stack([one(torch.tensor(k)) for k in range(6)])
    assert torch.equal(torch.func.vmap(one)(torch.arange(6)), loop)
    nested = torch.func.vmap(torch.func.vmap(one))(torch.arange(6).view(2, 3))
    assert torch.equal(nested.flatten(0, 1), loop)


def test_vmap_over_seeds_equals_a_loop():
    seeds = torch.tensor([3, 4, 3])

    def one(seed):
        return noise.uniform(seed, 0, torch.tensor(2), (5, 7), LIKE)

    assert torch.equal(torch.func.vmap(one)(seeds), torch.stack([one(s) for s in seeds]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_float32_under_every_model(kind, dtype):
    drawn = kind(torch.tensor(7), 0, torch.tensor(0), (3, 5), LIKE.to(dtype))
    assert drawn.dtype == torch.float32 and torch.equal(drawn, draw(kind, 3, 5))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0,), (3,)])
@pytest.mark.parametrize("kind", KINDS)
def test_shapes_without_units(kind, shape):
    assert draw(kind, *shape).shape == shape


# --- what it must depend on ---------------------------------------------------------------------------------------------
@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 63))
def test_every_bit_of_the_seed_counts(seed, bit):
    other = (seed ^ (1 << bit)) - (1 << 64 if bit == 63 and seed >= 0 else 0)
    other = other + (1 << 64) if other < -(2**63) else other
    assert not torch.equal(draw(noise.uniform, 1, 8, seed=seed), draw(noise.uniform, 1, 8, seed=other))


def test_sites_samples_examples_and_units_differ():
    far = torch.tensor([0, 1, 2**32, 2**32 + 1, 2**47])  # ids that agree in their lower or upper word
    with noise.examples(far):
        drawn = [draw(noise.uniform, 5, 8, site=s, sample=k) for s in (0, 1, 2**32) for k in (0, 1, 65535)]
    values = torch.stack(drawn).flatten()
    assert len(values.unique()) >= len(values) - 1, "two keys share noise"


def test_step_seeds_are_seeds_and_differ():
    seeds = {noise.step_seed(seed, step) for seed in (0, 1, 2**40, -1) for step in (*range(200), 2**40)}
    assert len(seeds) == 4 * 201 and all(0 <= s < 2**63 for s in seeds)
    torch.manual_seed(max(seeds))


def test_torch_manual_seed_governs():
    def seeds():
        return [int(noise.draw_seed()) for _ in range(3)]

    torch.manual_seed(1)
    first = seeds()
    assert len(set(first)) == 3
    assert seeds() != first
    torch.manual_seed(1)
    assert seeds() == first
    torch.manual_seed(2)
    assert seeds() != first


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_noise_has_a_seed_of_its_own(kind):
    torch.manual_seed(1)
    seed = noise.draw_seed()
    torch.manual_seed(1)
    fresh = noise.fresh(kind.__name__, (3, 5), LIKE.device)
    assert torch.equal(fresh.draw(LIKE), kind(seed, 0, torch.tensor(0), (3, 5), LIKE))
    assert not torch.equal(noise.fresh(kind.__name__, (3, 5), LIKE.device).draw(LIKE), fresh.draw(LIKE))
    slices = torch.func.vmap(fresh.draw, randomness="different")(LIKE.expand(2, 1))
    assert not torch.equal(*slices)


# torch compiles some of its own functions by a way that it has deprecated
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_compiled_code_draws_as_many_seeds_as_eager_code():
    def twice(x):  # with a gradient: there the compiler merges operator calls of equal arguments
        drawn = [noise.uniform(noise.draw_seed(), 0, torch.tensor(0), (2, 8), x) for _ in range(2)]
        return (x * drawn[0]).sin(), (x * drawn[1]).sin()

    x = torch.ones(2, 8, requires_grad=True)
    torch._dynamo.reset()
    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager_decomp_partition")
    torch.manual_seed(1)
    expected = twice(x)
    torch.manual_seed(1)
    torch.testing.assert_close(compiled(x), expected)


# --- examples -----------------------------------------------------------------------------------------------------------
def test_examples_nest_and_are_restored_on_error():
    plain = draw(noise.uniform, 2, 3)
    with noise.examples(torch.tensor([1, 0])):
        with pytest.raises(KeyError), noise.examples(torch.tensor([5, 6])):
            raise KeyError
        assert torch.equal(draw(noise.uniform, 2, 3), plain.flip(0))
    assert torch.equal(draw(noise.uniform, 2, 3), plain)


@pytest.mark.parametrize(
    ("ids", "remedy"),
    [
        (torch.tensor([[0, 1]]), "reshape"),
        (torch.tensor([0.0, 1.0]), "int64"),
        (torch.tensor([0, -1]), "hashes modulo"),
        (torch.tensor([2**48, 1]), "hashes modulo"),
    ],
)
def test_examples_refuses_ids_that_would_share_noise(ids, remedy):
    with pytest.raises(ValueError, match=remedy), noise.examples(ids):
        pass


def test_a_batch_that_is_not_the_examples_is_refused():
    with noise.examples(torch.arange(4)), pytest.raises(ValueError, match="first dimension of logits must be the batch"):
        draw(noise.uniform, 8, 3)
