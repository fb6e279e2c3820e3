// Convolution of at most 2-bit codes and weights by table lookup (lookup.h), for AVX2: 2 codes a byte, 16-entry rows.
//
// Lanes are 32 consecutive output positions. One vpshufb looks up 32 indices in the row that the weights select, one vpaddb
// adds: 64 multiply-adds. A tile of 4 output channels x up to 2 vectors of byte sums lives in registers.
#include "finish_avx2.h"
#include "lookup.h"
#include "variants.h"

namespace edgenas {
namespace {

constexpr int32_t kGroup = 2;
constexpr int32_t kQ = 4;                   // output channels of a block
constexpr int32_t kMaxV = 2;                // vectors of a tile
constexpr int32_t kLanes = 32;
constexpr int32_t kRowBytes = 32;
constexpr LookupShape kShape{kGroup, kQ, kLanes, kRowBytes};

struct alignas(32) Rows {                   // each row twice: vpshufb looks up within 128-bit halves
    uint8_t row[16][kRowBytes];
    constexpr Rows() : row() {
        for (int32_t w = 0; w < 16; ++w)
            for (int32_t i = 0; i < kRowBytes; ++i) row[w][i] = static_cast<uint8_t>(lookup_entry(kGroup, w, i % 16));
    }
};
constexpr Rows kRows;

// Below, most of the 32 lanes would be empty and the int8-style kernel is as fast.
constexpr int32_t kLeastPositions = 20;

bool supports(const Conv2d& c) { return lookup_fits(c, kLeastPositions); }
size_t prepared_bytes(const Conv2d& c) { return lookup_bytes(c, kShape); }
void prepare(const Conv2d& c, void* prepared) { lookup_prepare(c, kShape, prepared); }
size_t scratch_bytes(const Conv2d& c) { return static_cast<size_t>(lookup_scratch(c, byte_planes_of(c), kGroup).total); }

inline __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store256(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

// 8 positions: uint16 c0 + 4 c1, c2 + 4 c3.
inline __m256i squeeze(__m256i c4) { return _mm256_maddubs_epi16(c4, _mm256_set1_epi16(0x0401)); }

// One C4 plane becomes two byte planes of two channels.
void pack_plane(const uint8_t* c4, int64_t pixels, int64_t stride, uint8_t* packed) {
    const __m256i low = _mm256_set1_epi16(0x00FF), order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int64_t at = 0; at < pixels; at += kLanes) {
        __m256i words[4];
        for (int i = 0; i < 4; ++i) {
            const uint8_t* from = c4 + 4 * (at + 8 * i);
            const int64_t left = pixels - at - 8 * i;
            const __m256i live = first_lanes(static_cast<int32_t>(left < 8 ? left : 8));
            words[i] = squeeze(left >= 8 ? load256(from) : _mm256_maskload_epi32(reinterpret_cast<const int*>(from), live));
        }
        // Bytes (plane 0, plane 1) of positions; 128-bit halves hold 0-3, 8-11 | 4-7, 12-15 and the same from 16 on.
        const __m256i a = _mm256_packus_epi16(words[0], words[1]), b = _mm256_packus_epi16(words[2], words[3]);
        const __m256i first = _mm256_packus_epi16(_mm256_and_si256(a, low), _mm256_and_si256(b, low));
        const __m256i second = _mm256_packus_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8));
        store256(packed + at, _mm256_permutevar8x32_epi32(first, order));
        store256(packed + stride + at, _mm256_permutevar8x32_epi32(second, order));
    }
}

void pack(const Conv2d& c, const void* prepared, const uint8_t* x, void* scratch, Share share) {
    const Lookup& l = *static_cast<const Lookup*>(prepared);
    const int64_t pixels = static_cast<int64_t>(c.h) * c.w, stride = lookup_scratch(c, l.planes, kGroup).packed_stride;
    uint8_t* packed = static_cast<uint8_t*>(scratch);
    const int32_t c4 = (c.c_in + 3) / 4, first = begin_of(share, c4), last = end_of(share, c4);
    for (int32_t g = first; g < last; ++g) pack_plane(x + g * pixels * 4, pixels, stride, packed + 2 * g * stride);
    place_planes(c, l, kGroup, 2 * first, 2 * last, packed);
}

