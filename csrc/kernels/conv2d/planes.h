// The input of a convolution as planes in which every kernel tap is one constant offset, and where its outputs go.
//
// Output pixels are numbered by flat positions p = y * row + x. The input element of tap (ky, kx) at position p is then
// plane[p + tap_offset(ky, kx)] for all p at once, so kernels run over vectors of consecutive positions and never see a row.
//   stride 1   a plane is the image with `pad` rows above and below and `pad` elements after each row; these also serve as
//              the left padding of the next row, so a row costs pad elements, not 2 pad
//   stride 2   even and odd rows and columns of the padded image lie in separate phase planes, in which the taps move by
//              whole elements
// Positions with x >= w_out are gaps: computed, never stored. An element is 4 bytes (a C4 group or a float), or 1 byte
// (a packed code of the lookup kernels).
#pragma once
#include <cstddef>
#include <cstdint>

#include "../share.h"

namespace edgenas {

struct Planes {
    int32_t h, w, kernel, stride, pad, h_out, w_out;
    int32_t phases;                 // per dimension: 1 or 2
    int32_t row;                    // elements from one row of a (phase) plane to the next
    int32_t rows;                   // rows of a (phase) plane
    int32_t phase_size;             // elements of a phase plane
    int32_t size;                   // elements of a plane: phases^2 * phase_size
    int32_t positions;              // (h_out - 1) * row + w_out
    bool copied;                    // false: the tensor itself already has this form (1x1, stride 1, no padding)
};

template <class Conv>
static inline Planes planes_of(const Conv& c) {
    Planes p{c.h, c.w, c.kernel, c.stride, c.pad, c.h_out, c.w_out, 1, 0, 0, 0, 0, 0, true};
    p.phases = c.kernel < c.stride ? c.kernel : c.stride;
    const int32_t reach = (c.kernel - 1) / c.stride;
    p.copied = !(c.kernel == 1 && c.stride == 1 && c.pad == 0);
    p.row = c.stride == 1 ? c.w + c.pad : c.w_out + reach;
    p.rows = c.stride == 1 ? c.h + 2 * c.pad : c.h_out + reach;
    // One row of slack holds the right padding of the last row; rounding keeps planes aligned for the copy.
    p.phase_size = p.copied ? (p.rows * p.row + c.pad + 15) / 16 * 16 : c.h * c.w;
    p.size = p.phases * p.phases * p.phase_size;
    p.positions = (c.h_out - 1) * p.row + c.w_out;
    return p;
}

static inline int32_t tap_offset(const Planes& p, int32_t ky, int32_t kx) {
    const int32_t phase = (ky % p.stride) * p.phases + kx % p.stride;
    return phase * p.phase_size + (ky / p.stride) * p.row + kx / p.stride;
}

// Where a vector of consecutive positions goes: its lanes without the gaps (bit i = lane i is stored) fill the output plane
// from element `out` on, in order.
struct OutputSpan {
    int32_t out;
    uint32_t lanes;
};

// spans: [ceil(positions / width)], width at most 32.
void output_spans(const Planes&, int32_t width, OutputSpan* spans);

// Copies one plane of 4-byte elements into padded form; `outside` is the padding element. dst: [size]. Shares are rows.
void fill_plane(const Planes&, const uint32_t* src, uint32_t outside, uint32_t* dst, Share);

// The same for a whole plane of bytes.
void fill_byte_plane(const Planes&, const uint8_t* src, uint8_t outside, uint8_t* dst);

}  // namespace edgenas
