// Sixteen lanes: AVX-512 F, BW, DQ, VL. The names are those of simd_portable.h, which says what each means.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace {

constexpr int W = 16;
using F = __m512;
using I = __m512i;
using M = __mmask16;

inline F set(float x) { return _mm512_set1_ps(x); }
inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline F load_bf16(const uint16_t* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
inline void store_bf16_exact(uint16_t* p, F x) {
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(x), 16)));
}
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
inline F root(F a) { return _mm512_sqrt_ps(a); }
inline F minimum(F a, F b) { return _mm512_min_ps(a, b); }
inline F maximum(F a, F b) { return _mm512_max_ps(a, b); }

inline I seti(uint32_t x) { return _mm512_set1_epi32((int)x); }
inline I loadi(const uint32_t* p) { return _mm512_loadu_si512(p); }
inline void storei(uint32_t* p, I x) { _mm512_storeu_si512(p, x); }
inline I addi(I a, I b) { return _mm512_add_epi32(a, b); }
inline I subi(I a, I b) { return _mm512_sub_epi32(a, b); }
inline I andi(I a, I b) { return _mm512_and_si512(a, b); }
inline I xori(I a, I b) { return _mm512_xor_si512(a, b); }
inline I xor3(I a, I b, I c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }
template <int K> inline I left(I a) { return _mm512_slli_epi32(a, K); }
template <int K> inline I right(I a) { return _mm512_srli_epi32(a, K); }
template <int K> inline I right_signed(I a) { return _mm512_srai_epi32(a, K); }

inline I bits(F a) { return _mm512_castps_si512(a); }
inline F real(I a) { return _mm512_castsi512_ps(a); }
inline F from_unsigned(I a) { return _mm512_cvt_roundepu32_ps(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
inline F from_signed(I a) { return _mm512_cvtepi32_ps(a); }

inline M at_most(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
inline M below(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline M equal(I a, I b) { return _mm512_cmpeq_epi32_mask(a, b); }
inline M is_nan(F a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
inline M not_below(F a, F b, M except) { return _mm512_mask_cmp_ps_mask((M)~except, a, b, _CMP_NLT_UQ); }
inline M either(M a, M b) { return (M)(a | b); }
inline M no_lane() { return 0; }
inline bool any(M m) { return m != 0; }
inline uint32_t lanes(M m) { return m; }
inline M from_lanes(uint32_t m) { return (M)m; }
inline F choose(M m, F yes, F no) { return _mm512_mask_blend_ps(m, no, yes); }

inline void products(I x, I m, I& high, I& low) {
    const I even = _mm512_mul_epu32(x, m);
    const I odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), m);
    high = _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
    low = _mm512_mask_shuffle_epi32(even, 0xAAAA, odd, _MM_PERM_CCAA);
}

// Lane 4 L + j of the counters holds block 4 j + L, so that the transposition below needs no moves across 128 bits.
inline I lane_blocks() { return _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15); }
inline void in_order(I w[4]) {
    const I a = _mm512_unpacklo_epi32(w[0], w[1]), b = _mm512_unpackhi_epi32(w[0], w[1]);
    const I c = _mm512_unpacklo_epi32(w[2], w[3]), d = _mm512_unpackhi_epi32(w[2], w[3]);
    w[0] = _mm512_unpacklo_epi64(a, c);
    w[1] = _mm512_unpackhi_epi64(a, c);
    w[2] = _mm512_unpacklo_epi64(b, d);
    w[3] = _mm512_unpackhi_epi64(b, d);
}

inline void unzip(F a, F b, F& even, F& odd) {
    const I first = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    even = _mm512_permutex2var_ps(a, first, b);
    odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(first, _mm512_set1_epi32(1)), b);
}

inline F fraction(F t) { return sub(t, _mm512_roundscale_ps(t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)); }
// In one instruction, which also rounds the difference down: not for results that must agree in the last bit.
inline F rough_fraction(F t) { return _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
inline F scale(F x, F t) { return _mm512_scalef_ps(x, t); }

}  // namespace
