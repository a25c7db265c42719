// The functions of abi.h: the path of this processor, and as many threads as the caller allows and the work is worth.
#ifdef DITHER_STD_THREADS  // for the thread sanitizer, which does not see that OpenMP's threads wait for one another
#include <thread>
#include <vector>
#else
#include <omp.h>
#endif

#include <cstring>

#include "paths.h"

namespace {

#if defined(__x86_64__)
const Paths* const known[] = {&dither_avx512, &dither_avx2, &dither_portable};
bool runs(const Paths* path) {
    if (path == &dither_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl");
    return path != &dither_avx2 || (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
}
#elif defined(__aarch64__)
const Paths* const known[] = {&dither_neon, &dither_portable};
bool runs(const Paths*) { return true; }
#else
const Paths* const known[] = {&dither_portable};
bool runs(const Paths*) { return true; }
#endif

const Paths* best() {
    for (const Paths* path : known)
        if (runs(path)) return path;
    return &dither_portable;
}

const Paths* active = best();

constexpr int64_t WORTH = 1 << 15;  // values for which waking another thread pays

// The sum of f(part, parts) over all parts, each on its thread.
template <class Part> int64_t parallel(int64_t work, int32_t threads, Part f) {
    const int64_t useful = work / WORTH;
    const int parts = (int)(useful < 2 || threads < 2 ? 1 : useful < threads ? useful : threads);
    if (parts == 1) return f(0, 1);
    int64_t total = 0;
#ifdef DITHER_STD_THREADS
    std::vector<int64_t> totals(parts);
    std::vector<std::thread> running;
    for (int part = 0; part < parts; part++) running.emplace_back([&, part] { totals[part] = f(part, parts); });
    for (int part = 0; part < parts; part++) running[part].join(), total += totals[part];
#else
#pragma omp parallel num_threads(parts) reduction(+ : total)
    total += f(omp_get_thread_num(), omp_get_num_threads());
#endif
    return total;
}

// The same for f(begin, end) of [0, count), in pieces of whole `step`s.
template <class Piece> int64_t split(int64_t count, int64_t step, int64_t work, int32_t threads, Piece f) {
    const int64_t steps = (count + step - 1) / step;
    return parallel(work, threads, [&](int64_t part, int64_t parts) {
        const int64_t end = steps * (part + 1) / parts * step;
        return (int64_t)f(steps * part / parts * step, end < count ? end : count);
    });
}

int64_t size(const DitherRows& rows) { return rows.lead * rows.batch * rows.units; }

}  // namespace

#define IN_PARTS(WORK, CALL) \
    parallel(WORK, threads, [&](int part, int parts) -> int64_t { CALL; return 0; })
#define IN_PIECES(COUNT, STEP, WORK, CALL) \
    split(COUNT, STEP, WORK, threads, [&](int64_t begin, int64_t end) -> int64_t { CALL; return 0; })

extern "C" {

int32_t dither_abi(void) { return 3; }

const char* dither_path(void) { return active->name; }

int32_t dither_set_path(const char* name) {
    for (const Paths* path : known)
        if (!strcmp(path->name, name) && runs(path)) {
            active = path;
            return 1;
        }
    return 0;
}

void dither_words(uint64_t seed, uint64_t site, uint32_t stream, int64_t example, int64_t sample, uint32_t block,
                  int64_t blocks, uint32_t* out) {
    active->words(seed, site, stream, example, sample, block, blocks, out);
}

int64_t dither_multiply_adds(int64_t steps, float* out, int32_t threads) {
    const int64_t lanes =
        parallel(threads * WORTH, threads, [&](int part, int) { return active->multiply_adds(steps, out + 16 * part); });
    return lanes / threads;
}

int64_t dither_uniform(const DitherRows* rows, float* out, int32_t threads) {
    return IN_PARTS(size(*rows), active->uniform(*rows, out, part, parts));
}

int64_t dither_normal(const DitherRows* rows, float* out, int32_t threads) {
    return IN_PARTS(size(*rows), active->normal(*rows, out, part, parts));
}

int64_t dither_bernoulli(const DitherRows* rows, const DitherInput* logits, const float* bias, float low, float high, void* out,
                         uint64_t* packed, void* probabilities, int32_t threads) {
    return IN_PARTS(size(*rows),
                    return active->bernoulli(*rows, *logits, bias, low, high, out, packed, probabilities, part, parts));
}

int64_t dither_categorical(const DitherRows* rows, const DitherInput* logits, int64_t categories, void* out, int32_t threads) {
    return IN_PARTS(size(*rows), return active->categorical(*rows, *logits, categories, out, part, parts));
}

int64_t dither_noisy_relu(const DitherRows* rows, const DitherInput* logits, float scale, void* out, int32_t threads) {
    return IN_PARTS(size(*rows), active->noisy_relu(*rows, *logits, scale, out, part, parts));
}

int64_t dither_noisy_tanh(const DitherRows* rows, const DitherInput* logits, float before, float after, void* out, void* inner,
                          int32_t threads) {
    return IN_PARTS(size(*rows), active->noisy_tanh(*rows, *logits, before, after, out, inner, part, parts));
}

int64_t dither_salt_and_pepper(const DitherRows* rows, const DitherInput* input, float rate, float low, float high, void* out,
                               int32_t threads) {
    return IN_PARTS(size(*rows), active->salt_and_pepper(*rows, *input, rate, low, high, out, part, parts));
}

int64_t dither_threshold(const float* logits, const float* noise, float* out, int64_t count, int32_t threads) {
    return IN_PIECES(count, 16, count, return active->threshold(logits, noise, out, begin, end));
}

int64_t dither_gumbel_max(const float* logits, const float* noise, float* out, int64_t rows, int64_t units, int64_t categories,
                          int32_t threads) {
    return IN_PIECES(rows, 1, rows * units,
                     return active->gumbel_max(logits, noise, units, categories, out, begin, end));
}

int64_t dither_straight_through(const void* gradient, const void* logits, int32_t dtype, float factor, void* out, int64_t count,
                                int32_t threads) {
    return IN_PIECES(count, 16, count, active->straight_through(gradient, logits, dtype, factor, out, begin, end));
}

int64_t dither_packed_score(const uint64_t* packed, const float* logits, const float* advantage, int64_t advantage_row,
                            int64_t advantage_unit, float* out, int64_t rows, int64_t units, int32_t threads) {
    return IN_PIECES(rows, 1, rows * units,
                     active->packed_score(packed, logits, advantage, advantage_row, advantage_unit, out, units, begin, end));
}

int64_t dither_packed_log_prob(const uint64_t* packed, const float* logits, float* out, int64_t rows, int64_t units,
                               int32_t threads) {
    return IN_PIECES(rows, 1, rows * units, active->packed_log_prob(packed, logits, out, units, begin, end));
}

int64_t dither_log_prob(const float* logits, const float* x, int64_t repeat, float* out, int64_t rows, int64_t units,
                        int32_t threads) {
    return IN_PIECES(rows, 1, rows * units, active->log_prob(logits, x, repeat, out, units, begin, end));
}

int64_t dither_log_prob_gradient(const float* gradient, const float* logits, const float* x, int64_t repeat, float* out,
                                 int64_t rows, int64_t units, int32_t threads) {
    return IN_PIECES(rows, 1, rows * units,
                     active->log_prob_gradient(gradient, logits, x, repeat, out, units, begin, end));
}

int64_t dither_pack(const void* values, int32_t dtype, uint64_t* packed, int64_t rows, int64_t units, int32_t threads) {
    return IN_PIECES(rows, 1, rows * units, active->pack(values, dtype, packed, units, begin, end));
}

int64_t dither_unpack(const uint64_t* packed, float low, float high, int32_t dtype, void* out, int64_t rows, int64_t units,
                      int32_t threads) {
    return IN_PIECES(rows, 1, rows * units, active->unpack(packed, low, high, dtype, out, units, begin, end));
}

int64_t dither_turn_bits(const uint64_t* packed, uint64_t* out, int64_t rows, int64_t columns, int32_t threads) {
    return IN_PIECES((columns + 63) / 64, 1, rows * columns / 8, active->turn_bits(packed, out, rows, columns, begin, end));
}

int64_t dither_packed_linear(const uint64_t* packed, const float* weight, const float* bias, float* out, int64_t rows,
                             int64_t inputs, int64_t outputs, int32_t threads) {
    return -IN_PARTS(rows * inputs * outputs / 64,
                     return !active->packed_linear(packed, weight, bias, out, rows, inputs, outputs, part, parts));
}

int64_t dither_packed_outer(const uint64_t* turned, const float* gradient, float* out, int64_t inputs, int64_t batch,
                            int64_t outputs, int32_t added, int32_t threads) {
    return -IN_PARTS(inputs * batch * outputs / 64,
                     return !active->packed_outer(turned, gradient, out, inputs, batch, outputs, added, part, parts));
}
}
