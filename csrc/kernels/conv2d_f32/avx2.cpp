// Float convolution for AVX2 and FMA: 4 output channels x 3 vectors of 8 positions, 12 sums + 3 inputs + 1 weight in registers.
#include <immintrin.h>

#include "direct.h"
#include "../conv2d/compact_avx2.h"
#include "variants.h"

namespace edgenas {
namespace {

struct Avx2 {
    using Reg = __m256;
    static constexpr int32_t kLanes = 8, kQ = 4, kMaxV = 3;
    static constexpr bool kFreeMask = false;
    static Reg set1(float f) { return _mm256_set1_ps(f); }
    static Reg load(const float* p) { return _mm256_loadu_ps(p); }
    static __m256i mask(int32_t live) { return first_lanes(live); }
    static Reg load_part(const float* p, __m256i m) { return _mm256_maskload_ps(p, m); }
    static void store(float* p, Reg v) { _mm256_storeu_ps(p, v); }
    static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
    // Assembly, because gcc otherwise moves and spills sums in the innermost loop.
    static void accumulate(Reg& sum, Reg a, Reg b) { __asm__ volatile("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b)); }
    static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
    static Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
    static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
    static Reg div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
    static Reg min(Reg a, Reg b) { return _mm256_min_ps(a, b); }
    static Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
    static Reg round(Reg a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

    // n is whole and within -126 .. 127.
    static Reg scale_by_power_of_two(Reg a, Reg n) {
        const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
        return _mm256_mul_ps(a, _mm256_castsi256_ps(exponent));
    }

    static void store_span(float* plane, int64_t limit, const OutputSpan& span, Reg v) {
        store_compact(plane, limit, span, _mm256_castps_si256(v));
    }
};

using Kernel = Direct<Avx2>;

}  // namespace

const VariantF32 kConv2dF32Avx2{"avx2",          1,           Kernel::supports, Kernel::prepared_bytes, Kernel::prepare,
                                Kernel::scratch_bytes, Kernel::pack, Kernel::compute};

}  // namespace edgenas
