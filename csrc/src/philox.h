// Philox4x32-10 (Salmon et al. 2011), W counters at a time. A counter is
//
//     (block, example mod 2^32, sample 2^16 + example div 2^32, stream)
//
// and block b of an example holds the words 4 b ... 4 b + 3 of that stream.
#pragma once
#include "simd.h"

namespace {

constexpr uint32_t MULTIPLIER_0 = 0xD2511F53u, MULTIPLIER_1 = 0xCD9E8D57u;
constexpr uint32_t WEYL_0 = 0x9E3779B9u, WEYL_1 = 0xBB67AE85u;
constexpr int SET = 4 * W;       // words of W blocks
constexpr int TABLE_BLOCKS = 2048;  // what is prepared at a time: 24 KiB

// The keys of all rounds. They begin with the first two words of the counter (site, 0, 0) under the key `seed`.
struct Key {
    uint32_t round[20];

    Key(uint64_t seed, uint64_t site) {
        uint32_t x[4] = {(uint32_t)site, (uint32_t)(site >> 32), 0, 0};
        spread((uint32_t)seed, (uint32_t)(seed >> 32));
        for (int r = 0; r < 10; r++) {
            const uint64_t p0 = (uint64_t)MULTIPLIER_0 * x[0], p1 = (uint64_t)MULTIPLIER_1 * x[2];
            x[0] = (uint32_t)(p1 >> 32) ^ x[1] ^ round[2 * r], x[1] = (uint32_t)p1;
            x[2] = (uint32_t)(p0 >> 32) ^ x[3] ^ round[2 * r + 1], x[3] = (uint32_t)p0;
        }
        spread(x[0], x[1]);
    }

    void spread(uint32_t k0, uint32_t k1) {
        for (int r = 0; r < 10; r++, k0 += WEYL_0, k1 += WEYL_1) round[2 * r] = k0, round[2 * r + 1] = k1;
    }
};

// The part of the first two rounds that the examples share, for up to TABLE_BLOCKS consecutive blocks of a stream: after
// two rounds the counter is (a ^ its own, b, c ^ its own, its own).
struct Table {
    alignas(64) uint32_t words[3 * TABLE_BLOCKS];

    void prepare(const Key& key, uint32_t stream, uint32_t first_block, int64_t blocks) {
        for (int64_t b = 0; b < blocks; b += W) {
            I high, low;
            products(addi(seti(first_block + (uint32_t)b), lane_blocks()), seti(MULTIPLIER_0), high, low);
            uint32_t* entry = words + 3 * b;
            storei(entry + 2 * W, low);
            products(xori(high, seti(key.round[1] ^ stream)), seti(MULTIPLIER_1), high, low);
            storei(entry, high), storei(entry + W, low);
        }
    }
};

// The part of the first two rounds that is one example's own.
struct Example {
    uint32_t x0, x2, x3;
    Example(const Key& key, int64_t id, int64_t sample) {
        const uint32_t c2 = (uint32_t)(sample << 16) + (uint32_t)(id >> 32);
        const uint64_t p1 = (uint64_t)MULTIPLIER_1 * c2;
        const uint64_t p0 = (uint64_t)MULTIPLIER_0 * ((uint32_t)(p1 >> 32) ^ (uint32_t)id ^ key.round[0]);
        x0 = (uint32_t)p1 ^ key.round[2];
        x2 = (uint32_t)(p0 >> 32) ^ key.round[3];
        x3 = (uint32_t)p0;
    }
};

// N sets of blocks at once, for what a processor can do while it waits for a product: x[n] = the words of W blocks, one
// vector for each of the four words.
template <int N> inline void rounds(const Key& key, const uint32_t* table, const Example& example, I x[N][4]) {
    const I m0 = seti(MULTIPLIER_0), m1 = seti(MULTIPLIER_1);
    for (int n = 0; n < N; n++) {
        const uint32_t* entry = table + 3 * W * n;
        x[n][0] = xori(loadi(entry), seti(example.x0)), x[n][1] = loadi(entry + W);
        x[n][2] = xori(loadi(entry + 2 * W), seti(example.x2)), x[n][3] = seti(example.x3);
    }
#pragma GCC unroll 8
    for (int r = 2; r < 10; r++) {
        const I k0 = seti(key.round[2 * r]), k1 = seti(key.round[2 * r + 1]);
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) {
            I high0, low0, high1, low1;
            products(x[n][0], m0, high0, low0);
            products(x[n][2], m1, high1, low1);
            x[n][0] = xor3(high1, x[n][1], k0), x[n][1] = low1;
            x[n][2] = xor3(high0, x[n][3], k1), x[n][3] = low0;
        }
    }
}

struct Words {  // as they are
    static inline void transform(I*) {}
};

// N sets, each word of a block transformed with the others of its block, in order.
template <class Kind, int N> inline void some(const Key& key, const uint32_t* table, const Example& example, uint32_t* out) {
    I x[N][4];
    rounds<N>(key, table, example, x);
    for (int n = 0; n < N; n++) {
        Kind::transform(x[n]);
        in_order(x[n]);
        for (int j = 0; j < 4; j++) storei(out + SET * n + W * j, x[n][j]);
    }
}

// `sets` sets of blocks, whose entries of the table begin at `table`.
template <class Kind>
inline void fill(const Key& key, const uint32_t* table, const Example& example, int64_t sets, uint32_t* out) {
    int64_t s = 0;
    for (; s + 4 <= sets; s += 4) some<Kind, 4>(key, table + 3 * W * s, example, out + SET * s);
    for (; s + 2 <= sets; s += 2) some<Kind, 2>(key, table + 3 * W * s, example, out + SET * s);
    if (s < sets) some<Kind, 1>(key, table + 3 * W * s, example, out + SET * s);
}

}  // namespace
