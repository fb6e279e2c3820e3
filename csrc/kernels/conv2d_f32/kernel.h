// Float 2-D convolution, batch 1, planar: x [c_in][h][w], y [c_out][h_out][w_out], weights [c_out][c_in/groups][k][k].
//   y = activate(act, bias[c] + sum of w * x), zero padding. Variants add in different orders: results agree to rounding.
// The caller guarantees what conv2d/kernel.h lists for the sizes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "../activation.h"
#include "../share.h"

namespace edgenas {

struct Conv2dF32 {
    int32_t c_in, h, w;
    int32_t c_out, kernel, stride, pad, groups;
    int32_t h_out, w_out;
    const float* weights;
    const float* bias;              // [c_out] or null
    Activation act;
};

// As Variant in conv2d/kernel.h: prepared and scratch are 64-byte aligned, and a run is two phases by shares.
struct VariantF32 {
    const char* name;
    uint32_t needs;
    bool (*supports)(const Conv2dF32&);
    size_t (*prepared_bytes)(const Conv2dF32&);
    void (*prepare)(const Conv2dF32&, void* prepared);
    size_t (*scratch_bytes)(const Conv2dF32&);
    void (*pack)(const Conv2dF32&, const void* prepared, const float* x, void* scratch, Share);
    void (*compute)(const Conv2dF32&, const void* prepared, const float* x, float* y, const void* scratch, Share);
};

std::span<const VariantF32> conv2d_f32_variants();      // fastest first, last row "reference"

}  // namespace edgenas
