// The definition of the convolution with codebooks: plain loops, any CPU.
#include <cstring>

#include "variants.h"

namespace edgenas {
namespace {

int64_t row_codes(const Conv2d& c) { return static_cast<int64_t>(c.c_in / c.groups) * c.kernel * c.kernel; }

int32_t accumulate(const CodebookConv2d& b, const int8_t* w, const uint8_t* x, int32_t co, int32_t y_out, int32_t x_out) {
    const Conv2d& c = b.conv;
    const int32_t per_group = c.c_in / c.groups, first_channel = co / (c.c_out / c.groups) * per_group;
    int32_t acc = 0;
    for (int32_t ci = first_channel; ci < first_channel + per_group; ++ci) {
        const uint8_t* plane = x + static_cast<int64_t>(ci / 4) * c.h * c.w * 4 + ci % 4;
        for (int32_t ky = 0; ky < c.kernel; ++ky)
            for (int32_t kx = 0; kx < c.kernel; ++kx) {
                const int32_t yi = y_out * c.stride - c.pad + ky, xi = x_out * c.stride - c.pad + kx;
                const bool inside = yi >= 0 && yi < c.h && xi >= 0 && xi < c.w;
                const int32_t code = inside ? plane[(static_cast<int64_t>(yi) * c.w + xi) * 4] : c.zero_point;
                acc += *w++ * b.activation_levels[code];
            }
    }
    return acc;
}

bool supports(const CodebookConv2d&) { return true; }

size_t prepared_bytes(const CodebookConv2d& b) { return static_cast<size_t>(row_codes(b.conv) * b.conv.c_out); }

void prepare(const CodebookConv2d& b, void* prepared) {
    const Conv2d& c = b.conv;
    int8_t* w = static_cast<int8_t*>(prepared);
    for (int32_t co = 0; co < c.c_out; ++co)
        for (int64_t i = 0; i < row_codes(c); ++i)
            *w++ = b.weight_levels[unpack_code(c.weights + co * weight_row_bytes(row_codes(c), c.wbits), i, c.wbits)];
}

size_t scratch_bytes(const CodebookConv2d&) { return 0; }

void pack(const CodebookConv2d&, const void*, const uint8_t*, void*, Share) {}

// A share is whole groups of four output channels.
void compute(const CodebookConv2d& b, const void* prepared, const uint8_t* x, void* y, const void*, Share share) {
    const Conv2d& c = b.conv;
    const int64_t pixels = static_cast<int64_t>(c.h_out) * c.w_out;
    const bool floats = !b.sums && c.requant.kind == Epilogue::kFloat;
    const int32_t groups = (c.c_out + 3) / 4, first = begin_of(share, groups), last = end_of(share, groups);
    uint8_t* codes = static_cast<uint8_t*>(y);
    if (!floats && !b.sums) std::memset(codes + first * pixels * 4, 0, static_cast<size_t>((last - first) * pixels * 4));
    for (int32_t co = 4 * first; co < 4 * last && co < c.c_out; ++co)
        for (int64_t at = 0; at < pixels; ++at) {
            const int8_t* w = static_cast<const int8_t*>(prepared) + co * row_codes(c);
            const int32_t acc = accumulate(b, w, x, co, static_cast<int32_t>(at / c.w_out), static_cast<int32_t>(at % c.w_out));
            if (b.sums) static_cast<int32_t*>(y)[co * pixels + at] = acc;
            else if (floats) static_cast<float*>(y)[co * pixels + at] = requant_float(c.requant, co, acc);
            else codes[(co / 4 * pixels + at) * 4 + co % 4] = requant_code(c.requant, co, acc);
        }
}

}  // namespace

const CodebookVariant kCodebookReference{"reference", 0, supports, prepared_bytes, prepare, scratch_bytes, pack, compute};

}  // namespace edgenas
