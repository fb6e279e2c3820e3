// The definition of the float convolution: plain loops, any CPU. Sums in double, so it is also the most accurate variant.
#include "variants.h"

namespace edgenas {
namespace {

float output(const Conv2dF32& c, const float* x, int32_t co, int32_t y_out, int32_t x_out) {
    const int32_t per_group = c.c_in / c.groups, first = co / (c.c_out / c.groups) * per_group;
    const float* w = c.weights + static_cast<int64_t>(co) * per_group * c.kernel * c.kernel;
    double sum = c.bias ? c.bias[co] : 0.0f;
    for (int32_t i = 0; i < per_group; ++i) {
        const float* plane = x + static_cast<int64_t>(first + i) * c.h * c.w;
        for (int32_t ky = 0; ky < c.kernel; ++ky)
            for (int32_t kx = 0; kx < c.kernel; ++kx) {
                const int32_t yi = y_out * c.stride - c.pad + ky, xi = x_out * c.stride - c.pad + kx;
                if (yi < 0 || yi >= c.h || xi < 0 || xi >= c.w) continue;
                const float weight = w[(static_cast<int64_t>(i) * c.kernel + ky) * c.kernel + kx];
                sum += static_cast<double>(weight) * plane[static_cast<int64_t>(yi) * c.w + xi];
            }
    }
    return activate(c.act, static_cast<float>(sum));
}

bool supports(const Conv2dF32&) { return true; }
size_t prepared_bytes(const Conv2dF32&) { return 0; }
void prepare(const Conv2dF32&, void*) {}
size_t scratch_bytes(const Conv2dF32&) { return 0; }

void pack(const Conv2dF32&, const void*, const float*, void*, Share) {}

void compute(const Conv2dF32& c, const void*, const float* x, float* y, const void*, Share share) {
    y += static_cast<int64_t>(begin_of(share, c.c_out)) * c.h_out * c.w_out;
    for (int32_t co = begin_of(share, c.c_out); co < end_of(share, c.c_out); ++co)
        for (int32_t yo = 0; yo < c.h_out; ++yo)
            for (int32_t xo = 0; xo < c.w_out; ++xo) *y++ = output(c, x, co, yo, xo);
}

}  // namespace

const VariantF32 kConv2dF32Reference{"reference", 0, supports, prepared_bytes, prepare, scratch_bytes, pack, compute};

}  // namespace edgenas
