"""Which noise the units of a row get, in Triton (csrc/src/philox.h, rows.h).

A program takes GROUPS groups of units, counted through all rows; tiles are (GROUPS, units). A group has 16 blocks of a
stream, 64 words: 128 uniforms from the streams HIGH and LOW, or 64 normals from PAIRS.
"""
# pyright: reportMissingImports=false, reportInvalidTypeForm=false

import triton
import triton.language as tl

from dither.kernels import _triton_math as math

HIGH: tl.constexpr = tl.constexpr(0)
LOW: tl.constexpr = tl.constexpr(1)
PAIRS: tl.constexpr = tl.constexpr(2)


# --- Words ---------------------------------------------------------------------------------------------------------------
@triton.jit
def philox(block, low, high, stream, key0, key1):
    """The four words of Philox4x32-10 (Salmon et al. 2011) of the counter (block, low, high, stream) under the key
    (key0, key1). block: (groups, 16); low and high, of the example and its sample: (groups, 1); int32 keys."""
    x0 = block
    x1 = low
    x2 = high
    x3 = stream
    k0 = key0.to(tl.uint32, bitcast=True)
    k1 = key1.to(tl.uint32, bitcast=True)
    for _ in tl.static_range(10):
        product0 = x0.to(tl.uint64) * 0xD2511F53
        product1 = x2.to(tl.uint64) * 0xCD9E8D57
        x0 = (product1 >> 32).to(tl.uint32) ^ x1 ^ k0
        x1 = product1.to(tl.uint32)
        x2 = (product0 >> 32).to(tl.uint32) ^ x3 ^ k1
        x3 = product0.to(tl.uint32)
        k0 += 0x9E3779B9
        k1 += 0xBB67AE85
    return x0, x1, x2, x3


@triton.jit
def in_order(w0, w1, w2, w3):
    """(groups, 16) each -> (groups, 64): 4 b + j holds w_j of b."""
    return tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), [w0.shape[0], 4 * w0.shape[1]])


@triton.jit
def key_words(key0, key1, SEEDED: tl.constexpr):
    """The two int32 words of the key: as they are, or what `_triton._key` makes of the seed at `key0` and the site
    `key1`."""
    if SEEDED:
        seed = tl.load(key0)
        site = key1.to(tl.int64)
        zero = tl.full([], 0, tl.uint32)
        word0, word1, _, _ = philox(
            site.to(tl.uint32), (site >> 32).to(tl.uint32), zero, zero, seed.to(tl.int32), (seed >> 32).to(tl.int32)
        )
        return word0.to(tl.int32, bitcast=True), word1.to(tl.int32, bitcast=True)
    else:
        return key0, key1


# --- Rows ----------------------------------------------------------------------------------------------------------------
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
    return philox(block, low, high, tl.full([1, 1], STREAM, tl.uint32), key0, key1)


@triton.jit
def half_words(group, low, high, STREAM: tl.constexpr, key0, key1):
    """The words of the groups in order, (GROUPS, 64)."""
    w0, w1, w2, w3 = stream_words(group, low, high, STREAM, key0, key1)
    return in_order(w0, w1, w2, w3)


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
