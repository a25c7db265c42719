// Elementary functions from correctly rounded operations alone, so that every vector type gives the same bits.
#pragma once
#include "simd.h"

#include <cmath>

namespace {

// 2^t to about 3 parts in a million: enough for a sample nearly always.
inline F exp2_rough(F t) {
    const F f = rough_fraction(t);
    F p = set(0.013426685f);
    p = fma(p, f, set(0.052242473f));
    p = fma(p, f, set(0.2412802f));
    p = fma(p, f, set(0.69304484f));
    return scale(fma(p, f, set(1.0f)), t);
}

constexpr float LOG2E = 1.44269504f, LOG2E_REST = 1.9259630e-8f;

constexpr float MIN_EXPONENT = -87.0f, MAX_EXPONENT = 88.0f;

// e^x, relative error 1e-7; 0 below -87 and infinity above 88.
inline F exponential(F x) {
    const F held = minimum(set(MAX_EXPONENT), maximum(set(MIN_EXPONENT), x));
    const F t = mul(held, set(LOG2E));
    F rest = fma(held, set(LOG2E), sub(set(0.0f), t));
    rest = fma(held, set(LOG2E_REST), rest);
    const F f = add(fraction(t), rest);
    F p = set(0.00021612915f);
    p = fma(p, f, set(0.0012467846f));
    p = fma(p, f, set(0.0096754516f));
    p = fma(p, f, set(0.055485282f));
    p = fma(p, f, set(0.24022931f));
    p = fma(p, f, set(0.69314706f));
    F e = scale(fma(p, f, set(1.0f)), t);
    e = choose(below(x, set(MIN_EXPONENT)), set(0.0f), e);
    return choose(below(set(MAX_EXPONENT), x), set(INFINITY), e);
}

inline F sigmoid(F a) { return div(set(1.0f), add(set(1.0f), exponential(sub(set(0.0f), a)))); }

// log(1 + f) - f for f in [sqrt(1/2) - 1, sqrt(2) - 1].
inline F log1p_rest(F f) {
    F p = set(0.087004304f);
    p = fma(p, f, set(-0.14267486f));
    p = fma(p, f, set(0.14914769f));
    p = fma(p, f, set(-0.16577585f));
    p = fma(p, f, set(0.19963063f));
    p = fma(p, f, set(-0.25001338f));
    p = fma(p, f, set(0.3333391f));
    const F square = mul(f, f);
    return mul(square, fma(p, f, set(-0.5f)));
}

constexpr float LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f;
constexpr uint32_t ROOT_HALF = 0x3F3504F3u;  // bits of sqrt(1/2)

// x = 2^power (1 + f) with f in [sqrt(1/2) - 1, sqrt(2) - 1], for normal positive x.
inline void split(F x, F& power, F& f) {
    const I shifted = subi(bits(x), seti(ROOT_HALF));
    power = from_signed(right_signed<23>(shifted));
    f = sub(real(addi(andi(shifted, seti(0x7FFFFF)), seti(ROOT_HALF))), set(1.0f));
}

inline F joined(F power, F f) {
    const F rest = fma(power, set(LN2_LOW), log1p_rest(f));
    return fma(power, set(LN2_HIGH), add(f, rest));
}

// log x for normal positive x.
inline F logarithm(F x) {
    F power, f;
    split(x, power, f);
    return joined(power, f);
}

// -log(1 - u) for u in (0, 1): a standard exponential variable, exact to the last bits also where u is small.
inline F exponential_of(F u) {
    F power, f;
    split(sub(set(1.0f), u), power, f);
    const F minus = sub(set(0.0f), u);
    f = choose(equal(bits(power), seti(0)), minus, f);  // 1 - u may have been rounded
    return sub(set(0.0f), joined(power, f));
}

// cos and sin of x quarter turns, x = word 2^-30: exact in the reduction, so right to the last bits everywhere.
inline void turn(I word, F& cosine, F& sine) {
    const I nearest = addi(word, seti(1u << 29));
    const F x = from_signed(subi(word, andi(nearest, seti(3u << 30))));  // 2^30 times a quarter turn, in [-1/2, 1/2]
    const F t = mul(x, set(9.3132257e-10f)), square = mul(t, t);
    F s = set(-0.0046016611f);
    s = fma(s, square, set(0.079680033f));
    s = fma(s, square, set(-0.64596349f));
    s = fma(s, square, set(-4.3711388e-8f));  // what 1.5707964 is too much
    s = fma(t, set(1.5707964f), mul(t, s));
    F c = set(0.00090376654f);
    c = fma(c, square, set(-0.020860165f));
    c = fma(c, square, set(0.25366923f));
    c = fma(c, square, set(-1.2337005f));
    c = fma(c, square, set(1.0f));
    const I quarter = right<30>(nearest);
    const M odd = equal(andi(quarter, seti(1)), seti(1));
    // Quarters 1 and 2 have a negative cosine, 2 and 3 a negative sine.
    const I minus_cosine = left<31>(xori(quarter, right<1>(quarter))), minus_sine = left<31>(right<1>(quarter));
    cosine = real(xori(bits(choose(odd, s, c)), minus_cosine));
    sine = real(xori(bits(choose(odd, c, s)), minus_sine));
}

// tanh, relative error 2e-7 (Cephes: a polynomial below 0.625, the exponential above).
inline F hyperbolic_tangent(F x) {
    const F size = real(andi(bits(x), seti(0x7FFFFFFFu)));
    const F square = mul(x, x);
    F p = set(-5.70498872745E-3f);
    p = fma(p, square, set(2.06390887954E-2f));
    p = fma(p, square, set(-5.37397155531E-2f));
    p = fma(p, square, set(1.33314422036E-1f));
    p = fma(p, square, set(-3.33332819422E-1f));
    const F near = fma(mul(x, square), p, x);
    const F far = sub(set(1.0f), div(set(2.0f), add(set(1.0f), exponential(add(size, size)))));
    const F signed_far = real(xori(bits(far), andi(bits(x), seti(0x80000000u))));
    return choose(below(size, set(0.625f)), near, signed_far);
}

}  // namespace
