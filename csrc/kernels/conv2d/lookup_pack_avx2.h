// From C4 codes to the padded byte planes of lookup.h, for AVX2: a few rows at a time are packed into a buffer, and from there
// brought into place by whole aligned vectors. Internal linkage: only files compiled for AVX2 may include it.
#pragma once
#include <algorithm>

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
        const __m256i live = first_lanes(static_cast<int32_t>(std::min<int64_t>(left, 8)));
        const __m256i in = left >= 8 ? load256(from) : _mm256_maskload_epi32(reinterpret_cast<const int*>(from), live);
        codes = _mm256_or_si256(codes, _mm256_slli_epi32(in, i * kBits));
    }
    return fold<kC4 * kBits>(_mm256_and_si256(codes, _mm256_set1_epi32(static_cast<int32_t>(g.live))));
}

// Where packed pixels go: byte planes have the distance `stride`. At stride 2 even pixels go there, odd ones to `odd`.
struct PackBuffer {
    uint8_t *even, *odd;
    int64_t stride;
};

inline void store_packed(const PackBuffer& to, int64_t at, __m256i bytes) {
    if (to.odd == nullptr) return store256(to.even + at, bytes);
    const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const __m256i split = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(order)), 0xD8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to.even + at / 2), _mm256_castsi256_si128(split));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to.odd + at / 2), _mm256_extracti128_si256(split, 1));
}

// Packs whole vectors of 32 pixels.
template <int kC4, int kBits>
void pack_pixels(const PackGroup& g, int64_t pixels, const PackBuffer& to) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int64_t at = 0; at < pixels; at += 32) {
        __m256i part[4];                    // 4 pixels of each byte in turn (to_c4 is its own inverse)
        for (int i = 0; i < 4; ++i) part[i] = to_c4(pack_8<kC4, kBits>(g, at + 8 * i));
        const __m256i low01 = _mm256_unpacklo_epi32(part[0], part[1]), low23 = _mm256_unpacklo_epi32(part[2], part[3]);
        const __m256i high01 = _mm256_unpackhi_epi32(part[0], part[1]), high23 = _mm256_unpackhi_epi32(part[2], part[3]);
        const __m256i plane[4] = {_mm256_unpacklo_epi64(low01, low23), _mm256_unpackhi_epi64(low01, low23),
                                  _mm256_unpacklo_epi64(high01, high23), _mm256_unpackhi_epi64(high01, high23)};
        for (int i = 0; i < lookup_fold(kIndexBits, kC4 * kBits); ++i)
            store_packed({to.even + i * to.stride, to.odd == nullptr ? nullptr : to.odd + i * to.stride, 0}, at,
                         _mm256_permutevar8x32_epi32(plane[i], order));
    }
}

using PackFn = void (*)(const PackGroup&, int64_t pixels, const PackBuffer&);

PackFn pack_function(int32_t c4, int32_t bits) {
    if (bits == 2) return c4 == 1 ? pack_pixels<1, 2> : pack_pixels<2, 2>;
    constexpr PackFn kBinary[] = {pack_pixels<1, 1>, pack_pixels<2, 1>, pack_pixels<3, 1>, pack_pixels<4, 1>};
    return kBinary[c4 - 1];
}

// One phase plane of every byte plane of a group, and how far it is filled: a row of it holds `left` bytes outside the image,
// `count` pixels, and again bytes outside. Row r is image row step * r + first.
struct Placement {
    int32_t left, count, step, first;
    int32_t at, row, column;                // the next 32 bytes; where they start, rows counted from -1
    const uint8_t* from;                    // packed pixels of column `left` of image row 0
    uint8_t* to;
};

// What place_rows knows of the layer and the group.
struct PlaceGroup {
    const Planes& planes;
    int64_t pitch, stride;                  // of the packed pixels: from row to row, from byte plane to byte plane
    const uint8_t* outside;
};

inline __m256i lanes_between(int32_t low, int32_t high) {
    const __m256i lane = _mm256_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26,
                                          27, 28, 29, 30, 31);
    const __m256i from = _mm256_set1_epi8(static_cast<char>(std::max(low, 0) - 1));
    const __m256i to = _mm256_set1_epi8(static_cast<char>(std::min(high, 32)));
    return _mm256_and_si256(_mm256_cmpgt_epi8(lane, from), _mm256_cmpgt_epi8(to, lane));
}

// Writes as many vectors as the first `ready` image rows allow.
template <int kBytePlanes>
void place_rows(const PlaceGroup& g, int32_t ready, Placement& p) {
    const int32_t width = g.planes.row, h = g.planes.h;
    for (; p.at < g.planes.phase_size; p.at += 32) {
        const int32_t last = p.step * (p.row + (p.column + 31) / width) + p.first;
        if (last >= ready && ready < h) return;
        __m256i bytes[kBytePlanes];
        for (int i = 0; i < kBytePlanes; ++i) bytes[i] = _mm256_set1_epi8(static_cast<char>(g.outside[i]));
        int32_t y = p.step * p.row + p.first;
        for (int32_t low = p.left - p.column; low < 32; low += width, y += p.step) {
            const int32_t high = low + p.count;
            if (y < 0 || y >= h || high <= 0) continue;
            const uint8_t* from = p.from + y * g.pitch - low;
            if (low <= 0 && high >= 32) {
                for (int i = 0; i < kBytePlanes; ++i) bytes[i] = load256(from + i * g.stride);
                break;
            }
            const __m256i lanes = lanes_between(low, high);
            for (int i = 0; i < kBytePlanes; ++i) bytes[i] = _mm256_blendv_epi8(bytes[i], load256(from + i * g.stride), lanes);
        }
        for (int i = 0; i < kBytePlanes; ++i) store256(p.to + i * static_cast<int64_t>(g.planes.size) + p.at, bytes[i]);
        for (p.column += 32; p.column >= width; p.column -= width) ++p.row;
    }
}

