// Everything between the convolutions: elementwise, pooling and layout operators, batch 1.
//
//   codes   C4: [ceil(c / 4)][pixels][4], uint8. Kernels work on whole groups: a padding lane of an output is some value
//           within the output's bits, computed from the padding lanes of the inputs.
//   floats  planar: [c][pixels]
// The arrays of a Requant hold 4 * ceil(c / 4) entries here (the executor pads them), so a group needs no special case.
// Sizes are validated before; x and y are 4-byte aligned; y may equal x in add, mul, requantize, lookup, activation_f32.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "../activation.h"
#include "../requant.h"

namespace edgenas {

// add: acc = ma * (a - za) + mb * (b - zb).  mul: acc = (a - za) * (b - zb).  b has one pixel where `broadcast`.
struct Pair {
    int32_t c;
    int64_t pixels;
    bool broadcast;
    int32_t ma, mb, za, zb;
    Requant requant;
};

// Pixels outside the image do not count.
struct Pool {
    int32_t c, h, w, kernel, stride, pad, h_out, w_out;
};

// Copies channels x_start .. x_start + count of x to y_start .. of y; both have `pixels` pixels.
struct Channels {
    int32_t x_start, y_start, count;
    int64_t pixels;
};

// scale, zero point and highest code of the quantized side.
struct Scale {
    int32_t c;
    int64_t pixels;
    float scale;
    int32_t zero_point, top;
};

// One level of a head: box logits (4 * bins, h, w) and class logits (classes, h, w), of which the cells [first, last) are meant.
struct Level {
    const float *box, *cls;
    int64_t pixels;
    int32_t w, stride, first, last;
};

struct Glue {
    const char* name;
    uint32_t needs;
    void (*add)(const Pair&, const uint8_t* a, const uint8_t* b, void* y);
    void (*mul)(const Pair&, const uint8_t* a, const uint8_t* b, void* y);
    void (*requantize)(int32_t c, int64_t pixels, int32_t zero_point, const Requant&, const uint8_t* x, void* y);
    void (*lookup)(int64_t bytes, const uint8_t* table, const uint8_t* x, uint8_t* y);
    void (*global_avgpool)(int32_t c, int64_t pixels, int32_t zero_point, const Requant&, const uint8_t* x, void* y);
    void (*maxpool)(const Pool&, const uint8_t* x, uint8_t* y, void* scratch);      // scratch: maxpool_scratch_bytes()
    void (*maxpool_f32)(const Pool&, const float* x, float* y, void* scratch);
    void (*upsample)(int32_t c, int32_t h, int32_t w, int32_t factor, const uint8_t* x, uint8_t* y);
    void (*upsample_f32)(int32_t c, int32_t h, int32_t w, int32_t factor, const float* x, float* y);
    void (*copy_channels)(const Channels&, const uint8_t* x, uint8_t* y);           // other lanes of y's groups stay as they are
    void (*quantize)(const Scale&, const float* x, uint8_t* y);                     // rint(x / scale) + zero_point, clipped; NaN gives 0
    void (*dequantize)(const Scale&, const uint8_t* x, float* y);
    void (*add_f32)(int32_t c, int64_t pixels, bool broadcast, const float* a, const float* b, float* y);
    void (*mul_f32)(int32_t c, int64_t pixels, bool broadcast, const float* a, const float* b, float* y);
    void (*global_avgpool_f32)(int32_t c, int64_t pixels, const float* x, float* y);
    void (*activation_f32)(Activation, int64_t n, const float* x, float* y);
    // Rows of y lie `anchors` apart: x1, y1, x2, y2 in input pixels, then the scores; each holds l.pixels values.
    void (*decode_level)(const Level& l, int32_t bins, int32_t classes, int64_t anchors, float* y);
};

constexpr int64_t maxpool_scratch_bytes(int64_t w, int64_t pad) { return 2 * (w + 2 * pad) * 4; }

// Fastest first; one body, compiled with the flags of each instruction set. The last row is "reference".
std::span<const Glue> glue_variants();

}  // namespace edgenas
