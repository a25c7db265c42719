"""The Triton kernels: keyed noise and what consumes it. `_triton` launches them.

A program takes GROUPS groups of units, counted through all rows; tiles are (GROUPS, units). A group has 16 blocks of a stream,
64 words: 128 uniforms from the streams HIGH and LOW, or 64 normals from PAIRS (csrc/src/rows.h). HALF: values are bfloat16 and
come as int16.
"""
# pyright: reportMissingImports=false, reportInvalidTypeForm=false

import triton
import triton.language as tl

from dither.kernels import _triton_math as math

HIGH: tl.constexpr = tl.constexpr(0)
LOW: tl.constexpr = tl.constexpr(1)
PAIRS: tl.constexpr = tl.constexpr(2)


@triton.jit
def key_words(key0, key1, SEEDED: tl.constexpr):
    """The two int32 words of the key: as given, or of the seed in memory at `key0` and the site `key1`, as `_triton._key`."""
    if SEEDED:
        seed = tl.load(key0)
        site = key1.to(tl.int64)
        zero = tl.full([], 0, tl.uint32)
        word0, word1, _, _ = math.philox(
            site.to(tl.uint32), (site >> 32).to(tl.uint32), zero, zero, seed.to(tl.int32), (seed >> 32).to(tl.int32)
        )
        return word0.to(tl.int32, bitcast=True), word1.to(tl.int32, bitcast=True)
    else:
        return key0, key1


@triton.jit
def own_rows(units, UNITS: tl.constexpr, GROUPS: tl.constexpr):
    """(row, group within the row) of this program's groups, (GROUPS, 1) int32 each."""
    groups = (units + UNITS - 1) // UNITS
    number = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)[:, None]
    return number // groups, number % groups