void place_rows(const PlaceGroup& g, int32_t byte_planes, int32_t ready, Placement& p) {
    switch (byte_planes) {
        case 1: return place_rows<1>(g, ready, p);
        case 2: return place_rows<2>(g, ready, p);
        case 3: return place_rows<3>(g, ready, p);
        default: return place_rows<4>(g, ready, p);
    }
}

// The phase planes in order; returns how many. At stride 1 rows start `pad` bytes late (planes.h).
int32_t placements_of(const Planes& p, const PackBuffer& from, uint8_t* to, Placement (&all)[4]) {
    if (p.stride == 1) {
        const int32_t row = p.pad > 0 ? -1 : 0;
        all[0] = {0, p.w, 1, -p.pad, 0, row, row < 0 ? p.row - p.pad : 0, from.even, to};
        return 1;
    }
    for (int32_t phase = 0; phase < p.phases * p.phases; ++phase) {
        const int32_t px = phase % p.phases, x = (px + p.pad) % 2, left = std::min((x + p.pad) / 2, p.row);
        all[phase] = {left, std::clamp((p.w - x + 1) / 2, 0, p.row - left), 2, phase / p.phases - p.pad, 0, 0, 0,
                      x == 0 ? from.even : from.odd, to + static_cast<int64_t>(phase) * p.phase_size};
    }
    return p.phases * p.phases;
}

// Scratch: a buffer for each group, then the planes; only the planes where nothing is padded.
struct PackScratch {
    int64_t odd, stride, group, planes, total;          // of a buffer: odd pixels, distance of byte planes, size
};

constexpr int64_t kAround = 64;             // read and written before and behind the pixels of a buffer

PackScratch pack_scratch(const Conv2d& c, const Planes& p) {
    constexpr int64_t kSlack = 256;
    const int64_t byte_planes = lookup_byte_planes(kIndexBits, lookup_code_bits(c), c.c_in), groups = (byte_planes + 3) / 4;
    PackScratch s{};
    const int64_t columns = p.stride == 1 ? c.w : (c.w + 1) / 2;
    s.odd = p.copied ? (c.h * columns + 2 * kAround + 63) / 64 * 64 : 0;
    s.stride = p.copied ? s.odd * p.stride : p.size;
    s.group = p.copied ? 4 * s.stride : 0;
    s.planes = groups * s.group;
    s.total = s.planes + (byte_planes + 3) * p.size + kSlack;
    return s;
}

// Rows y .. y + rows - 1 of a group, all in one where rows follow each other in the buffer without a gap.
void pack_rows(const Conv2d& c, PackFn pack, const PackGroup& all, int32_t y, int32_t rows, const PackBuffer& to) {
    const bool apart = to.odd != nullptr && c.w % 2 != 0;
    const int64_t pixels = apart ? c.w : static_cast<int64_t>(rows) * c.w, pitch = to.odd == nullptr ? c.w : (c.w + 1) / 2;
    for (int32_t end = y + rows; y < end; y += apart ? 1 : rows) {
        const int64_t before = static_cast<int64_t>(y) * c.w;
        pack({all.c4 + 4 * before, all.plane_bytes, all.left - before, all.live}, pixels,
             {to.even + y * pitch, to.odd == nullptr ? nullptr : to.odd + y * pitch, to.stride});
    }
}

// Group t into its place, by way of the buffer at `buffer`.
void pack_group(const Conv2d& c, const Lookup& l, const uint8_t* x, int32_t t, uint8_t* buffer, uint8_t* scratch) {
    const Planes& p = l.planes;
    const PackScratch s = pack_scratch(c, p);
    const int32_t bits = l.code_bits, group = kIndexBits / bits, first = t * group, c4 = std::min(group, (c.c_in + 3) / 4 - first);
    const int64_t pixels = static_cast<int64_t>(c.h) * c.w;
    const PackGroup g{x + first * pixels * 4, pixels * 4, pixels, lookup_live_bits(bits, std::min(4 * group, c.c_in - 4 * first))};
    const PackFn pack = pack_function(c4, bits);
    uint8_t* planes = scratch + s.planes + 4 * t * static_cast<int64_t>(p.size);
    if (!p.copied) return pack(g, pixels, {planes, nullptr, s.stride});
    const PackBuffer to{buffer + kAround, p.stride == 1 ? nullptr : buffer + s.odd + kAround, s.stride};
    Placement phases[4];
    const int32_t count = placements_of(p, to, planes, phases), batch = std::max(kBatch / c.w, 1);
    const PlaceGroup place{p, p.stride == 1 ? c.w : (c.w + 1) / 2, s.stride, lookup_part<uint8_t>(l, l.outside) + 4 * t};
    for (int32_t y = 0; y < c.h; y += batch) {
        const int32_t rows = std::min(batch, c.h - y);
        pack_rows(c, pack, g, y, rows, to);
        for (int32_t i = 0; i < count; ++i) place_rows(place, lookup_fold(kIndexBits, c4 * bits), y + rows, phases[i]);
    }
}

}  // namespace
}  // namespace edgenas