// Sums of one tile, widened: [channel][vector][even, odd position][16]; even sums still contain 256 * odd.
using Widened = uint16_t[2][16];

inline void widen(Widened& to, __m256i sums, bool first) {
    const __m256i odd = _mm256_srli_epi16(sums, 8);
    store256(to[0], first ? sums : _mm256_add_epi16(load256(to[0]), sums));
    store256(to[1], first ? odd : _mm256_add_epi16(load256(to[1]), odd));
}

// Assembly, because gcc otherwise looks up everything first and spills sums in the innermost loop.
inline void look_up_add(__m256i& sum, __m256i index, __m256i row) {
    __m256i found;
    __asm__ volatile("vpshufb %2, %3, %1\n\tvpaddb %1, %0, %0" : "+x"(sum), "=&x"(found) : "x"(index), "x"(row));
}

template <int V>
void tile(const uint8_t* x, const int32_t* tap, const uint16_t* row, const int32_t* flush, int32_t steps, Widened* sums) {
    const uint8_t* rows = &kRows.row[0][0];
    for (int32_t s = 0; s < steps;) {
        const bool first = s == 0;
        __m256i acc[kQ][V];
#pragma GCC unroll 4
        for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) acc[q][v] = _mm256_setzero_si256();
        for (const int32_t end = *flush++; s < end; ++s, row += kQ) {
            const uint8_t* at = x + tap[s];
            __m256i index[V];
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) index[v] = load256(at + kLanes * v);
#pragma GCC unroll 4
            for (int q = 0; q < kQ; ++q) {
                const __m256i entries = _mm256_load_si256(reinterpret_cast<const __m256i*>(rows + row[q]));
#pragma GCC unroll 2
                for (int v = 0; v < V; ++v) look_up_add(acc[q][v], index[v], entries);
            }
        }
#pragma GCC unroll 4
        for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) widen(sums[q * V + v], acc[q][v], first);
    }
}

using TileFn = void (*)(const uint8_t*, const int32_t*, const uint16_t*, const int32_t*, int32_t, Widened*);
constexpr TileFn kTile[kMaxV] = {tile<1>, tile<2>};

struct EvenOdd {
    __m256i even, odd;                      // uint16
};

inline EvenOdd load_sums(const Widened& from) {
    const __m256i odd = load256(from[1]);
    return {_mm256_sub_epi16(load256(from[0]), _mm256_slli_epi16(odd, 8)), odd};
}

// The codes of 32 positions, one byte each.
inline __m256i threshold_bytes(const Widened& sums, const uint16_t* threshold, uint8_t flip) {
    const EvenOdd s = load_sums(sums);
    __m256i even = _mm256_setzero_si256(), odd = _mm256_setzero_si256();
    for (int k = 0; k < kLookupThresholds; ++k) {
        const __m256i t = _mm256_set1_epi16(static_cast<int16_t>(threshold[k]));        // a >= t where max(a, t) == a
        even = _mm256_sub_epi16(even, _mm256_cmpeq_epi16(_mm256_max_epu16(s.even, t), s.even));
        odd = _mm256_sub_epi16(odd, _mm256_cmpeq_epi16(_mm256_max_epu16(s.odd, t), s.odd));
    }
    return _mm256_xor_si256(_mm256_or_si256(even, _mm256_slli_epi16(odd, 8)), _mm256_set1_epi8(static_cast<char>(flip)));
}

// Interleaves four byte vectors of 32 positions into C4 elements and stores them.
inline void store_c4(void* plane, int64_t limit, const OutputSpan* spans, const __m256i (&code)[4]) {
    const __m256i low01 = _mm256_unpacklo_epi8(code[0], code[1]), high01 = _mm256_unpackhi_epi8(code[0], code[1]);
    const __m256i low23 = _mm256_unpacklo_epi8(code[2], code[3]), high23 = _mm256_unpackhi_epi8(code[2], code[3]);
    // part j holds positions 4j .. 4j+3 in its low half, 16 + 4j .. in its high half
    const __m256i part[4] = {_mm256_unpacklo_epi16(low01, low23), _mm256_unpackhi_epi16(low01, low23),
                             _mm256_unpacklo_epi16(high01, high23), _mm256_unpackhi_epi16(high01, high23)};
    store_compact(plane, limit, spans[0], _mm256_permute2x128_si256(part[0], part[1], 0x20));
    store_compact(plane, limit, spans[1], _mm256_permute2x128_si256(part[2], part[3], 0x20));
    store_compact(plane, limit, spans[2], _mm256_permute2x128_si256(part[0], part[1], 0x31));
    store_compact(plane, limit, spans[3], _mm256_permute2x128_si256(part[2], part[3], 0x31));
}

