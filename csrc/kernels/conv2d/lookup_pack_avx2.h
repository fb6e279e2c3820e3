// From C4 codes to the padded byte planes of lookup.h, for AVX2: a few rows at a time are packed into a small buffer that stays in
// L1, and from there brought into place. Internal linkage: only files compiled for AVX2 may include it.
#pragma once
#include <algorithm>
#include <cstring>

#include "finish_avx2.h"
#include "lookup.h"

namespace edgenas {
namespace {

constexpr int32_t kIndexBits = 4;
constexpr int32_t kBatch = 1024;            // pixels packed at a time

inline __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store256(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

// A group of C4 planes, from some pixel on.
struct PackGroup {
    const uint8_t* c4;
    int64_t plane_bytes;                    // distance of two of them
    int64_t left;                           // pixels up to their end
    uint32_t live;                          // lookup_live_bits
};

// Brings the codes of the byte planes that lookup_fold leaves out to where the others have bits to spare.
template <int kUsed>
inline __m256i fold(__m256i codes) {
    constexpr int kSpare = kIndexBits - kUsed, kPlanes = lookup_fold(kIndexBits, kUsed);
    if constexpr (kPlanes == 1) {
        codes = _mm256_or_si256(codes, _mm256_srli_epi32(codes, 8 - kUsed));
        return _mm256_or_si256(codes, _mm256_srli_epi32(codes, 2 * (8 - kUsed)));
    }
    if constexpr (kPlanes == 2) return _mm256_or_si256(codes, _mm256_srli_epi32(codes, 16 - kUsed));
    if constexpr (kPlanes == 3) {
        __m256i folded = codes;
        for (int k = 0; k < 3; ++k) {
            const __m256i moved = _mm256_srli_epi32(codes, 24 + k * kSpare - 8 * k - kUsed);
            folded = _mm256_or_si256(folded, _mm256_and_si256(moved, _mm256_set1_epi32(((1 << kSpare) - 1) << (8 * k + kUsed))));
        }
        return folded;
    }
    return codes;
}

// 8 pixels from `at` on.
template <int kC4, int kBits>
inline __m256i pack_8(const PackGroup& g, int64_t at) {
    __m256i codes = _mm256_setzero_si256();
    const int64_t left = g.left - at;
    if (left <= 0) return codes;
    for (int i = 0; i < kC4; ++i) {
        const uint8_t* from = g.c4 + i * g.plane_bytes + 4 * at;
        const __m256i in = left >= 8 ? load256(from) : _mm256_maskload_epi32(reinterpret_cast<const int*>(from), first_lanes(static_cast<int32_t>(left)));
        codes = _mm256_or_si256(codes, _mm256_slli_epi32(in, i * kBits));
    }
    return fold<kC4 * kBits>(_mm256_and_si256(codes, _mm256_set1_epi32(static_cast<int32_t>(g.live))));
}

// Writes whole vectors of 32 pixels to the byte planes, which have the distance `stride`.
template <int kC4, int kBits>
void pack_pixels(const PackGroup& g, int64_t pixels, int64_t stride, uint8_t* to) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int64_t at = 0; at < pixels; at += 32) {
        __m256i part[4];                    // 4 pixels of each byte in turn (to_c4 is its own inverse)
        for (int i = 0; i < 4; ++i) part[i] = to_c4(pack_8<kC4, kBits>(g, at + 8 * i));
        const __m256i low01 = _mm256_unpacklo_epi32(part[0], part[1]), low23 = _mm256_unpacklo_epi32(part[2], part[3]);
        const __m256i high01 = _mm256_unpackhi_epi32(part[0], part[1]), high23 = _mm256_unpackhi_epi32(part[2], part[3]);
        const __m256i plane[4] = {_mm256_unpacklo_epi64(low01, low23), _mm256_unpackhi_epi64(low01, low23),
                                  _mm256_unpacklo_epi64(high01, high23), _mm256_unpackhi_epi64(high01, high23)};
        for (int i = 0; i < lookup_fold(kIndexBits, kC4 * kBits); ++i)
            store256(to + i * stride + at, _mm256_permutevar8x32_epi32(plane[i], order));
    }
}

using PackFn = void (*)(const PackGroup&, int64_t pixels, int64_t stride, uint8_t* to);

PackFn pack_function(int32_t c4, int32_t bits) {
    if (bits == 2) return c4 == 1 ? pack_pixels<1, 2> : pack_pixels<2, 2>;
    constexpr PackFn kBinary[] = {pack_pixels<1, 1>, pack_pixels<2, 1>, pack_pixels<3, 1>, pack_pixels<4, 1>};
    return kBinary[c4 - 1];
}

// A row of a plane that is written from left to right: what a vector leaves behind its end is overwritten by what follows, and
// nothing is written from `end` on.
struct RowWriter {
    uint8_t *at, *end;
    void put(__m256i bytes, int64_t count) {
        if (at + 32 <= end) {
            store256(at, bytes);
        } else if (at < end) {
            alignas(32) uint8_t some[32];
            store256(some, bytes);
            std::memcpy(at, some, static_cast<size_t>(end - at));
        }
        at += count;
    }
    void put_all(const uint8_t* from, int64_t count) {
        for (; count > 0; from += 32, count -= 32) put(load256(from), std::min<int64_t>(count, 32));
    }
    // Every other byte; reads up to 63 bytes past the last one.
    void put_alternate(const uint8_t* from, int64_t count) {
        const __m256i low = _mm256_set1_epi16(0x00FF);
        for (; count > 0; from += 64, count -= 32) {
            const __m256i pairs = _mm256_packus_epi16(_mm256_and_si256(load256(from), low), _mm256_and_si256(load256(from + 32), low));
            put(_mm256_permute4x64_epi64(pairs, 0xD8), std::min<int64_t>(count, 32));
        }
    }
    void fill(__m256i outside, int64_t count) {
        for (; count > 0; count -= 32) put(outside, std::min<int64_t>(count, 32));
    }
};

// Image row y into its padded place.
void place_row(const Planes& p, const uint8_t* row, int32_t y, __m256i outside, uint8_t* plane) {
    if (p.stride == 1) {
        RowWriter to{plane + static_cast<int64_t>(y + p.pad) * p.row + p.pad, plane + p.phase_size};
        to.put_all(row, p.w);
        return to.fill(outside, p.pad);
    }
    const int32_t py = (y + p.pad) % 2, r = (y + p.pad) / 2;
    if (py >= p.phases || r >= p.rows) return;
    for (int32_t px = 0; px < p.phases; ++px) {
        uint8_t* phase = plane + (py * p.phases + px) * static_cast<int64_t>(p.phase_size);
        RowWriter to{phase + static_cast<int64_t>(r) * p.row, phase + p.phase_size};
        const int32_t x = (px + p.pad) % 2, left = std::min((x + p.pad) / 2, p.row), count = std::clamp((p.w - x + 1) / 2, 0, p.row - left);
        to.fill(outside, left);
        to.put_alternate(row + x, count);
        to.fill(outside, p.row - left - count);
    }
}

// The rows above and below the image, after its own.
void place_outside(const Planes& p, uint8_t outside, uint8_t* plane) {
    const auto fill = [&](uint8_t* at, int64_t count) { if (count > 0) std::memset(at, outside, static_cast<size_t>(count)); };
    if (p.stride == 1) {
        const int64_t head = static_cast<int64_t>(p.pad) * p.row + p.pad, body = head + static_cast<int64_t>(p.h) * p.row;
        fill(plane, head);
        return fill(plane + body, p.phase_size - body);
    }
    for (int32_t phase = 0; phase < p.phases * p.phases; ++phase)
        for (int32_t r = 0; r < p.rows; ++r) {
            const int32_t y = 2 * r + phase / p.phases - p.pad;
            if (y < 0 || y >= p.h) fill(plane + phase * static_cast<int64_t>(p.phase_size) + static_cast<int64_t>(r) * p.row, p.row);
        }
}

// Scratch: a buffer of kBatch pixels and more for each group, then the planes; only the planes where nothing is padded.
struct PackScratch {
    int64_t buffer_stride, planes, total;
};

PackScratch pack_scratch(const Conv2d& c, const Planes& p) {
    constexpr int64_t kPast = 128, kSlack = 256;        // read and written past the last pixel
    const int64_t byte_planes = lookup_byte_planes(kIndexBits, lookup_code_bits(c), c.c_in), groups = (byte_planes + 3) / 4;
    const int64_t batch = std::max(kBatch, c.w);
    PackScratch s{p.copied ? (batch + kPast + 63) / 64 * 64 : p.size, 0, 0};
    s.planes = p.copied ? groups * 4 * s.buffer_stride : 0;
    s.total = s.planes + (byte_planes + 3) * p.size + kSlack;
    return s;
}

// Group t into its place.
void pack_group(const Conv2d& c, const Lookup& l, const uint8_t* x, int32_t t, uint8_t* scratch) {
    const Planes& p = l.planes;
    const PackScratch s = pack_scratch(c, p);
    const int32_t bits = l.code_bits, group = kIndexBits / bits, first = t * group;
    const int32_t c4 = std::min(group, (c.c_in + 3) / 4 - first), byte_planes = lookup_fold(kIndexBits, c4 * bits);
    const int64_t pixels = static_cast<int64_t>(c.h) * c.w;
    PackGroup g{x + first * pixels * 4, pixels * 4, pixels, lookup_live_bits(bits, std::min(4 * group, c.c_in - 4 * first))};
    const PackFn pack = pack_function(c4, bits);
    if (!p.copied) return pack(g, pixels, p.size, scratch + s.planes + 4 * t * static_cast<int64_t>(p.size));
    uint8_t *buffer = scratch + 4 * t * s.buffer_stride, *planes = scratch + s.planes + 4 * t * static_cast<int64_t>(p.size);
    const uint8_t* outside = lookup_part<uint8_t>(l, l.outside) + 4 * t;
    const int32_t batch = std::max(kBatch / c.w, 1);
    for (int32_t y = 0; y < c.h; y += batch) {
        const int32_t rows = std::min(batch, c.h - y);
        pack(g, static_cast<int64_t>(rows) * c.w, s.buffer_stride, buffer);
        g.c4 += static_cast<int64_t>(rows) * c.w * 4, g.left -= static_cast<int64_t>(rows) * c.w;
        for (int32_t i = 0; i < byte_planes; ++i)
            for (int32_t r = 0; r < rows; ++r)
                place_row(p, buffer + i * s.buffer_stride + static_cast<int64_t>(r) * c.w, y + r,
                          _mm256_set1_epi8(static_cast<char>(outside[i])), planes + i * static_cast<int64_t>(p.size));
    }
    for (int32_t i = 0; i < byte_planes; ++i) place_outside(p, outside[i], planes + i * static_cast<int64_t>(p.size));
}

}  // namespace
}  // namespace edgenas
