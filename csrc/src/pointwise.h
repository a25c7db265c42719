// Element by element, of flat arrays or of rows, of uniforms, if any.
#pragma once
#include "bernoulli.h"

namespace {

// 1[u < sigmoid(a)] of uniforms; NaN where a logit is. Returns whether there was one.
inline int64_t threshold(const float* logits, const float* noise, float* out, int64_t begin, int64_t end) {
    M nan = no_lane();
    in_steps(logits + begin, out + begin, end - begin, [&](int64_t i, const float* a, float* to) {
        float u[W] = {};
        memcpy(u, noise + begin + i, smaller(W, end - begin - i) * sizeof(float));
        const F x = load(a), v = load(u);
        const M one = below(fma(v, exponential(sub(set(0.0f), x)), v), set(1.0f));
        nan = either(nan, is_nan(x));
        store(to, choose(is_nan(x), x, choose(one, set(1.0f), set(0.0f))));
    });
    return any(nan);
}

// The gradient of a straight-through unit, factor * gradient * p (1 - p) with p = sigmoid(a).
template <class T>
inline void straight_through(const T* gradient, const T* logits, float factor, T* out, int64_t begin, int64_t end) {
    in_steps(logits + begin, out + begin, end - begin, [&](int64_t i, const T* a, T* to) {
        T g[W] = {};
        memcpy(g, gradient + begin + i, smaller(W, end - begin - i) * sizeof(T));
        const F p = sigmoid(Type<T>::get(a));
        Type<T>::put(to, mul(mul(set(factor), Type<T>::get(g)), mul(p, sub(set(1.0f), p))));
    });
}

// (h - sigmoid(a)) times the advantage of the row, or of each unit, for packed samples h.
inline void packed_score(const uint64_t* packed, const float* logits, const float* advantage, int64_t advantage_row,
                         int64_t advantage_unit, float* out, int64_t units, int64_t begin, int64_t end) {
    const int64_t words = divided_up(units, 64);
    for (int64_t row = begin; row < end; row++) {
        const uint64_t* h = packed + row * words;
        const float* own = advantage + row * advantage_row;
        in_steps(logits + row * units, out + row * units, units, [&](int64_t i, const float* a, float* to) {
            const F score = sub(choose(from_lanes((uint32_t)(h[i / 64] >> (i % 64))), set(1.0f), set(0.0f)), sigmoid(load(a)));
            float weights[W] = {};
            if (advantage_unit) memcpy(weights, own + i, smaller(W, units - i) * sizeof(float));
            store(to, mul(score, advantage_unit ? load(weights) : set(*own)));
        });
    }
}

// log sigmoid(x) = min(x, 0) - log(1 + e^-|x|).
inline F log_sigmoid(F x) {
    const F e = exponential(sub(set(0.0f), real(andi(bits(x), seti(0x7FFFFFFFu)))));
    F power, f;
    split(add(set(1.0f), e), power, f);
    f = choose(equal(bits(power), seti(0)), e, f);  // 1 + e may have been rounded
    return sub(minimum(set(0.0f), x), joined(power, f));
}

// log P(h) of packed samples, summed over the units of a row, in float64.
inline void packed_log_prob(const uint64_t* packed, const float* logits, float* out, int64_t units, int64_t begin,
                            int64_t end) {
    const int64_t words = divided_up(units, 64);
    for (int64_t row = begin; row < end; row++) {
        const uint64_t* h = packed + row * words;
        double sum = 0;
        for (int64_t i = 0; i < units; i += W) {
            float a[W], each[W];
            const int64_t n = smaller(W, units - i);
            for (int64_t j = 0; j < W; j++) a[j] = INFINITY;  // log 1 = 0 beyond the last unit
            memcpy(a, logits + row * units + i, n * sizeof(float));
            const uint32_t on = (uint32_t)(h[i / 64] >> (i % 64)) | (n < W ? ~0u << n : 0);
            const F x = load(a);
            store(each, log_sigmoid(choose(from_lanes(on), x, sub(set(0.0f), x))));
            for (int64_t j = 0; j < W; j++) sum += each[j];
        }
        out[row] = (float)sum;
    }
}

// log P(x) = x log sigmoid(a) + (1 - x) log sigmoid(-a) for x in [0, 1], summed over the units of a row; 0 times infinity is 0.
// Row r has its x in row r / repeat. Sixteen sums, whatever W is, so that all paths add in the same order.
inline void log_prob(const float* logits, const float* x, int64_t repeat, float* out, int64_t units, int64_t begin,
                     int64_t end) {
    constexpr int SUMS = 16;
    for (int64_t row = begin; row < end; row++) {
        const float *a = logits + row * units, *of = x + row / repeat * units;
        F sums[SUMS / W];
        for (F& sum : sums) sum = set(0.0f);
        for (int64_t i = 0; i < units; i += SUMS) {
            float last_a[SUMS], last_x[SUMS];
            const float *from_a = a + i, *from_x = of + i;
            if (i + SUMS > units) {
                for (int j = 0; j < SUMS; j++) last_a[j] = INFINITY, last_x[j] = 1.0f;  // log 1 = 0 beyond the last unit
                memcpy(last_a, from_a, (units - i) * sizeof(float)), memcpy(last_x, from_x, (units - i) * sizeof(float));
                from_a = last_a, from_x = last_x;
            }
            for (int j = 0; j < SUMS / W; j++) {
                const F logit = load(from_a + j * W), v = load(from_x + j * W);
                const F size = real(andi(bits(logit), seti(0x7FFFFFFFu)));
                const F weight = choose(below(logit, set(0.0f)), v, sub(set(1.0f), v));  // of the less likely outcome
                const M none = equal(andi(bits(weight), seti(0x7FFFFFFFu)), seti(0));
                sums[j] = add(sums[j], sub(log_sigmoid(size), choose(none, set(0.0f), mul(size, weight))));
            }
        }
        float each[SUMS];
        for (int j = 0; j < SUMS / W; j++) store(each + j * W, sums[j]);
        double sum = 0;
        for (float one : each) sum += one;
        out[row] = (float)sum;
    }
}

// Its gradient, (x - sigmoid(a)) times that of the row's sum.
inline void log_prob_gradient(const float* gradient, const float* logits, const float* x, int64_t repeat, float* out,
                              int64_t units, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
        const float* of = x + row / repeat * units;
        const F factor = set(gradient[row]);
        in_steps(logits + row * units, out + row * units, units, [&](int64_t i, const float* a, float* to) {
            float v[W] = {};
            memcpy(v, of + i, smaller(W, units - i) * sizeof(float));
            store(to, mul(factor, sub(load(v), sigmoid(load(a)))));
        });
    }
}

// A bit for every value that is not 0.
template <class T> inline void pack(const T* values, uint64_t* packed, int64_t units, int64_t begin, int64_t end) {
    const int64_t words = divided_up(units, 64);
    for (int64_t row = begin; row < end; row++)
        for (int64_t word = 0; word < words; word++) {
            const int64_t n = smaller(64, units - 64 * word);
            const T* from = values + row * units + 64 * word;
            uint64_t on = 0;
            for (int64_t i = 0; i < n; i++) on |= (uint64_t)(from[i] != 0) << i;
            packed[row * words + word] = on;
        }
}

template <class T>
inline void unpack(const uint64_t* packed, float low, float high, T* out, int64_t units, int64_t begin, int64_t end) {
    const int64_t words = divided_up(units, 64);
    for (int64_t row = begin; row < end; row++)
        for (int64_t word = 0; word < words; word++) {
            const int64_t n = smaller(64, units - 64 * word);
            T* to = out + row * units + 64 * word;
            alignas(64) T buffer[64];
            write_bits(packed[row * words + word], low, high, n == 64 ? to : buffer);
            if (n < 64) memcpy(to, buffer, n * sizeof(T));
        }
}

}  // namespace
