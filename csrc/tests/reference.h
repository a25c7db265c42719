// The noise and the elementary functions once more, from what rows.h, philox.h and bernoulli.h say alone: one number at a time,
// with none of their code, and in double where they are approximate.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>

namespace reference {

using Block = std::array<uint32_t, 4>;

// Philox4x32-10, from the paper.
inline Block philox(Block x, uint32_t k0, uint32_t k1) {
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        const uint64_t p0 = 0xD2511F53ull * x[0], p1 = 0xCD9E8D57ull * x[2];
        x = {(uint32_t)(p1 >> 32) ^ x[1] ^ k0, (uint32_t)p1, (uint32_t)(p0 >> 32) ^ x[3] ^ k1, (uint32_t)p0};
    }
    return x;
}

enum Stream : uint32_t { HIGH, LOW, PAIRS };

// 2^32 u: the first 24 bits of the word, and a half.
inline float scaled_uniform(uint32_t word) {
    int cut = 0;
    while (word >> cut >= 1u << 24) cut++;
    return (float)(word >> cut << cut) + 0.5f;
}

// The noise of one row.
struct Row {
    uint32_t k0, k1;
    int64_t example, sample;

    Row(uint64_t seed, uint64_t site, int64_t example, int64_t sample) : example(example), sample(sample) {
        const Block x = philox({(uint32_t)site, (uint32_t)(site >> 32), 0, 0}, (uint32_t)seed, (uint32_t)(seed >> 32));
        k0 = x[0], k1 = x[1];
    }
    uint32_t word(uint32_t stream, uint64_t index) const {
        const auto above = (uint32_t)((uint64_t)sample * 65536 + (uint64_t)example / 4294967296ull);
        return philox({(uint32_t)(index / 4), (uint32_t)example, above, stream}, k0, k1)[index % 4];
    }
    uint32_t unit_word(uint64_t unit) const {
        const uint64_t in_group = unit % 128, index = unit / 128 * 64 + in_group % 64;
        const uint32_t high = word(HIGH, index), low = word(LOW, index);
        return in_group < 64 ? high << 16 | (low & 0xFFFF) : (high & 0xFFFF0000u) | low >> 16;
    }
    double normal(uint64_t unit) const {
        const double u = scaled_uniform(word(PAIRS, unit & ~1ull)) / 4294967296.0;
        const double angle = 2 * M_PI * (word(PAIRS, unit | 1) / 4294967296.0);
        return sqrt(-2 * log(u)) * (unit & 1 ? sin(angle) : cos(angle));
    }
};

inline double sigmoid(double a) { return 1 / (1 + exp(-a)); }

// log sigmoid(a), also where e^-a overflows.
inline double log_sigmoid(double a) { return a < 0 ? a - log1p(exp(a)) : -log1p(exp(-a)); }

}  // namespace reference
