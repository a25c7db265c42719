// Four lanes in plain C++17, and the meaning of every name that a vector type has.
//
// All floating-point operations are the correctly rounded ones of IEEE 754 (`fma` is fused), and the sources are built
// without contraction: so every vector type gives the same bits.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int W = 4;
struct F { float v[W]; };
struct I { uint32_t v[W]; };
struct M { bool v[W]; };

#define EACH for (int i = 0; i < W; i++)
template <class T, class G> inline T from_each(G g) {
    T r;
    EACH r.v[i] = g(i);
    return r;
}

inline F set(float x) { return from_each<F>([&](int) { return x; }); }
inline F load(const float* p) { return from_each<F>([&](int i) { return p[i]; }); }
inline float float_of(uint32_t x) {
    float f;
    memcpy(&f, &x, 4);
    return f;
}
inline uint32_t bits_of(float f) {
    uint32_t x;
    memcpy(&x, &f, 4);
    return x;
}
inline F load_bf16(const uint16_t* p) { return from_each<F>([&](int i) { return float_of((uint32_t)p[i] << 16); }); }
inline void store(float* p, F x) { EACH p[i] = x.v[i]; }
// Of values that bfloat16 holds exactly.
inline void store_bf16_exact(uint16_t* p, F x) { EACH p[i] = (uint16_t)(bits_of(x.v[i]) >> 16); }
inline F add(F a, F b) { return from_each<F>([&](int i) { return a.v[i] + b.v[i]; }); }
inline F sub(F a, F b) { return from_each<F>([&](int i) { return a.v[i] - b.v[i]; }); }
inline F mul(F a, F b) { return from_each<F>([&](int i) { return a.v[i] * b.v[i]; }); }
inline F div(F a, F b) { return from_each<F>([&](int i) { return a.v[i] / b.v[i]; }); }
inline F fma(F a, F b, F c) { return from_each<F>([&](int i) { return fmaf(a.v[i], b.v[i], c.v[i]); }); }  // a b + c
inline F fnma(F a, F b, F c) { return from_each<F>([&](int i) { return fmaf(-a.v[i], b.v[i], c.v[i]); }); }  // c - a b
inline F root(F a) { return from_each<F>([&](int i) { return sqrtf(a.v[i]); }); }
// As on x86: b where either is NaN.
inline F minimum(F a, F b) { return from_each<F>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
inline F maximum(F a, F b) { return from_each<F>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }

inline I seti(uint32_t x) { return from_each<I>([&](int) { return x; }); }
inline I loadi(const uint32_t* p) { return from_each<I>([&](int i) { return p[i]; }); }
inline void storei(uint32_t* p, I x) { EACH p[i] = x.v[i]; }
inline I addi(I a, I b) { return from_each<I>([&](int i) { return a.v[i] + b.v[i]; }); }
inline I subi(I a, I b) { return from_each<I>([&](int i) { return a.v[i] - b.v[i]; }); }
inline I andi(I a, I b) { return from_each<I>([&](int i) { return a.v[i] & b.v[i]; }); }
inline I xori(I a, I b) { return from_each<I>([&](int i) { return a.v[i] ^ b.v[i]; }); }
inline I xor3(I a, I b, I c) { return from_each<I>([&](int i) { return a.v[i] ^ b.v[i] ^ c.v[i]; }); }
template <int K> inline I left(I a) { return from_each<I>([&](int i) { return a.v[i] << K; }); }
template <int K> inline I right(I a) { return from_each<I>([&](int i) { return a.v[i] >> K; }); }
template <int K> inline I right_signed(I a) { return from_each<I>([&](int i) { return (uint32_t)((int32_t)a.v[i] >> K); }); }

inline I bits(F a) { return from_each<I>([&](int i) { return bits_of(a.v[i]); }); }
inline F real(I a) { return from_each<F>([&](int i) { return float_of(a.v[i]); }); }
inline F from_signed(I a) { return from_each<F>([&](int i) { return (float)(int32_t)a.v[i]; }); }
// Rounded towards zero: the lowest bits are cut off until 24 are left.
inline F from_unsigned(I a) {
    return from_each<F>([&](int i) {
        uint32_t x = a.v[i];
        for (uint32_t y = x >> 24, low = 1; y; y >>= 1, low <<= 1) x &= ~low;
        return (float)x;
    });
}

inline M at_most(F a, F b) { return from_each<M>([&](int i) { return a.v[i] <= b.v[i]; }); }
inline M below(F a, F b) { return from_each<M>([&](int i) { return a.v[i] < b.v[i]; }); }
inline M equal(I a, I b) { return from_each<M>([&](int i) { return a.v[i] == b.v[i]; }); }
inline M is_nan(F a) { return from_each<M>([&](int i) { return a.v[i] != a.v[i]; }); }
// Not a < b (so also where either is NaN), and not `except`.
inline M not_below(F a, F b, M except) { return from_each<M>([&](int i) { return !(a.v[i] < b.v[i]) && !except.v[i]; }); }
inline M either(M a, M b) { return from_each<M>([&](int i) { return a.v[i] || b.v[i]; }); }
inline M no_lane() { return from_each<M>([](int) { return false; }); }
inline uint32_t lanes(M m) {  // bit i is lane i
    uint32_t r = 0;
    EACH r |= (uint32_t)m.v[i] << i;
    return r;
}
inline bool any(M m) { return lanes(m) != 0; }
inline M from_lanes(uint32_t m) { return from_each<M>([&](int i) { return (m >> i & 1) != 0; }); }
inline F choose(M m, F yes, F no) { return from_each<F>([&](int i) { return m.v[i] ? yes.v[i] : no.v[i]; }); }

// The 64-bit product of each lane of x and m.
inline void products(I x, I m, I& high, I& low) {
    EACH {
        const uint64_t p = (uint64_t)x.v[i] * m.v[i];
        high.v[i] = (uint32_t)(p >> 32);
        low.v[i] = (uint32_t)p;
    }
}

// Which of W consecutive blocks each lane of the counters holds; `in_order` turns the four words of those blocks, one
// vector for each word, into 4 W words in the order of blocks and words.
inline I lane_blocks() { return I{{0, 1, 2, 3}}; }
inline void in_order(I w[4]) {
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < i; j++) {
            const uint32_t t = w[i].v[j];
            w[i].v[j] = w[j].v[i];
            w[j].v[i] = t;
        }
}

// Of 2 W numbers those at even places, and those at odd ones.
inline void unzip(F a, F b, F& even, F& odd) {
    float both[2 * W];
    store(both, a), store(both + W, b);
    even = from_each<F>([&](int i) { return both[2 * i]; });
    odd = from_each<F>([&](int i) { return both[2 * i + 1]; });
}

// In this order of operands a NaN stays one.
inline F clamped(F t) { return minimum(set(128.0f), maximum(set(-126.0f), t)); }
// t - floor(t), in [0, 1]; t is held in [-126, 128].
inline F fraction(F t) {
    t = clamped(t);
    return from_each<F>([&](int i) { return t.v[i] - floorf(t.v[i]); });
}
inline F rough_fraction(F t) { return fraction(t); }
// x 2^floor(t) for x in [1, 2]; t is held in [-126, 128]. NaN where x and t are.
inline F scale(F x, F t) {
    t = clamped(t);
    return from_each<F>([&](int i) {
        if (t.v[i] != t.v[i]) return x.v[i];
        return float_of(bits_of(x.v[i]) + ((uint32_t)(int32_t)floorf(t.v[i]) << 23));
    });
}

#undef EACH
}  // namespace
