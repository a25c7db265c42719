// Four lanes: NEON of aarch64. The names are those of simd_portable.h, which says what each means.
//
// NEON's own minimum, maximum and conversions differ from x86's for NaN and in rounding, so those are spelled out here.
#pragma once
#include <arm_neon.h>

#include <cstdint>

namespace {

constexpr int W = 4;
using F = float32x4_t;
using I = uint32x4_t;
using M = uint32x4_t;  // all bits of a lane, or none

inline F set(float x) { return vdupq_n_f32(x); }
inline F load(const float* p) { return vld1q_f32(p); }
inline F load_bf16(const uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
inline void store(float* p, F x) { vst1q_f32(p, x); }
inline void store_bf16_exact(uint16_t* p, F x) { vst1_u16(p, vshrn_n_u32(vreinterpretq_u32_f32(x), 16)); }
inline F add(F a, F b) { return vaddq_f32(a, b); }
inline F sub(F a, F b) { return vsubq_f32(a, b); }
inline F mul(F a, F b) { return vmulq_f32(a, b); }
inline F div(F a, F b) { return vdivq_f32(a, b); }
inline F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
inline F fnma(F a, F b, F c) { return vfmsq_f32(c, a, b); }
inline F root(F a) { return vsqrtq_f32(a); }
inline F minimum(F a, F b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
inline F maximum(F a, F b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }

inline I seti(uint32_t x) { return vdupq_n_u32(x); }
inline I loadi(const uint32_t* p) { return vld1q_u32(p); }
inline void storei(uint32_t* p, I x) { vst1q_u32(p, x); }
inline I addi(I a, I b) { return vaddq_u32(a, b); }
inline I subi(I a, I b) { return vsubq_u32(a, b); }
inline I andi(I a, I b) { return vandq_u32(a, b); }
inline I xori(I a, I b) { return veorq_u32(a, b); }
inline I xor3(I a, I b, I c) { return veorq_u32(veorq_u32(a, b), c); }
template <int K> inline I left(I a) { return vshlq_n_u32(a, K); }
template <int K> inline I right(I a) { return vshrq_n_u32(a, K); }
template <int K> inline I right_signed(I a) { return vreinterpretq_u32_s32(vshrq_n_s32(vreinterpretq_s32_u32(a), K)); }

inline I bits(F a) { return vreinterpretq_u32_f32(a); }
inline F real(I a) { return vreinterpretq_f32_u32(a); }
inline F from_signed(I a) { return vcvtq_f32_s32(vreinterpretq_s32_u32(a)); }
inline F from_unsigned(I a) {
    // The conversion rounds to nearest, so it gets only the 24 bits from the highest one on, which it holds exactly.
    const int32x4_t zeros = vreinterpretq_s32_u32(vclzq_u32(a));
    return vcvtq_f32_u32(vandq_u32(a, vshlq_u32(vdupq_n_u32(0xFFFFFF00u), vnegq_s32(zeros))));
}

inline M at_most(F a, F b) { return vcleq_f32(a, b); }
inline M below(F a, F b) { return vcltq_f32(a, b); }
inline M equal(I a, I b) { return vceqq_u32(a, b); }
inline M is_nan(F a) { return vmvnq_u32(vceqq_f32(a, a)); }
inline M not_below(F a, F b, M except) { return vmvnq_u32(vorrq_u32(vcltq_f32(a, b), except)); }
inline M either(M a, M b) { return vorrq_u32(a, b); }
inline M no_lane() { return vdupq_n_u32(0); }
inline M lane_bits() {
    const uint32_t each[W] = {1, 2, 4, 8};
    return vld1q_u32(each);
}
inline uint32_t lanes(M m) { return vaddvq_u32(vandq_u32(m, lane_bits())); }
inline bool any(M m) { return vmaxvq_u32(m) != 0; }
inline M from_lanes(uint32_t m) { return vtstq_u32(vdupq_n_u32(m), lane_bits()); }
inline F choose(M m, F yes, F no) { return vbslq_f32(m, yes, no); }

inline void products(I x, I m, I& high, I& low) {
    const I first = vreinterpretq_u32_u64(vmull_u32(vget_low_u32(x), vget_low_u32(m)));
    const I second = vreinterpretq_u32_u64(vmull_high_u32(x, m));
    low = vuzp1q_u32(first, second);
    high = vuzp2q_u32(first, second);
}

inline I lane_blocks() {
    const uint32_t each[W] = {0, 1, 2, 3};
    return vld1q_u32(each);
}
inline void in_order(I w[4]) {
    const I a = vzip1q_u32(w[0], w[2]), b = vzip2q_u32(w[0], w[2]);
    const I c = vzip1q_u32(w[1], w[3]), d = vzip2q_u32(w[1], w[3]);
    w[0] = vzip1q_u32(a, c);
    w[1] = vzip2q_u32(a, c);
    w[2] = vzip1q_u32(b, d);
    w[3] = vzip2q_u32(b, d);
}

inline void unzip(F a, F b, F& even, F& odd) {
    even = vuzp1q_f32(a, b);
    odd = vuzp2q_f32(a, b);
}

inline F clamped(F t) { return minimum(set(128.0f), maximum(set(-126.0f), t)); }
inline F fraction(F t) {
    t = clamped(t);
    return sub(t, vrndmq_f32(t));
}
inline F rough_fraction(F t) { return fraction(t); }
inline F scale(F x, F t) {
    const I power = vreinterpretq_u32_s32(vcvtq_s32_f32(vrndmq_f32(clamped(t))));  // left<23> of a NaN's: 0
    return real(addi(bits(x), left<23>(power)));
}

}  // namespace
