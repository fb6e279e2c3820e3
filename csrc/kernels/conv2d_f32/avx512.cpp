// Float convolution for AVX-512: 8 output channels x 3 vectors of 16 positions, 24 sums + 3 inputs + 1 weight in registers.
#include <immintrin.h>

#include "direct.h"
#include "variants.h"

namespace edgenas {
namespace {

struct Avx512 {
    using Reg = __m512;
    static constexpr int32_t kLanes = 16, kQ = 8, kMaxV = 3;
    static constexpr bool kFreeMask = true;
    static Reg set1(float f) { return _mm512_set1_ps(f); }
    static Reg load(const float* p) { return _mm512_loadu_ps(p); }
    static __mmask16 mask(int32_t live) { return static_cast<__mmask16>(live >= kLanes ? 0xFFFF : (1u << live) - 1); }
    static Reg load_part(const float* p, __mmask16 m) { return _mm512_maskz_loadu_ps(m, p); }
    static void store(float* p, Reg v) { _mm512_storeu_ps(p, v); }
    static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
    // Assembly, because gcc otherwise moves and spills sums in the innermost loop.
    static void accumulate(Reg& sum, Reg a, Reg b) { __asm__ volatile("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b)); }
    static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
    static Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
    static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
    static Reg div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
    static Reg min(Reg a, Reg b) { return _mm512_min_ps(a, b); }
    static Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
    static Reg round(Reg a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static Reg scale_by_power_of_two(Reg a, Reg n) { return _mm512_scalef_ps(a, n); }

    // Drops the gaps and stores the rest; touches only the bytes of stored lanes.
    static void store_span(float* plane, int64_t, const OutputSpan& span, Reg v) {
        const __mmask16 lanes = static_cast<__mmask16>(span.lanes);
        float* to = plane + span.out;
        if (lanes == 0xFFFF) {
            _mm512_storeu_ps(to, v);
            return;
        }
        const __mmask16 packed = static_cast<__mmask16>((1u << __builtin_popcount(span.lanes)) - 1);
        _mm512_mask_storeu_ps(to, packed, _mm512_maskz_compress_ps(lanes, v));
    }
};

using Kernel = Direct<Avx512>;

}  // namespace

const VariantF32 kConv2dF32Avx512{"avx512",              3,            Kernel::supports, Kernel::prepared_bytes, Kernel::prepare,
                                  Kernel::scratch_bytes, Kernel::pack, Kernel::compute};

}  // namespace edgenas
