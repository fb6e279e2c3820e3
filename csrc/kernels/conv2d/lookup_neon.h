// What the NEON kernels on byte planes (lookup.h) share: packing, widening of byte sums, epilogue. Lanes are 16 consecutive output
// positions, blocks are 4 output channels. Internal linkage: only files compiled for NEON may include it.
#pragma once
#include <algorithm>

#include "finish_neon.h"
#include "lookup.h"

namespace edgenas {
namespace {

constexpr int32_t kBlock = 4;               // output channels of a block
constexpr int32_t kLanes = 16;

// Below, most of the 16 lanes would be empty and the int8-style kernels are as fast.
constexpr int32_t kLeastPositions = 8;

// Bytes of 16 pixels of one C4 plane, channel by channel; nothing is read behind `left` pixels.
inline uint8x16x4_t load_pixels(const uint8_t* from, int64_t left) {
    if (left >= kLanes) return vld4q_u8(from);
    uint8_t pixels[4 * kLanes] = {};
    std::memcpy(pixels, from, static_cast<size_t>(4 * left));
    return vld4q_u8(pixels);
}

inline uint8x16_t raised(uint8x16_t codes, int32_t bits) { return vshlq_u8(codes, vdupq_n_s8(static_cast<int8_t>(bits))); }

// Puts four bytes of which `used` bits hold codes into as few as lookup_fold says.
inline void fold(uint8x16_t (&byte)[4], int32_t index_bits, int32_t used) {
    const int32_t spare = index_bits - used;
    switch (lookup_fold(index_bits, used)) {
        case 1:
            byte[0] = vorrq_u8(vorrq_u8(byte[0], raised(byte[1], used)), vorrq_u8(raised(byte[2], 2 * used), raised(byte[3], 3 * used)));
            return;
        case 2:
            byte[0] = vorrq_u8(byte[0], raised(byte[2], used));
            byte[1] = vorrq_u8(byte[1], raised(byte[3], used));
            return;
        case 3:
            for (int32_t k = 0; k < 3; ++k) {
                const uint8x16_t part = vandq_u8(raised(byte[3], -k * spare), vdupq_n_u8(static_cast<uint8_t>((1 << spare) - 1)));
                byte[k] = vorrq_u8(byte[k], raised(part, used));
            }
            return;
        default: return;
    }
}

// One group of C4 planes becomes up to four byte planes; `live` masks the bits that hold codes of channels.
void pack_group(const uint8_t* c4, int64_t pixels, int32_t planes, const Lookup& l, uint32_t live, int64_t stride, uint8_t* packed) {
    const int32_t used = planes * l.code_bits, folded = lookup_fold(l.index_bits, used);
    for (int64_t at = 0; at < pixels; at += kLanes) {
        uint8x16_t byte[4] = {vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0)};
        for (int32_t s = 0; s < planes; ++s) {
            const uint8x16x4_t codes = load_pixels(c4 + 4 * (s * pixels + at), pixels - at);
            for (int i = 0; i < 4; ++i) byte[i] = vorrq_u8(byte[i], raised(codes.val[i], s * l.code_bits));
        }
        for (int i = 0; i < 4; ++i) byte[i] = vandq_u8(byte[i], vdupq_n_u8(static_cast<uint8_t>(live >> (8 * i))));
        fold(byte, l.index_bits, used);
        for (int i = 0; i < folded; ++i) vst1q_u8(packed + i * stride + at, byte[i]);
    }
}

// Scratch: byte planes as packed (pixel after pixel), then in padded form where the layer needs it.
struct Scratch {
    int64_t packed_stride, packed_bytes, total;
};

Scratch scratch_of(const Conv2d& c, const Planes& planes, int32_t index_bits) {
    constexpr int64_t kSlack = 256;         // whole vectors are stored and loaded past the last pixel
    const int64_t byte_planes = lookup_byte_planes(index_bits, lookup_code_bits(c), c.c_in);
    Scratch s{};
    s.packed_stride = planes.copied ? (static_cast<int64_t>(c.h) * c.w + kLanes + 63) / 64 * 64 : planes.size;
    s.packed_bytes = byte_planes * s.packed_stride + kSlack;
    s.total = s.packed_bytes + (planes.copied ? byte_planes * planes.size + kSlack : 0);
    return s;
}

// Where the kernel reads.
inline const uint8_t* placed_planes(const Conv2d& c, const Lookup& l, const void* scratch) {
    return static_cast<const uint8_t*>(scratch) + (l.planes.copied ? scratch_of(c, l.planes, l.index_bits).packed_bytes : 0);
}

void pack(const Conv2d& c, const void* prepared, const uint8_t* x, void* scratch, Share share) {
    const Lookup& l = *static_cast<const Lookup*>(prepared);
    const Scratch s = scratch_of(c, l.planes, l.index_bits);
    const int64_t pixels = static_cast<int64_t>(c.h) * c.w, stride = s.packed_stride;
    uint8_t* packed = static_cast<uint8_t*>(scratch);
    const int32_t group = l.index_bits / l.code_bits, c4 = (c.c_in + 3) / 4, groups = (c4 + group - 1) / group;
    const int32_t begin = begin_of(share, groups), end = end_of(share, groups);
    for (int32_t i = begin; i < end; ++i) {
        const int32_t first = i * group;
        pack_group(x + first * pixels * 4, pixels, std::min(group, c4 - first), l,
                   lookup_live_bits(l.code_bits, std::min(4 * group, c.c_in - 4 * first)), stride, packed + 4 * i * stride);
    }
    if (!l.planes.copied) return;
    const uint8_t* outside = lookup_part<uint8_t>(l, l.outside);
    for (int64_t p = 4 * begin; p < std::min(4 * end, l.byte_planes); ++p)
        fill_byte_plane(l.planes, packed + p * stride, outside[p], packed + s.packed_bytes + p * l.planes.size);
}

// Sums of 16 positions, uint16: the first 8, the last 8.
using Widened = uint16_t[2][8];

inline void widen(Widened& to, uint8x16_t sums, bool first) {
    const uint8x8_t low = vget_low_u8(sums), high = vget_high_u8(sums);
    vst1q_u16(to[0], first ? vmovl_u8(low) : vaddw_u8(vld1q_u16(to[0]), low));
    vst1q_u16(to[1], first ? vmovl_u8(high) : vaddw_u8(vld1q_u16(to[1]), high));
}

// The codes of 16 positions, one byte each.
inline uint8x16_t threshold_bytes(const Widened& sums, const uint16_t* threshold, int32_t count, uint8_t flip) {
    const uint16x8_t low = vld1q_u16(sums[0]), high = vld1q_u16(sums[1]);
    uint16x8_t low_code = vdupq_n_u16(0), high_code = vdupq_n_u16(0);
    for (int32_t k = 0; k < count; ++k) {
        const uint16x8_t t = vdupq_n_u16(threshold[k]);
        low_code = vsubq_u16(low_code, vcgeq_u16(low, t));
        high_code = vsubq_u16(high_code, vcgeq_u16(high, t));
    }
    return veorq_u8(vcombine_u8(vmovn_u16(low_code), vmovn_u16(high_code)), vdupq_n_u8(flip));
}

// Interleaves four byte vectors of 16 positions into C4 elements and stores them.
inline void store_c4(uint8_t* plane, const OutputSpan* spans, const uint8x16x4_t& code) {
    if ((spans[0].lanes & spans[1].lanes & spans[2].lanes & spans[3].lanes) == 0xF) return vst4q_u8(plane + 4 * spans[0].out, code);
    uint8_t elements[4 * kLanes];
    vst4q_u8(elements, code);
    for (int i = 0; i < 4; ++i) store_span(plane, spans[i], vld1q_u8(elements + 16 * i));
}

// int32 sums of 16 positions, the offset added.
inline void spread(const Widened& sums, int32_t offset, int32_t* to) {
    for (int i = 0; i < 4; ++i) {
        const int32x4_t wide = vreinterpretq_s32_u32(vmovl_u16(vld1_u16(sums[i / 2] + 4 * (i % 2))));
        vst1q_s32(to + 4 * i, vaddq_s32(wide, vdupq_n_s32(offset)));
    }
}

// Finishes the channels c .. c+3 at the 16 positions of each of `vectors` vectors.
void finish_tile(const Conv2d& conv, const Lookup& l, int32_t c, int32_t v, int32_t vectors, const Widened* sums, void* y) {
    const OutputSpan* spans = lookup_part<OutputSpan>(l, l.span) + 4 * v;
    const int64_t pixels = static_cast<int64_t>(conv.h_out) * conv.w_out;
    for (int32_t i = 0; i < vectors; ++i, spans += 4) {
        if (!l.fast) {
            alignas(16) int32_t wide[kBlock][kLanes];
            for (int q = 0; q < kBlock; ++q) spread(sums[q * vectors + i], lookup_part<int32_t>(l, l.offset)[c + q], wide[q]);
            finish(conv, c, Sums<4>{wide[0], spans}, y);
            continue;
        }
        const uint16_t* threshold = lookup_part<uint16_t>(l, l.threshold) + c * kLookupThresholds;
        const uint8_t* flip = lookup_part<uint8_t>(l, l.flip) + c;
        uint8x16x4_t code;
        for (int q = 0; q < kBlock; ++q)
            code.val[q] = threshold_bytes(sums[q * vectors + i], threshold + q * kLookupThresholds, conv.requant.levels - 1, flip[q]);
        store_c4(static_cast<uint8_t*>(y) + c / 4 * pixels * 4, spans, code);
    }
}

// run(first vector, vectors, block) for every tile of this share.
template <class Run>
inline void for_tiles(const Lookup& l, Share share, int32_t most, Run run) {
    const GridPart part = part_of(share, l.vectors, l.blocks, most, false);
    for (int32_t v = part.vector, n; v < part.vectors_end; v += n) {
        n = std::min(part.vectors_end - v, most);
        for (int32_t b = part.block; b < part.blocks_end; ++b) run(v, n, b);
    }
}

}  // namespace
}  // namespace edgenas
