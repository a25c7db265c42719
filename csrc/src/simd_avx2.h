// Eight lanes: AVX2 and FMA. The names are those of simd_portable.h, which says what each means.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace {

constexpr int W = 8;
using F = __m256;
using I = __m256i;
using M = __m256;

inline F set(float x) { return _mm256_set1_ps(x); }
inline F load(const float* p) { return _mm256_loadu_ps(p); }
inline F load_bf16(const uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
inline void store(float* p, F x) { _mm256_storeu_ps(p, x); }
inline void store_bf16_exact(uint16_t* p, F x) {
    const I high = _mm256_srli_epi32(_mm256_castps_si256(x), 16);
    const I packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
    _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(packed));
}
inline F add(F a, F b) { return _mm256_add_ps(a, b); }
inline F sub(F a, F b) { return _mm256_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
inline F div(F a, F b) { return _mm256_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
inline F root(F a) { return _mm256_sqrt_ps(a); }
inline F minimum(F a, F b) { return _mm256_min_ps(a, b); }
inline F maximum(F a, F b) { return _mm256_max_ps(a, b); }

inline I seti(uint32_t x) { return _mm256_set1_epi32((int)x); }
inline I loadi(const uint32_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
inline void storei(uint32_t* p, I x) { _mm256_storeu_si256((__m256i*)p, x); }
inline I addi(I a, I b) { return _mm256_add_epi32(a, b); }
inline I subi(I a, I b) { return _mm256_sub_epi32(a, b); }
inline I andi(I a, I b) { return _mm256_and_si256(a, b); }
inline I xori(I a, I b) { return _mm256_xor_si256(a, b); }
inline I xor3(I a, I b, I c) { return xori(xori(a, b), c); }
template <int K> inline I left(I a) { return _mm256_slli_epi32(a, K); }
template <int K> inline I right(I a) { return _mm256_srli_epi32(a, K); }
template <int K> inline I right_signed(I a) { return _mm256_srai_epi32(a, K); }

inline I bits(F a) { return _mm256_castps_si256(a); }
inline F real(I a) { return _mm256_castsi256_ps(a); }
inline F from_signed(I a) { return _mm256_cvtepi32_ps(a); }
inline F from_unsigned(I a) {
    // The halves are exact, so their sum is rounded once, to nearest; where that went up, one unit back is towards zero.
    const F high = mul(from_signed(right<16>(a)), set(65536.0f)), low = from_signed(andi(a, seti(0xFFFF)));
    const F sum = add(high, low);
    const F rest = add(sub(high, sum), low);
    return real(addi(bits(sum), bits(_mm256_cmp_ps(rest, _mm256_setzero_ps(), _CMP_LT_OQ))));
}

inline M at_most(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
inline M below(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
inline M equal(I a, I b) { return real(_mm256_cmpeq_epi32(a, b)); }
inline M is_nan(F a) { return _mm256_cmp_ps(a, a, _CMP_UNORD_Q); }
inline M not_below(F a, F b, M except) { return _mm256_andnot_ps(except, _mm256_cmp_ps(a, b, _CMP_NLT_UQ)); }
inline M either(M a, M b) { return _mm256_or_ps(a, b); }
inline M no_lane() { return _mm256_setzero_ps(); }
inline uint32_t lanes(M m) { return (uint32_t)_mm256_movemask_ps(m); }
inline bool any(M m) { return lanes(m) != 0; }
inline M from_lanes(uint32_t m) {
    const I one = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return equal(andi(seti(m), one), one);
}
inline F choose(M m, F yes, F no) { return _mm256_blendv_ps(no, yes, m); }

inline void products(I x, I m, I& high, I& low) {
    const I even = _mm256_mul_epu32(x, m);
    const I odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), m);
    high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
    low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
}

// Lane 4 L + j of the counters holds block 2 j + L.
inline I lane_blocks() { return _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7); }
inline void in_order(I w[4]) {
    const I a = _mm256_unpacklo_epi32(w[0], w[1]), b = _mm256_unpackhi_epi32(w[0], w[1]);
    const I c = _mm256_unpacklo_epi32(w[2], w[3]), d = _mm256_unpackhi_epi32(w[2], w[3]);
    w[0] = _mm256_unpacklo_epi64(a, c);
    w[1] = _mm256_unpackhi_epi64(a, c);
    w[2] = _mm256_unpacklo_epi64(b, d);
    w[3] = _mm256_unpackhi_epi64(b, d);
}

inline void unzip(F a, F b, F& even, F& odd) {
    const F e = _mm256_shuffle_ps(a, b, 0x88), o = _mm256_shuffle_ps(a, b, 0xDD);
    even = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(e), 0xD8));
    odd = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(o), 0xD8));
}

inline F clamped(F t) { return minimum(set(128.0f), maximum(set(-126.0f), t)); }
inline F fraction(F t) {
    t = clamped(t);
    return sub(t, _mm256_floor_ps(t));
}
inline F rough_fraction(F t) { return fraction(t); }
inline F scale(F x, F t) {
    const I power = _mm256_cvttps_epi32(_mm256_floor_ps(clamped(t)));  // left<23> of a NaN's: 0
    return real(addi(bits(x), left<23>(power)));
}

}  // namespace