@triton.jit
def starts(row, batch, lead_stride, row_stride):
    """Where rows begin, for strides of the two dimensions that they count."""
    return (row // batch).to(tl.int64) * lead_stride + (row % batch).to(tl.int64) * row_stride


@triton.jit
def counters(row, here, batch, ids, ids_lead, ids_row, samples, samples_step):
    """The middle words of the counters of rows: example mod 2^32, and sample 2^16 + example div 2^32."""
    example = tl.load(ids + starts(row, batch, ids_lead, ids_row), mask=here, other=0)
    sample = tl.load(samples + starts(row, batch, samples_step, 0), mask=here, other=0)
    return example.to(tl.uint32), ((sample << 16) + (example >> 32)).to(tl.uint32)


@triton.jit
def stream_words(group, low, high, STREAM: tl.constexpr, key0, key1):
    """The words of the groups, as four tiles (GROUPS, 16): one for each word of a block."""
    block = (group * 16 + tl.arange(0, 16)[None, :]).to(tl.uint32)
    return math.philox(block, low, high, tl.full([1, 1], STREAM, tl.uint32), key0, key1)


@triton.jit
def half_words(group, low, high, STREAM: tl.constexpr, key0, key1):
    """The words of the groups in order, (GROUPS, 64)."""
    w0, w1, w2, w3 = stream_words(group, low, high, STREAM, key0, key1)
    return math.in_order(w0, w1, w2, w3)


@triton.jit
def unit_words(main, group, low, high, key0, key1):
    """The 32-bit words of units v and 64 + v, (GROUPS, 64) each, from `main`, which holds their high bits."""
    rest = half_words(group, low, high, LOW, key0, key1)
    return (main << 16) ^ (rest & 0xFFFF), (main & 0xFFFF0000) ^ (rest >> 16)


@triton.jit
def normals(group, low, high, key0, key1):
    """Four tiles (GROUPS, 16): normals 4 b, ..., 4 b + 3."""
    w0, w1, w2, w3 = stream_words(group, low, high, PAIRS, key0, key1)
    z0, z1 = math.box_muller(w0, w1)
    z2, z3 = math.box_muller(w2, w3)
    return z0, z1, z2, z3


# --- Noise ---------------------------------------------------------------------------------------------------------------
@triton.jit(do_not_specialize=["key0", "key1", "rows", "batch"])
def uniform(
    key0, key1, rows, batch, units, ids, ids_lead, ids_row, samples, samples_step, out,
    SEEDED: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Uniforms in (0, 1). out: (rows, units) float32."""
    key0, key1 = key_words(key0, key1, SEEDED)
    row, group = own_rows(units, 128, GROUPS)
    low, high = counters(row, row < rows, batch, ids, ids_lead, ids_row, samples, samples_step)
    main = half_words(group, low, high, HIGH, key0, key1)
    first, second = unit_words(main, group, low, high, key0, key1)
    unit = group * 128 + tl.arange(0, 64)[None, :]
    place = out + row.to(tl.int64) * units + unit
    tl.store(place, math.scaled_uniform(first) * 2.3283064365386963e-10, mask=(row < rows) & (unit < units))
    tl.store(place + 64, math.scaled_uniform(second) * 2.3283064365386963e-10, mask=(row < rows) & (unit + 64 < units))


@triton.jit(do_not_specialize=["key0", "key1", "rows", "batch"])
def normal(
    key0, key1, rows, batch, units, ids, ids_lead, ids_row, samples, samples_step, out,
    SEEDED: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Standard normals. out: (rows, units) float32."""
    key0, key1 = key_words(key0, key1, SEEDED)
    row, group = own_rows(units, 64, GROUPS)
    low, high = counters(row, row < rows, batch, ids, ids_lead, ids_row, samples, samples_step)
    z0, z1, z2, z3 = normals(group, low, high, key0, key1)
    unit = group * 64 + tl.arange(0, 64)[None, :]
    tl.store(out + row.to(tl.int64) * units + unit, math.in_order(z0, z1, z2, z3), mask=(row < rows) & (unit < units))


# --- Decisions -----------------------------------------------------------------------------------------------------------
@triton.jit(do_not_specialize=["key0", "key1", "rows", "batch"])
def bernoulli(
    key0, key1, rows, batch, units, ids, ids_lead, ids_row, samples, samples_step,
    logits, lead_stride, row_stride, low_value, high_value, out,
    PACKED: tl.constexpr, HALF: tl.constexpr, SEEDED: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Decisions h = [u (1 + e^-a) < 1]. out: (rows, units) low or high values, NaN where a logit is; or packed, (rows, words)
    int64 with zeros for NaN and behind the last unit."""
    key0, key1 = key_words(key0, key1, SEEDED)
    row, group = own_rows(units, 128, GROUPS)
    low, high = counters(row, row < rows, batch, ids, ids_lead, ids_row, samples, samples_step)
    main = half_words(group, low, high, HIGH, key0, key1)
    v = tl.arange(0, 64)[None, :]
    unit = group * 128 + v
    here0 = (row < rows) & (unit < units)
    here1 = (row < rows) & (unit + 64 < units)
    place = logits + starts(row, batch, lead_stride, row_stride) + unit
    a0 = math.get(place, here0, HALF)
    a1 = math.get(place + 64, here1, HALF)
    one0, decided0 = math.by_high_bits(a0, main & 0xFFFF)
    one1, decided1 = math.by_high_bits(a1, main >> 16)
    if tl.max(tl.where(decided0 & decided1, 0, 1)) > 0:  # once in some dozen programs
        first, second = unit_words(main, group, low, high, key0, key1)
        one0 = math.by_all_bits(a0, first)
        one1 = math.by_all_bits(a1, second)
    if PACKED:
        words = (units + 63) // 64
        place = out + row.to(tl.int64) * words + group * 2
        word0 = tl.sum((one0 & here0 & (a0 == a0)).to(tl.int64) << v, axis=1)[:, None]
        word1 = tl.sum((one1 & here1 & (a1 == a1)).to(tl.int64) << v, axis=1)[:, None]
        tl.store(place, word0, mask=row < rows)
        tl.store(place + 1, word1, mask=(row < rows) & (group * 2 + 1 < words))
    else:
        place = out + row.to(tl.int64) * units + unit
        math.put(place, tl.where(a0 == a0, tl.where(one0, high_value, low_value), a0), here0, HALF)
        math.put(place + 64, tl.where(a1 == a1, tl.where(one1, high_value, low_value), a1), here1, HALF)


@triton.jit(do_not_specialize=["draws", "batch"])
def gumbel_max(
    draws, batch, units, categories, logits, lead_stride, row_stride, noise, out,
    HALF: tl.constexpr, DRAWS: tl.constexpr, CATEGORIES: tl.constexpr,
):  # fmt: skip
    """One-hot winners of argmax_k (a_k + g_k), g = -log(-log(1 - u)); the first of equal ones. Categories at +inf share all the
    mass by their g; NaN where a logit is NaN or all are -inf. `draws` = rows * units; noise, out: (draws, categories)."""
    draw = tl.program_id(0) * DRAWS + tl.arange(0, DRAWS)[:, None]
    row = draw // units
    own = logits + starts(row, batch, lead_stride, row_stride) + (draw % units).to(tl.int64) * categories
    flat = draw.to(tl.int64) * categories
    best = tl.full([DRAWS, 1], float("-inf"), tl.float32)  # the best score,
    best_tie = best  # among those at +inf the best g,
    winner = tl.full([DRAWS, 1], 0, tl.int32)  # and its category
    nan = winner
    for start in range(0, categories, CATEGORIES):
        k = start + tl.arange(0, CATEGORIES)[None, :]
        here = (draw < draws) & (k < categories)
        g = math.gumbel(tl.load(noise + flat + k, mask=here, other=0.5))
        score = math.get(own + k, here, HALF) + g
        nan |= tl.max(tl.where(here & (score != score), 1, 0), axis=1)[:, None]
        score = tl.where(here & (score == score), score, float("-inf"))
        top = tl.max(score, axis=1)[:, None]
        tie = tl.where(score == top, tl.where(score == float("inf"), g, 0.0), float("-inf"))
        top_tie = tl.max(tie, axis=1)[:, None]
        first = tl.min(tl.where((score == top) & (tie == top_tie), k, categories), axis=1)[:, None]
        better = (top > best) | ((top == best) & (top_tie > best_tie))
        winner = tl.where(better, first, winner)
        best_tie = tl.where(better, top_tie, best_tie)
        best = tl.where(better, top, best)
    bad = (nan > 0) | (best == float("-inf"))
    for start in range(0, categories, CATEGORIES):
        k = start + tl.arange(0, CATEGORIES)[None, :]
        chosen = tl.where(bad, float("nan"), tl.where(k == winner, 1.0, 0.0))
        math.put(out + flat + k, chosen, (draw < draws) & (k < categories), HALF)


# --- Noisy values --------------------------------------------------------------------------------------------------------
@triton.jit(do_not_specialize=["key0", "key1", "rows", "batch"])
def noisy_relu(
    key0, key1, rows, batch, units, ids, ids_lead, ids_row, samples, samples_step,
    logits, lead_stride, row_stride, deviation, out, HALF: tl.constexpr, SEEDED: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """max(0, a + deviation z). out: (rows, units)."""
    key0, key1 = key_words(key0, key1, SEEDED)
    row, group = own_rows(units, 64, GROUPS)
    low, high = counters(row, row < rows, batch, ids, ids_lead, ids_row, samples, samples_step)
    z0, z1, z2, z3 = normals(group, low, high, key0, key1)
    unit = group * 64 + tl.arange(0, 64)[None, :]
    here = (row < rows) & (unit < units)
    a = math.get(logits + starts(row, batch, lead_stride, row_stride) + unit, here, HALF)
    noisy = a + deviation * math.in_order(z0, z1, z2, z3)
    math.put(out + row.to(tl.int64) * units + unit, tl.where(noisy < 0.0, 0.0, noisy), here, HALF)


@triton.jit(do_not_specialize=["key0", "key1", "rows", "batch"])
def noisy_tanh(
    key0, key1, rows, batch, units, ids, ids_lead, ids_row, samples, samples_step,
    logits, lead_stride, row_stride, before, after, out, inner,
    HALF: tl.constexpr, SEEDED: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """tanh(a + before z) + after z', with the normals 2 i and 2 i + 1 of unit i; inner: the tanh. out, inner: (rows, units)."""
    key0, key1 = key_words(key0, key1, SEEDED)
    row, group = own_rows(units, 32, GROUPS)
    low, high = counters(row, row < rows, batch, ids, ids_lead, ids_row, samples, samples_step)
    z0, z1, z2, z3 = normals(group, low, high, key0, key1)
    unit = group * 32 + tl.arange(0, 32)[None, :]
    here = (row < rows) & (unit < units)
    a = math.get(logits + starts(row, batch, lead_stride, row_stride) + unit, here, HALF)
    tanh = math.hyperbolic_tangent(a + before * tl.reshape(tl.join(z0, z2), [GROUPS, 32]))
    place = row.to(tl.int64) * units + unit
    math.put(inner + place, tanh, here, HALF)
    math.put(out + place, tanh + after * tl.reshape(tl.join(z1, z3), [GROUPS, 32]), here, HALF)


@triton.jit(do_not_specialize=["key0", "key1", "rows", "batch"])
def salt_and_pepper(
    key0, key1, rows, batch, units, ids, ids_lead, ids_row, samples, samples_step,
    values, lead_stride, row_stride, rate, low_value, high_value, out,
    HALF: tl.constexpr, SEEDED: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """low where u < rate / 2, high where rate / 2 <= u < rate, else x. out: (rows, units)."""
    key0, key1 = key_words(key0, key1, SEEDED)
    row, group = own_rows(units, 128, GROUPS)
    low, high = counters(row, row < rows, batch, ids, ids_lead, ids_row, samples, samples_step)
    main = half_words(group, low, high, HIGH, key0, key1)
    first, second = unit_words(main, group, low, high, key0, key1)
    place = values + starts(row, batch, lead_stride, row_stride)
    for half in tl.static_range(2):
        unit = group * 128 + 64 * half + tl.arange(0, 64)[None, :]
        here = (row < rows) & (unit < units)
        u = math.scaled_uniform(second if half else first)
        changed = tl.where(u < rate * 0.5 * 4294967296.0, low_value, high_value)
        x = tl.where(u < rate * 4294967296.0, changed, math.get(place + unit, here, HALF))
        math.put(out + row.to(tl.int64) * units + unit, x, here, HALF)


# --- Element by element --------------------------------------------------------------------------------------------------
@triton.jit
def threshold(logits, noise, out, count, SIZE: tl.constexpr):
    """1[u (1 + e^-a) < 1] for uniforms that are given; NaN where a logit is. Flat float32."""
    i = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    here = i < count
    a = tl.load(logits + i, mask=here, other=0)
    u = tl.load(noise + i, mask=here, other=0)
    one = tl.fma(u, math.exponential(0.0 - a), u) < 1.0
    tl.store(out + i, tl.where(a == a, tl.where(one, 1.0, 0.0), a), mask=here)


@triton.jit
def straight_through(gradient, logits, factor, out, count, HALF: tl.constexpr, SIZE: tl.constexpr):
    """factor * gradient * p (1 - p) with p = sigmoid(a). Flat."""
    i = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    here = i < count
    p = math.sigmoid(math.get(logits + i, here, HALF))
    math.put(out + i, factor * math.get(gradient + i, here, HALF) * (p * (1.0 - p)), here, HALF)
