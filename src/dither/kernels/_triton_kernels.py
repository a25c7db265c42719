"""The Triton kernels: keyed noise and what consumes it. `_triton` launches them.

Tiles are (GROUPS, units), as `_triton_rows` has them. HALF: values are bfloat16 and come as int16.
"""
# pyright: reportMissingImports=false, reportInvalidTypeForm=false

import triton
import triton.language as tl

from dither.kernels import _triton_math as math
from dither.kernels import _triton_rows as keyed


# --- Noise ---------------------------------------------------------------------------------------------------------------
@triton.jit(do_not_specialize=["key0", "key1", "rows", "batch"])
def uniform(
    key0, key1, rows, batch, units, ids, ids_lead, ids_row, samples, samples_step, out,
    SEEDED: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Uniforms in (0, 1). out: (rows, units) float32."""
    key0, key1 = keyed.key_words(key0, key1, SEEDED)
    row, group = keyed.own_rows(units, 128, GROUPS)
    low, high = keyed.counters(row, row < rows, batch, ids, ids_lead, ids_row, samples, samples_step)
    main = keyed.half_words(group, low, high, keyed.HIGH, key0, key1)
    first, second = keyed.unit_words(main, group, low, high, key0, key1)
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
    key0, key1 = keyed.key_words(key0, key1, SEEDED)
    row, group = keyed.own_rows(units, 64, GROUPS)
    low, high = keyed.counters(row, row < rows, batch, ids, ids_lead, ids_row, samples, samples_step)
    z0, z1, z2, z3 = keyed.normals(group, low, high, key0, key1)
    unit = group * 64 + tl.arange(0, 64)[None, :]
    tl.store(out + row.to(tl.int64) * units + unit, keyed.in_order(z0, z1, z2, z3), mask=(row < rows) & (unit < units))


# --- Samples -------------------------------------------------------------------------------------------------------------
@triton.jit(do_not_specialize=["key0", "key1", "rows", "batch"])
def bernoulli(
    key0, key1, rows, batch, units, ids, ids_lead, ids_row, samples, samples_step,
    logits, lead_stride, row_stride, low_value, high_value, out,
    PACKED: tl.constexpr, HALF: tl.constexpr, SEEDED: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """1[u < sigmoid(a)], as u (1 + e^-a) < 1. out: (rows, units) low or high values, NaN where a logit is; or packed,
    (rows, words) int64 with zeros for NaN and behind the last unit."""
    key0, key1 = keyed.key_words(key0, key1, SEEDED)
    row, group = keyed.own_rows(units, 128, GROUPS)
    low, high = keyed.counters(row, row < rows, batch, ids, ids_lead, ids_row, samples, samples_step)
    main = keyed.half_words(group, low, high, keyed.HIGH, key0, key1)
    v = tl.arange(0, 64)[None, :]
    unit = group * 128 + v
    here0 = (row < rows) & (unit < units)
    here1 = (row < rows) & (unit + 64 < units)
    place = logits + keyed.starts(row, batch, lead_stride, row_stride) + unit
    a0 = math.get(place, here0, HALF)
    a1 = math.get(place + 64, here1, HALF)
    one0, certain0 = math.by_high_bits(a0, main & 0xFFFF)
    one1, certain1 = math.by_high_bits(a1, main >> 16)
    if tl.max(tl.where(certain0 & certain1, 0, 1)) > 0:  # once in some dozen programs
        first, second = keyed.unit_words(main, group, low, high, key0, key1)
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


@triton.jit(do_not_specialize=["count", "batch"])
def gumbel_max(
    count, batch, units, categories, logits, lead_stride, row_stride, uniform, out,
    HALF: tl.constexpr, UNITS: tl.constexpr, CATEGORIES: tl.constexpr,
):  # fmt: skip
    """One-hot winners of argmax_k (a_k + g_k), g = -log(-log(1 - u)); the first of equal ones. Categories at +inf share
    all the mass by their g; NaN where a logit is NaN or all are -inf. `count` = rows * units; uniform, out: (count,
    categories)."""
    number = tl.program_id(0) * UNITS + tl.arange(0, UNITS)[:, None]
    row = number // units
    own = logits + keyed.starts(row, batch, lead_stride, row_stride) + (number % units).to(tl.int64) * categories
    flat = number.to(tl.int64) * categories
    best = tl.full([UNITS, 1], float("-inf"), tl.float32)  # the best score,
    best_tie = best  # among those at +inf the best g,
    winner = tl.full([UNITS, 1], 0, tl.int32)  # and its category
    nan = winner
    for start in range(0, categories, CATEGORIES):
        k = start + tl.arange(0, CATEGORIES)[None, :]
        here = (number < count) & (k < categories)
        g = math.gumbel(tl.load(uniform + flat + k, mask=here, other=0.5))
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
        hard = tl.where(bad, float("nan"), tl.where(k == winner, 1.0, 0.0))
        math.put(out + flat + k, hard, (number < count) & (k < categories), HALF)


# --- Noisy values --------------------------------------------------------------------------------------------------------
@triton.jit(do_not_specialize=["key0", "key1", "rows", "batch"])
def noisy_relu(
    key0, key1, rows, batch, units, ids, ids_lead, ids_row, samples, samples_step,
    logits, lead_stride, row_stride, deviation, out, HALF: tl.constexpr, SEEDED: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """max(0, a + deviation z). out: (rows, units)."""
    key0, key1 = keyed.key_words(key0, key1, SEEDED)
    row, group = keyed.own_rows(units, 64, GROUPS)
    low, high = keyed.counters(row, row < rows, batch, ids, ids_lead, ids_row, samples, samples_step)
    z0, z1, z2, z3 = keyed.normals(group, low, high, key0, key1)
    unit = group * 64 + tl.arange(0, 64)[None, :]
    here = (row < rows) & (unit < units)
    a = math.get(logits + keyed.starts(row, batch, lead_stride, row_stride) + unit, here, HALF)
    noisy = a + deviation * keyed.in_order(z0, z1, z2, z3)
    math.put(out + row.to(tl.int64) * units + unit, tl.where(noisy < 0.0, 0.0, noisy), here, HALF)


@triton.jit(do_not_specialize=["key0", "key1", "rows", "batch"])
def noisy_tanh(
    key0, key1, rows, batch, units, ids, ids_lead, ids_row, samples, samples_step,
    logits, lead_stride, row_stride, before, after, out, inner,
    HALF: tl.constexpr, SEEDED: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """tanh(a + before z) + after z', with the normals 2 i and 2 i + 1 of unit i; inner: the tanh. out, inner: (rows,
    units)."""
    key0, key1 = keyed.key_words(key0, key1, SEEDED)
    row, group = keyed.own_rows(units, 32, GROUPS)
    low, high = keyed.counters(row, row < rows, batch, ids, ids_lead, ids_row, samples, samples_step)
    z0, z1, z2, z3 = keyed.normals(group, low, high, key0, key1)
    unit = group * 32 + tl.arange(0, 32)[None, :]
    here = (row < rows) & (unit < units)
    a = math.get(logits + keyed.starts(row, batch, lead_stride, row_stride) + unit, here, HALF)
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
    key0, key1 = keyed.key_words(key0, key1, SEEDED)
    row, group = keyed.own_rows(units, 128, GROUPS)
    low, high = keyed.counters(row, row < rows, batch, ids, ids_lead, ids_row, samples, samples_step)
    main = keyed.half_words(group, low, high, keyed.HIGH, key0, key1)
    first, second = keyed.unit_words(main, group, low, high, key0, key1)
    place = values + keyed.starts(row, batch, lead_stride, row_stride)
    for half in tl.static_range(2):
        unit = group * 128 + 64 * half + tl.arange(0, 64)[None, :]
        here = (row < rows) & (unit < units)
        u = math.scaled_uniform(second if half else first)
        changed = tl.where(u < rate * 0.5 * 4294967296.0, low_value, high_value)
        x = tl.where(u < rate * 4294967296.0, changed, math.get(place + unit, here, HALF))
        math.put(out + row.to(tl.int64) * units + unit, x, here, HALF)


# --- Element by element --------------------------------------------------------------------------------------------------
@triton.jit
def bernoulli_from_uniform(logits, uniform, out, count, SIZE: tl.constexpr):
    """1[u < sigmoid(a)], as u (1 + e^-a) < 1; NaN where a logit is. Flat float32."""
    i = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    here = i < count
    a = tl.load(logits + i, mask=here, other=0)
    u = tl.load(uniform + i, mask=here, other=0)
    one = tl.fma(u, math.exponential(0.0 - a), u) < 1.0
    tl.store(out + i, tl.where(a == a, tl.where(one, 1.0, 0.0), a), mask=here)


@triton.jit
def straight_through(gradient, logits, factor, out, count, HALF: tl.constexpr, SIZE: tl.constexpr):
    """factor * gradient * p (1 - p) with p = sigmoid(a). Flat."""
    i = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    here = i < count
    p = math.sigmoid(math.get(logits + i, here, HALF))
    math.put(out + i, factor * math.get(gradient + i, here, HALF) * (p * (1.0 - p)), here, HALF)
