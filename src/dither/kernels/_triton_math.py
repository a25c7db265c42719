"""The elementary functions of csrc/src in Triton, bit for bit; what is computed and why is said there (elementary.h).

Operations on float32 are rounded once each: `tl.fma` where the sources have a fused operation, no contraction elsewhere
(the launchers switch it off), IEEE division and square root. Words are uint32. Tensors of bfloat16 come as int16
(HALF), so that rounding is spelled out and no processor lacks it. `triton` must be installed to import this.
"""
# pyright: reportMissingImports=false, reportInvalidTypeForm=false

import triton
import triton.language as tl


# --- Words and values ----------------------------------------------------------------------------------------------------
@triton.jit
def bits(x):
    return x.to(tl.uint32, bitcast=True)


@triton.jit
def real(word):
    return word.to(tl.float32, bitcast=True)


@triton.jit
def get(place, here, HALF: tl.constexpr):
    """float32 values; 0 where not `here`."""
    x = tl.load(place, mask=here, other=0)
    if HALF:
        return real(x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16)
    else:
        return x


@triton.jit
def put(place, x, here, HALF: tl.constexpr):
    """Store float32 values; for bfloat16 rounded to nearest, ties to even, and a NaN stays one."""
    if HALF:
        word = bits(x)
        word = tl.where(x == x, word + 0x7FFF + ((word >> 16) & 1), 0x7FC00000) >> 16
        tl.store(place, word.to(tl.uint16).to(tl.int16, bitcast=True), mask=here)
    else:
        tl.store(place, x, mask=here)


@triton.jit
def scaled_uniform(word):
    """2^32 u. The conversion rounds towards zero: bits are cut off until 24 are left."""
    cut = word >> 24
    cut |= cut >> 1
    cut |= cut >> 2
    cut |= cut >> 4
    return (word ^ (word & cut)).to(tl.float32) + 0.5


# --- Exponential and comparisons -----------------------------------------------------------------------------------------
@triton.jit
def whole_and_rest(t):
    """(floor t as int32, t - floor t) for t clamped to [-126, 128], a NaN at -126. `tl.floor` would take denormals for
    0."""
    t = tl.where(t > -126.0, t, -126.0)
    t = tl.where(t < 128.0, t, 128.0)
    towards_zero = t.to(tl.int32)
    whole = towards_zero - tl.where(towards_zero.to(tl.float32) > t, 1, 0)
    return whole, t - whole.to(tl.float32)


@triton.jit
def scale(x, whole):
    """x 2^whole for x in [1, 2] and whole int32 in [-126, 128]."""
    return real(bits(x) + (whole.to(tl.uint32, bitcast=True) << 23))


@triton.jit
def exp2_rough(t):
    """2^t to about 3 parts in a million."""
    whole, f = whole_and_rest(t)
    p = tl.fma(f, 0.013426685, 0.052242473)
    p = tl.fma(p, f, 0.2412802)
    p = tl.fma(p, f, 0.69304484)
    return scale(tl.fma(p, f, 1.0), whole)


@triton.jit
def exponential(x):
    """e^x; 0 below -87 and infinity above 88, NaN of NaN."""
    clamped = tl.where(x < -87.0, -87.0, x)
    clamped = tl.where(clamped > 88.0, 88.0, clamped)
    t = clamped * 1.44269504
    rest = tl.fma(clamped, 1.44269504, 0.0 - t)
    rest = tl.fma(clamped, 1.9259630e-8, rest)
    whole, f = whole_and_rest(t)
    f += rest
    p = tl.fma(f, 0.00021612915, 0.0012467846)
    p = tl.fma(p, f, 0.0096754516)
    p = tl.fma(p, f, 0.055485282)
    p = tl.fma(p, f, 0.24022931)
    p = tl.fma(p, f, 0.69314706)
    e = scale(tl.fma(p, f, 1.0), whole)
    e = tl.where(x < -87.0, 0.0, e)
    e = tl.where(x > 88.0, float("inf"), e)
    return tl.where(x == x, e, x)


@triton.jit
def sigmoid(a):
    return tl.div_rn(1.0, 1.0 + exponential(0.0 - a))


