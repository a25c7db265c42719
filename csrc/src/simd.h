// The vector type of this translation unit; the build compiles the sources once for each.
#pragma once
#if defined(DITHER_AVX512)
#include "simd_avx512.h"
#elif defined(DITHER_AVX2)
#include "simd_avx2.h"
#elif defined(DITHER_NEON)
#include "simd_neon.h"
#else
#include "simd_portable.h"
#endif
