// Float convolution for NEON: on aarch64 8 output channels x 3 vectors of 4 positions, 24 sums + 3 inputs + 2 weights of
// 32 registers; on armv7 4 x 2, of 16.
#include "../../runtime/cpu.h"
#include "../conv2d/compact_neon.h"
#include "direct.h"
#include "variants.h"

namespace edgenas {
namespace {

struct Neon {
    using Reg = float32x4_t;
#if defined(__aarch64__)
    static constexpr int32_t kLanes = 4, kQ = 8, kMaxV = 3;
#else
    static constexpr int32_t kLanes = 4, kQ = 4, kMaxV = 2;
#endif
    static constexpr bool kFreeMask = false;
    static Reg set1(float f) { return vdupq_n_f32(f); }
    static Reg load(const float* p) { return vld1q_f32(p); }
    static int32_t mask(int32_t live) { return live; }
    static Reg load_part(const float* p, int32_t live) {
        return vreinterpretq_f32_u8(load_lanes(reinterpret_cast<const uint8_t*>(p), live));
    }
    static void store(float* p, Reg v) { vst1q_f32(p, v); }
    static Reg fma(Reg a, Reg b, Reg c) { return vfmaq_f32(c, a, b); }
    static void accumulate(Reg& sum, Reg a, Reg b) { sum = vfmaq_f32(sum, a, b); }
    static Reg add(Reg a, Reg b) { return vaddq_f32(a, b); }
    static Reg sub(Reg a, Reg b) { return vsubq_f32(a, b); }
    static Reg mul(Reg a, Reg b) { return vmulq_f32(a, b); }
    static Reg min(Reg a, Reg b) { return vminq_f32(a, b); }
    static Reg max(Reg a, Reg b) { return vmaxq_f32(a, b); }
#if defined(__aarch64__)
    static Reg div(Reg a, Reg b) { return vdivq_f32(a, b); }
    static Reg round(Reg a) { return vrndnq_f32(a); }
#else
    // armv7 divides and rounds only scalars; here two Newton steps on the estimate of 1 / b, and the rounding of a large addend
    // (|a| < 2^22).
    static Reg div(Reg a, Reg b) {
        Reg r = vrecpeq_f32(b);
        r = vmulq_f32(r, vrecpsq_f32(b, r));
        r = vmulq_f32(r, vrecpsq_f32(b, r));
        return vmulq_f32(a, r);
    }
    static Reg round(Reg a) {
        const Reg large = vdupq_n_f32(12582912.0f);         // 1.5 * 2^23
        return vsubq_f32(vaddq_f32(a, large), large);
    }
#endif

    // n is whole and within -126 .. 127.
    static Reg scale_by_power_of_two(Reg a, Reg n) {
        const int32x4_t exponent = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
        return vmulq_f32(a, vreinterpretq_f32_s32(exponent));
    }

    static void store_span(float* plane, int64_t, const OutputSpan& span, Reg v) {
        edgenas::store_span(plane, span, vreinterpretq_u8_f32(v));
    }
};

using Kernel = Direct<Neon>;

}  // namespace

const VariantF32 kConv2dF32Neon{"neon",           cpu::kNeon, Kernel::supports, Kernel::prepared_bytes, Kernel::prepare,
                                Kernel::scratch_bytes, Kernel::pack, Kernel::compute};

}  // namespace edgenas
