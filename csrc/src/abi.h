// The interface: plain C, so that one library serves every Python and every torch; src/dither/kernels/_library.py calls it.
//
// A row is one example under one sample, with `units` contiguous values; strides count elements, packed bits are rows of
// (units + 63) / 64 little-endian words with zeros behind the last unit. `threads` is an upper limit: small work takes one.
// Functions of logits return how many rows' parts held a NaN (0: none), those that allocate a negative number where there was
// no memory.
#pragma once
#include <cstdint>

extern "C" {

// lead * batch rows: that of sample l and example b has the id ids[l * ids_lead + b] and the sample samples[l]. Their noise has
// the key that Philox makes of seed and site.
typedef struct {
    int64_t lead, batch, units;
    const int64_t* ids;
    int64_t ids_lead;
    const int64_t* samples;
    uint64_t seed, site;
} DitherRows;

enum { DITHER_FLOAT32 = 0, DITHER_BFLOAT16 = 1 };

// Values of rows: those of sample l and example b begin at data + l * lead + b * row.
typedef struct {
    const void* data;
    int64_t lead, row;
    int32_t dtype;
} DitherInput;

#define DITHER_EXPORT __attribute__((visibility("default")))

DITHER_EXPORT int32_t dither_abi(void);
DITHER_EXPORT const char* dither_path(void);            // the path in use: avx512, avx2, neon or portable
DITHER_EXPORT int32_t dither_set_path(const char* name);  // 0 if this processor (or build) has it not

// The raw stream: words 4 block ... of blocks, a multiple of 16 and at most 2048.
DITHER_EXPORT void dither_words(uint64_t seed, uint64_t site, uint32_t stream, int64_t example, int64_t sample, uint32_t block,
                                int64_t blocks, uint32_t* out);
// For benchmarks: so many steps of 12 independent fused multiply-adds on each thread; returns the lanes of one.
DITHER_EXPORT int64_t dither_multiply_adds(int64_t steps, float* out, int32_t threads);

DITHER_EXPORT int64_t dither_uniform(const DitherRows*, float* out, int32_t threads);
DITHER_EXPORT int64_t dither_normal(const DitherRows*, float* out, int32_t threads);
// bias: one float for each unit, or null. out, packed and probabilities: each may be null.
DITHER_EXPORT int64_t dither_bernoulli(const DitherRows*, const DitherInput*, const float* bias, float low, float high,
                                       void* out, uint64_t* packed, void* probabilities, int32_t threads);
DITHER_EXPORT int64_t dither_categorical(const DitherRows*, const DitherInput*, int64_t categories, void* out, int32_t threads);
DITHER_EXPORT int64_t dither_noisy_relu(const DitherRows*, const DitherInput*, float scale, void* out, int32_t threads);
DITHER_EXPORT int64_t dither_noisy_tanh(const DitherRows*, const DitherInput*, float before, float after, void* out,
                                        void* inner, int32_t threads);
DITHER_EXPORT int64_t dither_salt_and_pepper(const DitherRows*, const DitherInput*, float rate, float low, float high,
                                             void* out, int32_t threads);

DITHER_EXPORT int64_t dither_threshold(const float* logits, const float* noise, float* out, int64_t count, int32_t threads);
DITHER_EXPORT int64_t dither_gumbel_max(const float* logits, const float* noise, float* out, int64_t rows, int64_t units,
                                        int64_t categories, int32_t threads);
DITHER_EXPORT int64_t dither_straight_through(const void* gradient, const void* logits, int32_t dtype, float factor, void* out,
                                              int64_t count, int32_t threads);
DITHER_EXPORT int64_t dither_packed_score(const uint64_t* packed, const float* logits, const float* advantage,
                                          int64_t advantage_row, int64_t advantage_unit, float* out, int64_t rows,
                                          int64_t units, int32_t threads);
DITHER_EXPORT int64_t dither_packed_log_prob(const uint64_t* packed, const float* logits, float* out, int64_t rows,
                                             int64_t units, int32_t threads);
// log P(x) of x in [0, 1] under sigmoid(logits), by row, and its gradient; rows r of the logits have row r / repeat of x.
DITHER_EXPORT int64_t dither_log_prob(const float* logits, const float* x, int64_t repeat, float* out, int64_t rows,
                                      int64_t units, int32_t threads);
DITHER_EXPORT int64_t dither_log_prob_gradient(const float* gradient, const float* logits, const float* x, int64_t repeat,
                                               float* out, int64_t rows, int64_t units, int32_t threads);
DITHER_EXPORT int64_t dither_pack(const void* values, int32_t dtype, uint64_t* packed, int64_t rows, int64_t units,
                                  int32_t threads);
DITHER_EXPORT int64_t dither_unpack(const uint64_t* packed, float low, float high, int32_t dtype, void* out, int64_t rows,
                                    int64_t units, int32_t threads);
DITHER_EXPORT int64_t dither_turn_bits(const uint64_t* packed, uint64_t* out, int64_t rows, int64_t columns, int32_t threads);
DITHER_EXPORT int64_t dither_packed_linear(const uint64_t* packed, const float* weight, const float* bias, float* out,
                                           int64_t rows, int64_t inputs, int64_t outputs, int32_t threads);
DITHER_EXPORT int64_t dither_packed_outer(const uint64_t* turned, const float* gradient, float* out, int64_t inputs,
                                          int64_t batch, int64_t outputs, int32_t added, int32_t threads);
}
