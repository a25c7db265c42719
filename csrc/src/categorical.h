// One-hot samples by the Gumbel-max trick: argmax_k (a_k + g_k), g = -log(-log(1 - u)).
#pragma once
#include <cstdlib>

#include "elementary.h"
#include "rows.h"

namespace {

constexpr int64_t NO_MEMORY = -((int64_t)1 << 60);  // negative whatever other threads count

// The winner among `count` categories. Categories at +inf share all the mass; -1 where a logit is NaN or all are -inf.
inline int64_t winner(const float* scores, const float* gumbels, int64_t count) {
    int64_t best = 0;
    bool nan = false;
    for (int64_t k = 0; k < count; k++) {
        nan |= scores[k] != scores[k];
        if (scores[k] > scores[best]) best = k;
    }
    if (nan || scores[best] == -INFINITY) return -1;
    if (scores[best] < INFINITY) return best;
    for (int64_t k = best + 1; k < count; k++)  // `best` is the first of them
        if (scores[k] == INFINITY && gumbels[k] > gumbels[best]) best = k;
    return best;
}

// Scores a + g and Gumbel noise g of `count` logits, whose uniforms are uniform(i).
template <class T, class Uniform>
inline void score(const T* logits, Uniform uniform, int64_t count, float* scores, float* gumbels) {
    in_steps(logits, scores, count, [&](int64_t i, const T* a, float* to) {
        const F u = uniform(i), minus_g = logarithm(exponential_of(u));
        const F g = choose(below(set(0.0f), u), sub(set(0.0f), minus_g), set(INFINITY));
        store(to, add(Type<T>::get(a), g));
        float all[W];
        store(all, g);
        memcpy(gumbels + i, all, smaller(W, count - i) * sizeof(float));
    });
}

// One-hot winners of the units of a row. Returns the number of units without one; they get NaN.
template <class T>
inline int64_t winners(const float* scores, const float* gumbels, int64_t count, int64_t categories, T* out) {
    T one[W], nan[W];
    Type<T>::put(one, set(1.0f)), Type<T>::put(nan, set(NAN));
    memset(out, 0, count * sizeof(T));
    int64_t bad = 0;
    for (int64_t k = 0; k < count; k += categories) {
        const int64_t best = winner(scores + k, gumbels + k, categories);
        if (best >= 0) {
            out[k + best] = one[0];
            continue;
        }
        bad++;
        for (int64_t i = 0; i < categories; i++) out[k + i] = nan[0];
    }
    return bad;
}

// rows.units logits a row, in units of `categories`. Returns the number of units without a winner, or NO_MEMORY.
template <class T>
inline int64_t categorical(const DitherRows& rows, const DitherInput& logits, int64_t categories, T* out, int part, int parts) {
    int64_t bad = 0;
    float* scores = (float*)malloc(2 * rows.units * sizeof(float));
    if (!scores) return NO_MEMORY;
    float* gumbels = scores + rows.units;
    const auto body = [&](int64_t row, int64_t first, int64_t units, const Noise& noise) {
        alignas(64) uint32_t words[RUN_GROUPS * GROUP_UNITS];
        unit_words(noise, units, words);
        const auto uniform = [&](int64_t i) { return mul(scaled_uniform(loadi(words + i)), set(2.3283064e-10f)); };
        score((const T*)logits.data + offset_of(rows, logits, row) + first, uniform, units, scores + first, gumbels + first);
        if (first + units == rows.units) bad += winners(scores, gumbels, rows.units, categories, out + row * rows.units);
    };
    over_rows<HighBits>(rows, part, parts, body, true);
    free(scores);
    return bad;
}

// The same of uniforms, for rows [begin, end) of `units` logits.
inline int64_t gumbel_max(const float* logits, const float* noise, int64_t units, int64_t categories, float* out, int64_t begin,
                          int64_t end) {
    float* scores = (float*)malloc(2 * units * sizeof(float));
    if (!scores) return NO_MEMORY;
    int64_t bad = 0;
    for (int64_t row = begin; row < end; row++) {
        const float* own = noise + row * units;
        const auto uniform = [&](int64_t i) {
            float u[W];
            for (int64_t j = 0; j < W; j++) u[j] = i + j < units ? own[i + j] : 0.5f;
            return load(u);
        };
        score(logits + row * units, uniform, units, scores, scores + units);
        bad += winners(scores, scores + units, units, categories, out + row * units);
    }
    free(scores);
    return bad;
}

}  // namespace