// int32 sums of 32 positions in order, the offset added.
inline void spread(const Widened& sums, int32_t offset, int32_t* to) {
    const EvenOdd s = load_sums(sums);
    const __m256i add = _mm256_set1_epi32(offset);
    const __m256i low = _mm256_unpacklo_epi16(s.even, s.odd), high = _mm256_unpackhi_epi16(s.even, s.odd);
    const __m128i eight[4] = {_mm256_castsi256_si128(low), _mm256_castsi256_si128(high), _mm256_extracti128_si256(low, 1),
                              _mm256_extracti128_si256(high, 1)};
    for (int i = 0; i < 4; ++i) store256(to + 8 * i, _mm256_add_epi32(_mm256_cvtepu16_epi32(eight[i]), add));
}

// Finishes the channels c .. c+3 at the 32 positions of each of `vectors` vectors.
void finish_tile(const Conv2d& conv, const Lookup& l, int32_t c, int32_t v, int32_t vectors, const Widened* sums, int64_t limit,
                 void* y) {
    const OutputSpan* spans = lookup_part<OutputSpan>(l, l.span) + 4 * v;
    const int64_t pixels = static_cast<int64_t>(conv.h_out) * conv.w_out;
    for (int32_t i = 0; i < vectors; ++i) {
        if (!l.fast) {
            alignas(32) int32_t wide[kQ][kLanes];
            for (int q = 0; q < kQ; ++q) spread(sums[q * vectors + i], lookup_part<int32_t>(l, l.offset)[c + q], wide[q]);
            finish(conv, c, Sums{wide[0], 4, spans + 4 * i, limit, lookup_part<int32_t>(l, l.tree)}, y);
            continue;
        }
        const uint16_t* threshold = lookup_part<uint16_t>(l, l.threshold) + c * kLookupThresholds;
        const uint8_t* flip = lookup_part<uint8_t>(l, l.flip) + c;
        __m256i code[kQ];
        for (int q = 0; q < kQ; ++q) code[q] = threshold_bytes(sums[q * vectors + i], threshold + q * kLookupThresholds, flip[q]);
        store_c4(static_cast<uint8_t*>(y) + c / 4 * pixels * 4, limit, spans + 4 * i, code);
    }
}

void compute(const Conv2d& c, const void* prepared, const uint8_t*, void* y, const void* scratch, Share share) {
    const Lookup& l = *static_cast<const Lookup*>(prepared);
    const uint8_t* planes = placed_planes(c, l, kGroup, scratch);
    const GridPart part = part_of(share, l.vectors, l.blocks, kMaxV, false);
    const int64_t pixels = static_cast<int64_t>(c.h_out) * c.w_out;
    const int64_t limit = store_limit(lookup_part<OutputSpan>(l, l.span), part.vectors_end, l.vectors, 4, pixels);
    alignas(64) Widened sums[kQ * kMaxV];
    for (int32_t v = part.vector, n; v < part.vectors_end; v += n) {
        n = part.vectors_end - v >= kMaxV ? kMaxV : 1;
        for (int32_t b = part.block; b < part.blocks_end; ++b) {
            const uint16_t* row = lookup_part<uint16_t>(l, l.row) + static_cast<int64_t>(b) * l.steps * kQ;
            const int32_t* flush = lookup_part<int32_t>(l, l.flush) + lookup_part<int32_t>(l, l.first)[b];
            kTile[n - 1](planes + v * kLanes, lookup_part<int32_t>(l, l.tap), row, flush, l.steps, sums);
            finish_tile(c, l, b * kQ, v, n, sums, limit, y);
        }
    }
}

}  // namespace

const Variant kConv2dW2A2Avx2{"w2a2_avx2", 1, supports, prepared_bytes, prepare, scratch_bytes, pack, compute};

}  // namespace edgenas
