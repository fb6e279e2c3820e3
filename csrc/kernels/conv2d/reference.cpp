// The definition of the integer convolution: plain loops, any CPU.
#include <cstring>

#include "variants.h"

namespace edgenas {
namespace {

struct Window {                     // the part of the kernel that lies inside the image
    int32_t first, last;
};

Window clip_window(int32_t origin, int32_t kernel, int32_t size) {
    return {origin < 0 ? -origin : 0, origin + kernel > size ? size - origin : kernel};
}

int32_t accumulate(const Conv2d& c, const int8_t* w, const uint8_t* x, int32_t co, int32_t y_out, int32_t x_out) {
    const int32_t per_group = c.c_in / c.groups, first_channel = co / (c.c_out / c.groups) * per_group;
    const int32_t y0 = y_out * c.stride - c.pad, x0 = x_out * c.stride - c.pad;
    const Window wy = clip_window(y0, c.kernel, c.h), wx = clip_window(x0, c.kernel, c.w);
    int32_t acc = 0;
    for (int32_t i = 0; i < per_group; ++i) {
        const int32_t ci = first_channel + i;
        const uint8_t* plane = x + static_cast<int64_t>(ci / 4) * c.h * c.w * 4 + ci % 4;
        const int8_t* taps = w + static_cast<int64_t>(i) * c.kernel * c.kernel;
        for (int32_t ky = wy.first; ky < wy.last; ++ky)
            for (int32_t kx = wx.first; kx < wx.last; ++kx) {
                const int32_t q = plane[(static_cast<int64_t>(y0 + ky) * c.w + x0 + kx) * 4];
                acc += taps[ky * c.kernel + kx] * (q - c.zero_point);
            }
    }
    return acc;
}

bool supports(const Conv2d&) { return true; }

int64_t row_codes(const Conv2d& c) { return static_cast<int64_t>(c.c_in / c.groups) * c.kernel * c.kernel; }

size_t prepared_bytes(const Conv2d& c) { return static_cast<size_t>(row_codes(c) * c.c_out); }

void prepare(const Conv2d& c, void* prepared) {
    int8_t* w = static_cast<int8_t*>(prepared);
    for (int32_t co = 0; co < c.c_out; ++co)
        for (int64_t i = 0; i < row_codes(c); ++i)
            *w++ = static_cast<int8_t>(unpack_weight(c.weights + co * weight_row_bytes(row_codes(c), c.wbits), i, c.wbits));
}

size_t scratch_bytes(const Conv2d&) { return 0; }

void pack(const Conv2d&, const void*, const uint8_t*, void*, Share) {}

// A share is whole groups of four output channels.
void compute(const Conv2d& c, const void* prepared, const uint8_t* x, void* y, const void*, Share share) {
    const int64_t pixels = static_cast<int64_t>(c.h_out) * c.w_out;
    const bool floats = c.requant.kind == Epilogue::kFloat;
    const int32_t groups = (c.c_out + 3) / 4, first = begin_of(share, groups), last = end_of(share, groups);
    uint8_t* codes = static_cast<uint8_t*>(y);
    if (!floats) std::memset(codes + first * pixels * 4, 0, static_cast<size_t>((last - first) * pixels * 4));
    for (int32_t co = 4 * first; co < 4 * last && co < c.c_out; ++co) {
        const int8_t* w = static_cast<const int8_t*>(prepared) + co * row_codes(c);
        for (int32_t yo = 0; yo < c.h_out; ++yo)
            for (int32_t xo = 0; xo < c.w_out; ++xo) {
                const int32_t acc = accumulate(c, w, x, co, yo, xo);
                const int64_t at = static_cast<int64_t>(yo) * c.w_out + xo;
                if (floats) static_cast<float*>(y)[co * pixels + at] = requant_float(c.requant, co, acc);
                else codes[(co / 4 * pixels + at) * 4 + co % 4] = requant_code(c.requant, co, acc);
            }
    }
}

}  // namespace

const Variant kConv2dReference{"reference", 0, supports, prepared_bytes, prepare, scratch_bytes, pack, compute};

}  // namespace edgenas