@triton.jit
def by_high_bits(a, high):
    """(one, certain): u < sigmoid(a) by the 16 high bits of u, where these are enough (csrc/src/bernoulli.h)."""
    s = 1.0 + exp2_rough(a * -1.44269504)
    rest = tl.fma(0.0 - high.to(tl.int32).to(tl.float32), s, 65535.5)
    one = s <= rest
    return one, one | (rest < -1.0)


@triton.jit
def by_all_bits(a, word):
    u = scaled_uniform(word)
    return tl.fma(u, exponential(0.0 - a), u) < 4294967296.0


# --- Logarithm -----------------------------------------------------------------------------------------------------------
@triton.jit
def log1p_rest(f):
    """log(1 + f) - f for f in [sqrt(1/2) - 1, sqrt(2) - 1]."""
    p = tl.fma(f, 0.087004304, -0.14267486)
    p = tl.fma(p, f, 0.14914769)
    p = tl.fma(p, f, -0.16577585)
    p = tl.fma(p, f, 0.19963063)
    p = tl.fma(p, f, -0.25001338)
    p = tl.fma(p, f, 0.3333391)
    return f * f * tl.fma(p, f, -0.5)


@triton.jit
def split(x):
    """(power, f) with x = 2^power (1 + f) and f in [sqrt(1/2) - 1, sqrt(2) - 1], for normal positive x."""
    shifted = bits(x) - 0x3F3504F3
    power = (shifted.to(tl.int32, bitcast=True) >> 23).to(tl.float32)
    return power, real((shifted & 0x7FFFFF) + 0x3F3504F3) - 1.0


@triton.jit
def joined(power, f):
    """log x of the (power, f) of `split`."""
    rest = tl.fma(power, -2.12194440e-4, log1p_rest(f))
    return tl.fma(power, 0.693359375, f + rest)


@triton.jit
def gumbel(u):
    """-log(-log(1 - u)) for uniforms in (0, 1); infinite where u is not above 0."""
    power, f = split(1.0 - u)
    f = tl.where(power == 0.0, 0.0 - u, f)  # 1 - u may have been rounded
    power, f = split(0.0 - joined(power, f))
    return tl.where(u > 0.0, 0.0 - joined(power, f), float("inf"))


# --- Normals and tanh ----------------------------------------------------------------------------------------------------
@triton.jit
def turn(word):
    """(cos, sin) of word 2^-30 quarter turns."""
    nearest = word + 0x20000000
    t = (word - (nearest & 0xC0000000)).to(tl.int32, bitcast=True).to(tl.float32) * 9.3132257e-10
    square = t * t
    s = tl.fma(square, -0.0046016611, 0.079680033)
    s = tl.fma(s, square, -0.64596349)
    s = tl.fma(s, square, -4.3711388e-8)  # what 1.5707964 is too much
    s = tl.fma(t, 1.5707964, t * s)
    c = tl.fma(square, 0.00090376654, -0.020860165)
    c = tl.fma(c, square, 0.25366923)
    c = tl.fma(c, square, -1.2337005)
    c = tl.fma(c, square, 1.0)
    quarter = nearest >> 30
    odd = (quarter & 1) == 1
    cosine = bits(tl.where(odd, s, c)) ^ ((quarter ^ (quarter >> 1)) << 31)
    sine = bits(tl.where(odd, c, s)) ^ ((quarter >> 1) << 31)
    return real(cosine), real(sine)


@triton.jit
def box_muller(first, second):
    """Two normals of two words."""
    power, f = split(scaled_uniform(first))
    radius = tl.sqrt_rn(-2.0 * joined(power - 32.0, f))
    cosine, sine = turn(second)
    return radius * cosine, radius * sine


@triton.jit
def hyperbolic_tangent(x):
    size = real(bits(x) & 0x7FFFFFFF)
    square = x * x
    p = tl.fma(square, -5.70498872745e-3, 2.06390887954e-2)
    p = tl.fma(p, square, -5.37397155531e-2)
    p = tl.fma(p, square, 1.33314422036e-1)
    p = tl.fma(p, square, -3.33332819422e-1)
    near = tl.fma(x * square, p, x)
    far = 1.0 - tl.div_rn(2.0, 1.0 + exponential(size + size))
    far = real(bits(far) ^ (bits(x) & 0x80000000))
    return tl.where(size < 0.625, near, far)
