// Binary samples h = 1[u < sigmoid(a)] for logits a, by u (1 + e^-a) < 1.
#pragma once
#include "elementary.h"
#include "rows.h"

namespace {

// By the high bits alone; `open`: the lanes where they do not suffice. With H the high bits, u lies between H 2^-16 and
// (H + 1) 2^-16; the margins of 1/2 are far above the error of exp2_rough. A NaN is left open.
inline M by_high_bits(F a, I high, M& open) {
    const F s = add(set(1.0f), exp2_rough(mul(a, set(-LOG2E))));
    const F rest = fnma(from_signed(high), s, set(65535.5f));
    const M one = at_most(s, rest);
    open = either(open, not_below(rest, set(-1.0f), one));
    return one;
}

inline M by_all_bits(F a, I word) {
    const F u = scaled_uniform(word);
    return below(fma(u, exponential(sub(set(0.0f), a)), u), set(4294967296.0f));
}

// Logits as they are, or with a bias.
template <class T, bool BIASED> inline F logit(const T* a, const float* bias, int i) {
    const F x = Type<T>::get(a + i);
    return BIASED ? add(x, load(bias + i)) : x;
}

// low or high for each bit.
template <class T> inline void write_bits(uint64_t bits, float low, float high, T* out) {
    for (int v = 0; v < 64; v += W) Type<T>::put(out + v, choose(from_lanes((uint32_t)(bits >> v)), set(high), set(low)));
}

// The samples of one group of 128 units, 64 bits for each half, and with VALUES what they stand for. `a` holds 128 logits,
// `bias` as much. Returns whether there is a NaN.
template <class T, bool BIASED, bool VALUES>
inline bool sample(const T* a, const float* bias, const Noise& noise, int64_t group, float if_not, float if_so, uint64_t out[2],
                   T* values) {
    const uint32_t* high = noise.main + group * GROUP_WORDS;
    out[0] = out[1] = 0;
    M open = no_lane();
    for (int v = 0; v < GROUP_WORDS; v += W) {
        const I word = loadi(high + v);
        const M first = by_high_bits((logit<T, BIASED>(a, bias, v)), andi(word, seti(0xFFFF)), open);
        const M second = by_high_bits((logit<T, BIASED>(a, bias, 64 + v)), right<16>(word), open);
        out[0] |= (uint64_t)lanes(first) << v;
        out[1] |= (uint64_t)lanes(second) << v;
        if (VALUES) {
            Type<T>::put(values + v, choose(first, set(if_so), set(if_not)));
            Type<T>::put(values + 64 + v, choose(second, set(if_so), set(if_not)));
        }
    }
    if (!any(open)) return false;
    alignas(64) uint32_t low[GROUP_WORDS];
    noise.low(group, 1, low);
    out[0] = out[1] = 0;
    M nan = no_lane();
    for (int v = 0; v < GROUP_WORDS; v += W) {
        I first, second;
        join_halves(high + v, low + v, first, second);
        const F a0 = (logit<T, BIASED>(a, bias, v)), a1 = (logit<T, BIASED>(a, bias, 64 + v));
        nan = either(nan, either(is_nan(a0), is_nan(a1)));
        out[0] |= (uint64_t)lanes(by_all_bits(a0, first)) << v;
        out[1] |= (uint64_t)lanes(by_all_bits(a1, second)) << v;
    }
    if (VALUES) write_bits(out[0], if_not, if_so, values), write_bits(out[1], if_not, if_so, values + 64);
    return any(nan);
}

inline uint64_t first_bits(int64_t n) { return n >= 64 ? ~0ull : n <= 0 ? 0 : (1ull << n) - 1; }

// The same for the first `count` units of a group.
template <class T, bool BIASED>
inline bool sample_some(const T* a, const float* bias, int64_t count, const Noise& noise, int64_t group, float if_not,
                        float if_so, uint64_t out[2], T* values) {
    alignas(64) T logits[GROUP_UNITS] = {}, samples[GROUP_UNITS];
    alignas(64) float added[GROUP_UNITS] = {};
    memcpy(logits, a, count * sizeof(T));
    if (BIASED) memcpy(added, bias, count * sizeof(float));
    const bool nan = sample<T, BIASED, true>(logits, added, noise, group, if_not, if_so, out, samples);
    out[0] &= first_bits(count), out[1] &= first_bits(count - 64);
    if (values) memcpy(values, samples, count * sizeof(T));
    return nan;
}

// Samples of this thread's rows, as `low` or `high` (out), as packed bits (words of 64, rows of divided_up(units, 64)), or
// both; sigmoid(a) if `probabilities` is not null. Returns the number of groups with a NaN.
template <class T, bool BIASED>
inline int64_t bernoulli(const DitherRows& rows, const DitherInput& logits, const float* bias, float low, float high, T* out,
                         uint64_t* packed, T* probabilities, int part, int parts) {
    int64_t bad = 0;
    const int64_t row_words = divided_up(rows.units, 64);
    over_rows<HighBits>(rows, part, parts, [&](int64_t row, int64_t first, int64_t units, const Noise& noise) {
        const T* a = (const T*)logits.data + offset_of(rows, logits, row) + first;
        T* values = out ? out + row * rows.units + first : nullptr;
        if (probabilities)
            in_steps(a, probabilities + row * rows.units + first, units, [&](int64_t i, const T* x, T* to) {
                float b[W] = {};
                if (BIASED) memcpy(b, bias + first + i, smaller(W, units - i) * sizeof(float));
                Type<T>::put(to, sigmoid(add(Type<T>::get(x), load(b))));
            });
        uint64_t* words = packed ? packed + row * row_words + first / 64 : nullptr;
        for (int64_t g = 0, left = units; left > 0; g++, left -= GROUP_UNITS, a += GROUP_UNITS) {
            uint64_t h[2];
            T* to = values ? values + g * GROUP_UNITS : nullptr;
            const float* own_bias = BIASED ? bias + first + g * GROUP_UNITS : nullptr;
            if (left < GROUP_UNITS)
                bad += sample_some<T, BIASED>(a, own_bias, left, noise, g, low, high, h, to);
            else if (values)
                bad += sample<T, BIASED, true>(a, own_bias, noise, g, low, high, h, to);
            else
                bad += sample<T, BIASED, false>(a, own_bias, noise, g, low, high, h, to);
            if (words) words[2 * g] = h[0];
            if (words && left > 64) words[2 * g + 1] = h[1];
        }
    });
    return bad;
}

}  // namespace
