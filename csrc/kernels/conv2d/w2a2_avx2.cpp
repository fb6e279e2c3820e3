// Convolution of at most 2-bit codes and weights by table lookup (lookup.h), for AVX2: 2 codes of 2 bits or 4 of 1 bit
// a byte, 16-entry rows.
//
// Lanes are 32 consecutive output positions. One vpshufb looks up 32 indices in the row that the weights select, one vpaddb
// adds: 64 multiply-adds. A tile of 4 output channels x up to 2 vectors of byte sums lives in registers.
#include <algorithm>

#include "finish_avx2.h"
#include "lookup.h"
#include "variants.h"

namespace edgenas {
namespace {

constexpr int32_t kIndexBits = 4;
constexpr int32_t kQ = 4;                   // output channels of a block
constexpr int32_t kMaxV = 2;                // vectors of a tile
constexpr int32_t kLanes = 32;
constexpr int32_t kRowBytes = 32;
constexpr LookupShape kShape{kIndexBits, kQ, kLanes, kRowBytes};

struct alignas(32) Rows {                   // each row twice: vpshufb looks up within 128-bit halves
    uint8_t row[16][kRowBytes];
    constexpr explicit Rows(int32_t code_bits) : row() {
        for (int32_t w = 0; w < 16; ++w)
            for (int32_t i = 0; i < kRowBytes; ++i) row[w][i] = static_cast<uint8_t>(lookup_entry(kIndexBits, code_bits, w, i % 16));
    }
};
constexpr Rows kRows[2] = {Rows(1), Rows(2)};               // by code bits - 1

// Below, most of the 32 lanes would be empty and the int8-style kernel is as fast.
constexpr int32_t kLeastPositions = 20;

bool supports(const Conv2d& c) { return lookup_fits(c, kLeastPositions); }
size_t prepared_bytes(const Conv2d& c) { return lookup_bytes(c, kShape); }
void prepare(const Conv2d& c, void* prepared) { lookup_prepare(c, kShape, prepared); }
size_t scratch_bytes(const Conv2d& c) { return static_cast<size_t>(lookup_scratch(c, byte_planes_of(c), kIndexBits).total); }

inline __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store256(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

// 8 pixels of one group of C4 planes, folded as lookup.h says.
inline __m256i pack_pixels(const uint8_t* c4, int64_t pixels, int32_t planes, int32_t bits, __m256i live, int64_t left) {
    __m256i codes = _mm256_setzero_si256();
    for (int32_t s = 0; s < planes; ++s) {
        const uint8_t* from = c4 + s * pixels * 4;
        const __m256i in = left >= 8 ? load256(from)
                                     : _mm256_maskload_epi32(reinterpret_cast<const int*>(from), first_lanes(static_cast<int32_t>(left)));
        codes = _mm256_or_si256(codes, _mm256_slli_epi32(in, s * bits));
    }
    codes = _mm256_and_si256(codes, live);
    const int32_t used = planes * bits, spare = kIndexBits - used;
    switch (lookup_fold(kIndexBits, used)) {
        case 1: codes = _mm256_or_si256(codes, _mm256_srli_epi32(codes, 7)); return _mm256_or_si256(codes, _mm256_srli_epi32(codes, 14));
        case 2: return _mm256_or_si256(codes, _mm256_srli_epi32(codes, 16 - used));
        case 3: {
            __m256i folded = codes;
            for (int32_t k = 0; k < 3; ++k) {
                const __m256i moved = _mm256_srli_epi32(codes, 24 + k * spare - 8 * k - used);
                folded = _mm256_or_si256(folded, _mm256_and_si256(moved, _mm256_set1_epi32(((1 << spare) - 1) << (8 * k + used))));
            }
            return folded;
        }
        default: return codes;
    }
}

// One group of C4 planes becomes up to four byte planes.
void pack_group(const uint8_t* c4, int64_t pixels, int32_t planes, int32_t bits, uint32_t live, int64_t stride, uint8_t* packed) {
    const __m256i low = _mm256_set1_epi16(0x00FF), order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const int32_t folded = lookup_fold(kIndexBits, planes * bits);
    for (int64_t at = 0; at < pixels; at += kLanes) {
        __m256i even[4], odd[4];            // bytes 0 and 2, 1 and 3 of 8 pixels as uint16
        for (int i = 0; i < 4; ++i) {
            const int64_t left = std::clamp<int64_t>(pixels - at - 8 * i, 0, 8);
            const __m256i codes = pack_pixels(c4 + (left > 0 ? 4 * (at + 8 * i) : 0), pixels, planes, bits,
                                              _mm256_set1_epi32(static_cast<int32_t>(live)), left);
            even[i] = _mm256_and_si256(codes, low), odd[i] = _mm256_srli_epi16(codes, 8);
        }
        // Bytes (plane 0, plane 2) or (1, 3) of positions; 128-bit halves hold 0-3, 8-11 | 4-7, 12-15 and the same from 16 on.
        for (int i = 0; i < 4 && i < folded; ++i) {
            const __m256i(&from)[4] = i % 2 == 0 ? even : odd;
            const __m256i a = _mm256_packus_epi16(from[0], from[1]), b = _mm256_packus_epi16(from[2], from[3]);
            const __m256i plane = i < 2 ? _mm256_packus_epi16(_mm256_and_si256(a, low), _mm256_and_si256(b, low))
                                        : _mm256_packus_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8));
            store256(packed + i * stride + at, _mm256_permutevar8x32_epi32(plane, order));
        }
    }
}

void pack(const Conv2d& c, const void* prepared, const uint8_t* x, void* scratch, Share share) {
    const Lookup& l = *static_cast<const Lookup*>(prepared);
    const int64_t pixels = static_cast<int64_t>(c.h) * c.w, stride = lookup_scratch(c, l.planes, kIndexBits).packed_stride;
    uint8_t* packed = static_cast<uint8_t*>(scratch);
    const int32_t bits = l.code_bits, group = kIndexBits / bits, c4 = (c.c_in + 3) / 4, groups = (c4 + group - 1) / group;
    const int32_t begin = begin_of(share, groups), end = end_of(share, groups);
    for (int32_t i = begin; i < end; ++i) {
        const int32_t first = i * group;
        pack_group(x + first * pixels * 4, pixels, std::min(group, c4 - first), bits,
                   lookup_live_bits(bits, std::min(4 * group, c.c_in - 4 * first)), stride, packed + 4 * i * stride);
    }
    place_planes(c, l, 4 * begin, 4 * end, packed);
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
void tile(const uint8_t* x, const int32_t* tap, const uint16_t* row, const int32_t* flush, int32_t steps, const uint8_t* rows,
          Widened* sums) {
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

using TileFn = void (*)(const uint8_t*, const int32_t*, const uint16_t*, const int32_t*, int32_t, const uint8_t*, Widened*);
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
    const uint8_t* planes = placed_planes(c, l, scratch);
    const GridPart part = part_of(share, l.vectors, l.blocks, kMaxV, false);
    const int64_t pixels = static_cast<int64_t>(c.h_out) * c.w_out;
    const int64_t limit = store_limit(lookup_part<OutputSpan>(l, l.span), part.vectors_end, l.vectors, 4, pixels);
    alignas(64) Widened sums[kQ * kMaxV];
    for (int32_t v = part.vector, n; v < part.vectors_end; v += n) {
        n = part.vectors_end - v >= kMaxV ? kMaxV : 1;
        for (int32_t b = part.block; b < part.blocks_end; ++b) {
            const uint16_t* row = lookup_part<uint16_t>(l, l.row) + static_cast<int64_t>(b) * l.steps * kQ;
            const int32_t* flush = lookup_part<int32_t>(l, l.flush) + lookup_part<int32_t>(l, l.first)[b];
            kTile[n - 1](planes + v * kLanes, lookup_part<int32_t>(l, l.tap), row, flush, l.steps,
                         &kRows[l.code_bits - 1].row[0][0], sums);
            finish_tile(c, l, b * kQ, v, n, sums, limit, y);
        }
    }
}

}  // namespace

const Variant kConv2dW2A2Avx2{"w2a2_avx2", 1, supports, prepared_bytes, prepare, scratch_bytes, pack, compute};

}  // namespace edgenas
