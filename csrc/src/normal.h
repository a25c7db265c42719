// Uniform and normal noise by itself, and its consumers: noisy rectifier and tanh, salt-and-pepper corruption.
#pragma once
#include "elementary.h"
#include "rows.h"

namespace {

// Box-Muller within each pair of words: sqrt(-2 log u) (cos, sin)(2 pi v).
struct Normals {
    static constexpr uint32_t STREAM = PAIRS;
    static constexpr int64_t UNITS = GROUP_WORDS;
    static inline void transform(I x[4]) {
        for (int pair = 0; pair < 2; pair++) {
            F power, f, cosine, sine;
            split(scaled_uniform(x[2 * pair]), power, f);
            const F radius = root(mul(set(-2.0f), joined(sub(power, set(32.0f)), f)));
            turn(x[2 * pair + 1], cosine, sine);
            x[2 * pair] = bits(mul(radius, cosine)), x[2 * pair + 1] = bits(mul(radius, sine));
        }
    }
};

inline void uniform(const DitherRows& rows, float* out, int part, int parts) {
    over_rows<HighBits>(rows, part, parts, [&](int64_t row, int64_t first, int64_t units, const Noise& noise) {
        alignas(64) uint32_t words[RUN_GROUPS * GROUP_UNITS];
        unit_words(noise, units, words);
        in_steps(words, out + row * rows.units + first, units, [](int64_t, const uint32_t* w, float* to) {
            store(to, mul(scaled_uniform(loadi(w)), set(2.3283064e-10f)));
        });
    });
}

inline void normal(const DitherRows& rows, float* out, int part, int parts) {
    over_rows<Normals>(rows, part, parts, [&](int64_t row, int64_t first, int64_t units, const Noise& noise) {
        memcpy(out + row * rows.units + first, noise.main, units * sizeof(float));
    });
}

// max(0, a + scale z).
template <class T>
inline void noisy_relu(const DitherRows& rows, const DitherInput& logits, float deviation, T* out, int part, int parts) {
    over_rows<Normals>(rows, part, parts, [&](int64_t row, int64_t first, int64_t units, const Noise& noise) {
        const float* z = (const float*)noise.main;
        in_steps((const T*)logits.data + offset_of(rows, logits, row) + first, out + row * rows.units + first, units,
                 [&](int64_t i, const T* a, T* to) {
                     Type<T>::put(to, maximum(set(0.0f), add(Type<T>::get(a), mul(set(deviation), load(z + i)))));
                 });
    });
}

// tanh(a + before z1) + after z2, with two normals a unit: rows.units counts normals. `inner`, if not null, gets the tanh.
template <class T>
inline void noisy_tanh(const DitherRows& rows, const DitherInput& logits, float before, float after, T* out, T* inner, int part,
                       int parts) {
    over_rows<Normals>(rows, part, parts, [&](int64_t row, int64_t first, int64_t normals, const Noise& noise) {
        const float* z = (const float*)noise.main;
        const int64_t place = row * (rows.units / 2) + first / 2;
        T* tanhs = inner ? inner + place : nullptr;
        const int64_t units = normals / 2;
        in_steps((const T*)logits.data + offset_of(rows, logits, row) + first / 2, out + place, units,
                 [&](int64_t i, const T* a, T* to) {
                     F z1, z2;
                     unzip(load(z + 2 * i), load(z + 2 * i + W), z1, z2);
                     const F t = hyperbolic_tangent(add(Type<T>::get(a), mul(set(before), z1)));
                     if (tanhs) {
                         T all[W];
                         Type<T>::put(all, t);
                         memcpy(tanhs + i, all, smaller(W, units - i) * sizeof(T));
                     }
                     Type<T>::put(to, add(t, mul(set(after), z2)));
                 });
    });
}

// low where u < rate / 2, high where rate / 2 <= u < rate, else x.
template <class T>
inline void salt_and_pepper(const DitherRows& rows, const DitherInput& input, float rate, float low, float high, T* out,
                            int part, int parts) {
    const F half = set(rate * 0.5f * 4294967296.0f), all = set(rate * 4294967296.0f);
    over_rows<HighBits>(rows, part, parts, [&](int64_t row, int64_t first, int64_t units, const Noise& noise) {
        alignas(64) uint32_t words[RUN_GROUPS * GROUP_UNITS];
        unit_words(noise, units, words);
        in_steps((const T*)input.data + offset_of(rows, input, row) + first, out + row * rows.units + first, units,
                 [&](int64_t i, const T* x, T* to) {
                     const F u = scaled_uniform(loadi(words + i));
                     const F changed = choose(below(u, half), set(low), set(high));
                     Type<T>::put(to, choose(below(u, all), changed, Type<T>::get(x)));
                 });
    });
}

}  // namespace
