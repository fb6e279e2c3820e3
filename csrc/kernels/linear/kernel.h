// Fully connected layer, batch 1, on a whole tensor (C, H, W) read in that order; the output is (c_out, 1, 1).
// Codes in C4, floats planar, packed weights [c_out] rows of [c][h][w], as in conv2d/kernel.h; padding lanes are written 0.
// Shares are groups of four output channels.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../activation.h"
#include "../requant.h"
#include "../share.h"

namespace edgenas {

struct Linear {
    int32_t c_in;
    int64_t pixels;
    int32_t c_out, wbits, zero_point;
    const uint8_t* weights;
    Requant requant;
};

// prepared: int8 [c_out][bytes of the C4 input], in the order of the input's bytes, padding weights 0; then the int32
// [c_out] sums of each row times the zero point.
size_t linear_prepared_bytes(const Linear&);
void linear_prepare(const Linear&, void* prepared);
void linear(const Linear&, const void* prepared, const uint8_t* x, void* y, Share);

// weights [c_out][c_in], bias [c_out] or null.
void linear_f32(int64_t c_in, int32_t c_out, const float* weights, const float* bias, Activation act, const float* x, float* y, Share);

}  // namespace edgenas
