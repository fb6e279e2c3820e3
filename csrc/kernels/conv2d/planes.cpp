#include "planes.h"

#include <algorithm>
#include <cstring>

namespace edgenas {
namespace {

void fill(uint32_t* dst, int64_t n, uint32_t value) {
    for (int64_t i = 0; i < n; ++i) dst[i] = value;
}

void copy(uint32_t* dst, const uint32_t* src, int64_t n) { std::memcpy(dst, src, sizeof(uint32_t) * static_cast<size_t>(n)); }

void copy_alternate(uint32_t* dst, const uint32_t* src, int64_t n) {
    for (int64_t i = 0; i < n; ++i) dst[i] = src[2 * i];
}

// Stride 1: [pad rows][row, pad]...[pad rows], shifted right by pad.
void fill_dense(const Planes& p, const uint32_t* src, uint32_t outside, uint32_t* dst, Share share) {
    const int64_t head = static_cast<int64_t>(p.pad) * p.row + p.pad;
    const int32_t first = begin_of(share, p.h), last = end_of(share, p.h);
    if (share.index == 0) fill(dst, head, outside);
    uint32_t* at = dst + head + static_cast<int64_t>(first) * p.row;
    for (int32_t y = first; y < last; ++y, at += p.row) {
        copy(at, src + static_cast<int64_t>(y) * p.w, p.w);
        fill(at + p.w, p.pad, outside);
    }
    if (share.index == share.count - 1) fill(at, dst + p.phase_size - at, outside);
}

// Stride 2: one row of one phase, i.e. the padded columns px, px + 2, ...
void fill_phase_row(const Planes& p, const uint32_t* src, int32_t px, uint32_t outside, uint32_t* dst) {
    const int32_t left = std::clamp((p.pad - px + 1) / 2, 0, p.row);                // columns left of the image
    const int32_t right = std::clamp((p.w + p.pad - px + 1) / 2, left, p.row);      // the first column right of it
    fill(dst, left, outside);
    copy_alternate(dst + left, src + (2 * left + px - p.pad), right - left);
    fill(dst + right, p.row - right, outside);
}

void fill_phases(const Planes& p, const uint32_t* src, uint32_t outside, uint32_t* dst, Share share) {
    for (int32_t py = 0; py < p.phases; ++py)
        for (int32_t px = 0; px < p.phases; ++px, dst += p.phase_size)
            for (int32_t r = begin_of(share, p.rows); r < end_of(share, p.rows); ++r) {
                const int32_t y = 2 * r + py - p.pad;
                uint32_t* at = dst + static_cast<int64_t>(r) * p.row;
                if (y < 0 || y >= p.h) fill(at, p.row, outside);
                else fill_phase_row(p, src + static_cast<int64_t>(y) * p.w, px, outside, at);
            }
}

}  // namespace

void fill_plane(const Planes& p, const uint32_t* src, uint32_t outside, uint32_t* dst, Share share) {
    if (p.stride == 1) fill_dense(p, src, outside, dst, share);
    else fill_phases(p, src, outside, dst, share);
}

void fill_byte_plane(const Planes& p, const uint8_t* src, uint8_t outside, uint8_t* dst) {
    std::memset(dst, outside, static_cast<size_t>(p.size));
    if (p.stride == 1) {
        uint8_t* at = dst + p.pad * p.row + p.pad;
        for (int32_t y = 0; y < p.h; ++y) std::memcpy(at + y * p.row, src + static_cast<int64_t>(y) * p.w, static_cast<size_t>(p.w));
        return;
    }
    for (int32_t phase = 0; phase < p.phases * p.phases; ++phase, dst += p.phase_size) {
        const int32_t py = phase / p.phases, px = phase % p.phases;
        const int32_t left = std::clamp((p.pad - px + 1) / 2, 0, p.row), right = std::clamp((p.w + p.pad - px + 1) / 2, left, p.row);
        for (int32_t r = 0; r < p.rows; ++r) {
            const int32_t y = 2 * r + py - p.pad;
            if (y < 0 || y >= p.h) continue;
            const uint8_t* from = src + static_cast<int64_t>(y) * p.w + 2 * left + px - p.pad;
            uint8_t* to = dst + r * p.row + left;
            for (int32_t i = 0; i < right - left; ++i) to[i] = from[2 * i];
        }
    }
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
