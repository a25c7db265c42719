// One table of functions for each vector type. Each does this part of the work, of so many parts.
#pragma once
#include "abi.h"

struct Paths {
    const char* name;
    void (*words)(uint64_t, uint64_t, uint32_t, int64_t, int64_t, uint32_t, int64_t, uint32_t*);
    int64_t (*multiply_adds)(int64_t, float*);
    void (*uniform)(const DitherRows&, float*, int, int);
    void (*normal)(const DitherRows&, float*, int, int);
    int64_t (*bernoulli)(const DitherRows&, const DitherInput&, const float*, float, float, void*, uint64_t*, void*, int, int);
    int64_t (*categorical)(const DitherRows&, const DitherInput&, int64_t, void*, int, int);
    void (*noisy_relu)(const DitherRows&, const DitherInput&, float, void*, int, int);
    void (*noisy_tanh)(const DitherRows&, const DitherInput&, float, float, void*, void*, int, int);
    void (*salt_and_pepper)(const DitherRows&, const DitherInput&, float, float, float, void*, int, int);
    int64_t (*threshold)(const float*, const float*, float*, int64_t, int64_t);
    int64_t (*gumbel_max)(const float*, const float*, int64_t, int64_t, float*, int64_t, int64_t);
    void (*straight_through)(const void*, const void*, int32_t, float, void*, int64_t, int64_t);
    void (*packed_score)(const uint64_t*, const float*, const float*, int64_t, int64_t, float*, int64_t, int64_t, int64_t);
    void (*packed_log_prob)(const uint64_t*, const float*, float*, int64_t, int64_t, int64_t);
    void (*log_prob)(const float*, const float*, int64_t, float*, int64_t, int64_t, int64_t);
    void (*log_prob_gradient)(const float*, const float*, const float*, int64_t, float*, int64_t, int64_t, int64_t);
    void (*pack)(const void*, int32_t, uint64_t*, int64_t, int64_t, int64_t);
    void (*unpack)(const uint64_t*, float, float, int32_t, void*, int64_t, int64_t, int64_t);
    void (*turn_bits)(const uint64_t*, uint64_t*, int64_t, int64_t, int64_t, int64_t);
    bool (*packed_linear)(const uint64_t*, const float*, const float*, float*, int64_t, int64_t, int64_t, int, int);
    bool (*packed_outer)(const uint64_t*, const float*, float*, int64_t, int64_t, int64_t, bool, int, int);
};

extern const Paths dither_portable, dither_avx2, dither_avx512, dither_neon;
