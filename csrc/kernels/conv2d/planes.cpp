#include "planes.h"

#include <algorithm>
#include <cstring>

namespace edgenas {
namespace {

void fill(uint32_t* dst, int64_t n, uint32_t value) {
    for (int64_t i = 0; i < n; ++i) dst[i] = value;
}

// Stride 1: [pad rows][row, pad]...[pad rows], shifted right by pad.
void fill_dense(const Planes& p, const uint32_t* src, uint32_t outside, uint32_t* dst) {
    const int64_t head = static_cast<int64_t>(p.pad) * p.row + p.pad;
    fill(dst, head, outside);
    uint32_t* at = dst + head;
    for (int32_t y = 0; y < p.h; ++y, at += p.row) {
        std::memcpy(at, src + static_cast<int64_t>(y) * p.w, sizeof(uint32_t) * static_cast<size_t>(p.w));
        fill(at + p.w, p.pad, outside);
    }
    fill(at, dst + p.phase_size - at, outside);
}

// Stride 2: one row of one phase, i.e. the padded columns px, px + 2, ...
void fill_phase_row(const Planes& p, const uint32_t* src, int32_t px, uint32_t outside, uint32_t* dst) {
    const int32_t left = std::clamp((p.pad - px + 1) / 2, 0, p.row);                // columns left of the image
    const int32_t last = (p.w + p.pad - px + 1) / 2;                                // first column right of it
    const int32_t right = std::clamp(last, left, p.row);
    fill(dst, left, outside);
    const uint32_t* from = src + (2 * left + px - p.pad);
    for (int32_t i = 0; i < right - left; ++i) dst[left + i] = from[2 * i];
    fill(dst + right, p.row - right, outside);
}

void fill_phases(const Planes& p, const uint32_t* src, uint32_t outside, uint32_t* dst) {
    for (int32_t py = 0; py < p.phases; ++py)
        for (int32_t r = 0; r < p.rows; ++r) {
            const int32_t y = 2 * r + py - p.pad;
            for (int32_t px = 0; px < p.phases; ++px) {
                uint32_t* at = dst + static_cast<int64_t>(py * p.phases + px) * p.phase_size + static_cast<int64_t>(r) * p.row;
                if (y < 0 || y >= p.h) fill(at, p.row, outside);
                else fill_phase_row(p, src + static_cast<int64_t>(y) * p.w, px, outside, at);
            }
        }
}

}  // namespace

void fill_plane(const Planes& p, const uint32_t* src, uint32_t outside, uint32_t* dst) {
    if (p.stride == 1) fill_dense(p, src, outside, dst);
    else fill_phases(p, src, outside, dst);
}

void output_spans(const Planes& p, int32_t width, OutputSpan* spans) {
    int32_t out = 0;
    for (int32_t begin = 0; begin < p.positions; begin += width, ++spans) {
        spans->out = out;
        spans->lanes = 0;
        for (int32_t i = 0; i < width && begin + i < p.positions; ++i)
            if ((begin + i) % p.row < p.w_out) {
                spans->lanes |= 1u << i;
                ++out;
            }
    }
}

}  // namespace edgenas
