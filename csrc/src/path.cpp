// Compiled once for each vector type; DITHER_PATH is its name. Nothing here may leave a symbol that another vector type's code
// could be linked to in its place, so all but the table is in unnamed namespaces and no library template is used.
#include "paths.h"

#include "categorical.h"
#include "normal.h"
#include "packed.h"
#include "pointwise.h"

namespace {

// f(T()) with T the type that a dtype names.
template <class Do> inline auto typed(int32_t dtype, Do f) {
    return dtype == DITHER_BFLOAT16 ? f((uint16_t)0) : f(0.0f);
}

void words(uint64_t seed, uint64_t site, uint32_t stream, int64_t example, int64_t sample, uint32_t block, int64_t blocks,
           uint32_t* out) {
    const Key key(seed, site);
    Table table;
    table.prepare(key, stream, block, blocks);
    fill<Words>(key, table.words, Example(key, example, sample), blocks / W, out);
}

int64_t multiply_adds(int64_t steps, float* out) {
    F x[12];
    for (int i = 0; i < 12; i++) x[i] = set((float)i);
    const F factor = set(0.999f), term = set(0.001f);
    for (int64_t s = 0; s < steps; s++)
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) x[i] = fma(x[i], factor, term);
    for (int i = 1; i < 12; i++) x[0] = add(x[0], x[i]);
    store(out, x[0]);
    return W;
}

#define STRINGIFIED(x) #x
#define STRING(x) STRINGIFIED(x)
#define JOINED2(a, b) a##b
#define JOINED(a, b) JOINED2(a, b)

}  // namespace

const Paths JOINED(dither_, DITHER_PATH) = {
    STRING(DITHER_PATH),
    words,
    multiply_adds,
    uniform,
    normal,
    [](const DitherRows& rows, const DitherInput& in, const float* bias, float low, float high, void* out, uint64_t* packed,
       void* p, int part, int parts) {
        return typed(in.dtype, [&](auto t) {
            using T = decltype(t);
            const auto f = bias ? bernoulli<T, true> : bernoulli<T, false>;
            return f(rows, in, bias, low, high, (T*)out, packed, (T*)p, part, parts);
        });
    },
    [](const DitherRows& rows, const DitherInput& in, int64_t categories, void* out, int part, int parts) {
        return typed(in.dtype, [&](auto t) { return categorical(rows, in, categories, (decltype(t)*)out, part, parts); });
    },
    [](const DitherRows& rows, const DitherInput& in, float scale, void* out, int part, int parts) {
        typed(in.dtype, [&](auto t) { noisy_relu(rows, in, scale, (decltype(t)*)out, part, parts); });
    },
    [](const DitherRows& rows, const DitherInput& in, float before, float after, void* out, void* inner, int part, int parts) {
        typed(in.dtype, [&](auto t) {
            using T = decltype(t);
            noisy_tanh(rows, in, before, after, (T*)out, (T*)inner, part, parts);
        });
    },
    [](const DitherRows& rows, const DitherInput& in, float rate, float low, float high, void* out, int part, int parts) {
        typed(in.dtype, [&](auto t) { salt_and_pepper(rows, in, rate, low, high, (decltype(t)*)out, part, parts); });
    },
    threshold,
    gumbel_max,
    [](const void* gradient, const void* logits, int32_t dtype, float factor, void* out, int64_t begin, int64_t end) {
        typed(dtype, [&](auto t) {
            using T = decltype(t);
            straight_through((const T*)gradient, (const T*)logits, factor, (T*)out, begin, end);
        });
    },
    packed_score,
    packed_log_prob,
    log_prob,
    log_prob_gradient,
    [](const void* values, int32_t dtype, uint64_t* packed, int64_t units, int64_t begin, int64_t end) {
        if (dtype == DITHER_BFLOAT16) {  // minus zero is zero too
            struct Half {
                uint16_t bits;
                bool operator!=(int) const { return (bits & 0x7FFF) != 0; }
            };
            pack((const Half*)values, packed, units, begin, end);
        } else {
            pack((const float*)values, packed, units, begin, end);
        }
    },
    [](const uint64_t* packed, float low, float high, int32_t dtype, void* out, int64_t units, int64_t begin, int64_t end) {
        typed(dtype, [&](auto t) { unpack(packed, low, high, (decltype(t)*)out, units, begin, end); });
    },
    turn_bits,
    packed_linear,
    packed_outer,
};
