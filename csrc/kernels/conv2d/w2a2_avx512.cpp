// Convolution of at most 2-bit codes and weights by table lookup (lookup.h), for AVX-512 VBMI: 3 codes a byte, 64-entry rows.
//
// Lanes are 64 consecutive output positions. One vpermb looks up 64 indices in the row that the weights select, one vpaddb adds:
// 192 multiply-adds. A tile of 8 output channels x up to 3 vectors of byte sums lives in registers.
#include "finish_avx512.h"
#include "lookup.h"
#include "variants.h"

namespace edgenas {
namespace {

constexpr int32_t kIndexBits = 6;
constexpr int32_t kQ = 8;                   // output channels of a block
constexpr int32_t kMaxV = 3;                // vectors of a tile
constexpr int32_t kLanes = 64;
constexpr int32_t kRowBytes = 64;
constexpr LookupShape kShape{kIndexBits, kQ, kLanes, kRowBytes};

struct alignas(64) Rows {
    uint8_t row[64][kRowBytes];
    constexpr explicit Rows(int32_t code_bits) : row() {
        for (int32_t w = 0; w < 64; ++w)
            for (int32_t i = 0; i < 64; ++i) row[w][i] = static_cast<uint8_t>(lookup_entry(kIndexBits, code_bits, w, i));
    }
};
constexpr Rows kRows[2] = {Rows(1), Rows(2)};               // by code bits - 1

// Below, most of the 64 lanes would be empty and the int8-style kernel is faster.
constexpr int32_t kLeastPositions = 48;

bool supports(const Conv2d& c) { return lookup_fits(c, kLeastPositions); }
size_t prepared_bytes(const Conv2d& c) { return lookup_bytes(c, kShape); }
void prepare(const Conv2d& c, void* prepared) { lookup_prepare(c, kShape, prepared); }
size_t scratch_bytes(const Conv2d& c) { return static_cast<size_t>(lookup_scratch(c, byte_planes_of(c), kIndexBits).total); }

// One group of C4 planes that share bytes (lookup.h).
struct Group {
    const uint8_t* c4;
    int64_t pixels;
    int32_t planes, code_bits;
    uint32_t live;                          // bits that hold codes of existing channels
};

// 16 pixels of a group from `at` on, folded: byte i of each 32-bit lane belongs to byte plane i.
inline __m512i pack_pixels(const Group& g, int64_t at) {
    const int64_t left = g.pixels - at;
    const __mmask16 inside = static_cast<__mmask16>(left >= 16 ? 0xFFFF : left <= 0 ? 0 : (1u << left) - 1);
    __m512i codes = _mm512_setzero_si512();
    for (int32_t s = 0; s < g.planes; ++s) {
        const __m512i in = _mm512_maskz_loadu_epi32(inside, g.c4 + 4 * (s * g.pixels + at));
        codes = _mm512_or_si512(codes, _mm512_slli_epi32(in, static_cast<uint32_t>(s * g.code_bits)));
    }
    codes = _mm512_and_si512(codes, _mm512_set1_epi32(static_cast<int32_t>(g.live)));
    const int32_t used = g.planes * g.code_bits, spare = kIndexBits - used;
    __m512i folded = codes;
    switch (lookup_fold(kIndexBits, used)) {
        case 1: folded = _mm512_or_si512(codes, _mm512_srli_epi32(codes, 7)); return _mm512_or_si512(folded, _mm512_srli_epi32(folded, 14));
        case 2: return _mm512_or_si512(codes, _mm512_srli_epi32(codes, static_cast<uint32_t>(16 - used)));
        case 3:
            for (int32_t k = 0; k < 3; ++k) {
                const __m512i moved = _mm512_srli_epi32(codes, static_cast<uint32_t>(24 + k * spare - 8 * k - used));
                folded = _mm512_or_si512(folded, _mm512_and_si512(moved, _mm512_set1_epi32(((1 << spare) - 1) << (8 * k + used))));
            }
            return folded;
        default: return codes;
    }
}

// One group of C4 planes becomes up to four byte planes, 64 pixels at a time.
void pack_group(const Group& g, int64_t stride, uint8_t* packed) {
    for (int64_t at = 0; at < g.pixels; at += 64) {
        __m512i part[4];                    // after transposing its 4 x 4 bytes and then words: 128-bit lane i for byte plane i
        const __m512i words = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        for (int i = 0; i < 4; ++i) part[i] = _mm512_permutexvar_epi32(words, to_c4(pack_pixels(g, at + 16 * i)));
        const __m512i low01 = _mm512_shuffle_i32x4(part[0], part[1], 0x44), low23 = _mm512_shuffle_i32x4(part[2], part[3], 0x44);
        const __m512i high01 = _mm512_shuffle_i32x4(part[0], part[1], 0xEE), high23 = _mm512_shuffle_i32x4(part[2], part[3], 0xEE);
        _mm512_store_si512(packed + at, _mm512_shuffle_i32x4(low01, low23, 0x88));
        _mm512_store_si512(packed + stride + at, _mm512_shuffle_i32x4(low01, low23, 0xDD));
        _mm512_store_si512(packed + 2 * stride + at, _mm512_shuffle_i32x4(high01, high23, 0x88));
        _mm512_store_si512(packed + 3 * stride + at, _mm512_shuffle_i32x4(high01, high23, 0xDD));
    }
}

void pack(const Conv2d& c, const void* prepared, const uint8_t* x, void* scratch, Share share) {
    const Lookup& l = *static_cast<const Lookup*>(prepared);
    const int64_t pixels = static_cast<int64_t>(c.h) * c.w, stride = lookup_scratch(c, l.planes, kIndexBits).packed_stride;
    uint8_t* packed = static_cast<uint8_t*>(scratch);
    const int32_t bits = l.code_bits, group = kIndexBits / bits, c4 = (c.c_in + 3) / 4, groups = (c4 + group - 1) / group;
    const int32_t begin = begin_of(share, groups), end = end_of(share, groups);
    for (int32_t i = begin; i < end; ++i) {
        const int32_t first = i * group, channels = c.c_in - 4 * first < 4 * group ? c.c_in - 4 * first : 4 * group;
        pack_group({x + first * pixels * 4, pixels, (channels + 3) / 4, bits, lookup_live_bits(bits, channels)}, stride,
                   packed + 4 * i * stride);
    }
    place_planes(c, l, 4 * begin, 4 * end, packed);
}

// Sums of one tile, widened: [channel][vector][even, odd position][32]; even sums still contain 256 * odd.
using Widened = uint16_t[2][32];

inline void widen(Widened& to, __m512i sums, bool first) {
    const __m512i odd = _mm512_srli_epi16(sums, 8);
    if (first) {
        _mm512_store_si512(to[0], sums);
        _mm512_store_si512(to[1], odd);
    } else {
        _mm512_store_si512(to[0], _mm512_add_epi16(_mm512_load_si512(to[0]), sums));
        _mm512_store_si512(to[1], _mm512_add_epi16(_mm512_load_si512(to[1]), odd));
    }
}

// Assembly, because gcc otherwise looks up everything first and spills sums in the innermost loop.
inline void look_up_add(__m512i& sum, __m512i index, __m512i row) {
    __m512i found;
    __asm__ volatile("vpermb %3, %2, %1\n\tvpaddb %1, %0, %0" : "+v"(sum), "=&v"(found) : "v"(index), "v"(row));
}

template <int V>
void tile(const uint8_t* x, const int32_t* tap, const uint16_t* row, const int32_t* flush, int32_t steps, const uint8_t* rows,
          Widened* sums) {
    for (int32_t s = 0; s < steps;) {
        const bool first = s == 0;
        __m512i acc[kQ][V];
#pragma GCC unroll 8
        for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 3
            for (int v = 0; v < V; ++v) acc[q][v] = _mm512_setzero_si512();
        for (const int32_t end = *flush++; s < end; ++s, row += kQ) {
            const uint8_t* at = x + tap[s];
            __m512i index[V];
#pragma GCC unroll 3
            for (int v = 0; v < V; ++v) index[v] = _mm512_loadu_si512(at + kLanes * v);
#pragma GCC unroll 8
            for (int q = 0; q < kQ; ++q) {
                const __m512i entries = _mm512_load_si512(rows + row[q]);
#pragma GCC unroll 3
                for (int v = 0; v < V; ++v) look_up_add(acc[q][v], index[v], entries);
            }
        }
#pragma GCC unroll 8
        for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 3
            for (int v = 0; v < V; ++v) widen(sums[q * V + v], acc[q][v], first);
    }
}

using TileFn = void (*)(const uint8_t*, const int32_t*, const uint16_t*, const int32_t*, int32_t, const uint8_t*, Widened*);
constexpr TileFn kTile[kMaxV] = {tile<1>, tile<2>, tile<3>};

struct EvenOdd {
    __m512i even, odd;                      // uint16
};

inline EvenOdd load_sums(const Widened& from) {
    const __m512i odd = _mm512_load_si512(from[1]);
    return {_mm512_sub_epi16(_mm512_load_si512(from[0]), _mm512_slli_epi16(odd, 8)), odd};
}

// The codes of 64 positions, one byte each.
inline __m512i threshold_bytes(const Widened& sums, const uint16_t* threshold, uint8_t flip) {
    const EvenOdd s = load_sums(sums);
    const __m512i one = _mm512_set1_epi16(1);
    __m512i even = _mm512_setzero_si512(), odd = _mm512_setzero_si512();
#pragma GCC unroll 3
    for (int k = 0; k < kLookupThresholds; ++k) {
        const __m512i t = _mm512_set1_epi16(static_cast<int16_t>(threshold[k]));
        even = _mm512_mask_add_epi16(even, _mm512_cmpge_epu16_mask(s.even, t), even, one);
        odd = _mm512_mask_add_epi16(odd, _mm512_cmpge_epu16_mask(s.odd, t), odd, one);
    }
    return _mm512_xor_si512(_mm512_or_si512(even, _mm512_slli_epi16(odd, 8)), _mm512_set1_epi8(static_cast<char>(flip)));
}

// Interleaves four byte vectors of 64 positions into C4 elements and stores them.
inline void store_c4(void* plane, const OutputSpan* spans, const __m512i (&code)[4]) {
    // Within each 128-bit lane l: elements 4j .. 4j+3 of positions 16 l + 4 j, in part j.
    const __m512i low01 = _mm512_unpacklo_epi8(code[0], code[1]), high01 = _mm512_unpackhi_epi8(code[0], code[1]);
    const __m512i low23 = _mm512_unpacklo_epi8(code[2], code[3]), high23 = _mm512_unpackhi_epi8(code[2], code[3]);
    const __m512i part[4] = {_mm512_unpacklo_epi16(low01, low23), _mm512_unpackhi_epi16(low01, low23),
                             _mm512_unpacklo_epi16(high01, high23), _mm512_unpackhi_epi16(high01, high23)};
    const __m512i a = _mm512_shuffle_i32x4(part[0], part[1], 0x44), b = _mm512_shuffle_i32x4(part[2], part[3], 0x44);
    const __m512i c = _mm512_shuffle_i32x4(part[0], part[1], 0xEE), d = _mm512_shuffle_i32x4(part[2], part[3], 0xEE);
    store_span(plane, spans[0], _mm512_shuffle_i32x4(a, b, 0x88));
    store_span(plane, spans[1], _mm512_shuffle_i32x4(a, b, 0xDD));
    store_span(plane, spans[2], _mm512_shuffle_i32x4(c, d, 0x88));
    store_span(plane, spans[3], _mm512_shuffle_i32x4(c, d, 0xDD));
}

// int32 sums of 64 positions in order, the offset added.
inline void spread(const Widened& sums, int32_t offset, int32_t* to) {
    const EvenOdd s = load_sums(sums);
    const __m512i add = _mm512_set1_epi32(offset);
    const auto half = [](__m512i v, int i) { return i == 0 ? _mm512_castsi512_si256(v) : _mm512_extracti64x4_epi64(v, 1); };
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    for (int i = 0; i < 2; ++i) {
        const __m512i even = _mm512_cvtepu16_epi32(half(s.even, i)), odd = _mm512_cvtepu16_epi32(half(s.odd, i));
        _mm512_store_si512(to + 32 * i, _mm512_add_epi32(_mm512_permutex2var_epi32(even, low, odd), add));
        _mm512_store_si512(to + 32 * i + 16, _mm512_add_epi32(_mm512_permutex2var_epi32(even, high, odd), add));
    }
}

void finish_tile(const Conv2d& conv, const Lookup& l, int32_t b, int32_t v, int32_t vectors, const Widened* sums, void* y) {
    const OutputSpan* spans = lookup_part<OutputSpan>(l, l.span) + 4 * v;
    const int64_t pixels = static_cast<int64_t>(conv.h_out) * conv.w_out;
    for (int32_t q = 0; q < kQ && b * kQ + q < conv.c_out; q += 4)
        for (int32_t i = 0; i < vectors; ++i) {
            const int32_t c = b * kQ + q;
            if (!l.fast) {
                alignas(64) int32_t wide[4][kLanes];
                for (int j = 0; j < 4; ++j) spread(sums[(q + j) * vectors + i], lookup_part<int32_t>(l, l.offset)[c + j], wide[j]);
                finish(conv, lookup_part<uint8_t>(l, l.table), c, 4, 4, wide[0], spans + 4 * i, y);
                continue;
            }
            const uint16_t* threshold = lookup_part<uint16_t>(l, l.threshold) + c * kLookupThresholds;
            const uint8_t* flip = lookup_part<uint8_t>(l, l.flip) + c;
            __m512i code[4];
            for (int j = 0; j < 4; ++j)
                code[j] = threshold_bytes(sums[(q + j) * vectors + i], threshold + j * kLookupThresholds, flip[j]);
            store_c4(static_cast<uint8_t*>(y) + c / 4 * pixels * 4, spans + 4 * i, code);
        }
}

// Vectors of the next tile: full ones, but 2 + 2 rather than 3 + 1.
constexpr int32_t tile_vectors(int32_t left) { return left == 4 ? 2 : left < kMaxV ? left : kMaxV; }

void compute(const Conv2d& c, const void* prepared, const uint8_t*, void* y, const void* scratch, Share share) {
    const Lookup& l = *static_cast<const Lookup*>(prepared);
    const uint8_t* planes = placed_planes(c, l, scratch);
    const GridPart part = part_of(share, l.vectors, l.blocks, kMaxV, false);
    alignas(64) Widened sums[kQ * kMaxV];
    for (int32_t v = part.vector, n; v < part.vectors_end; v += n) {
        n = tile_vectors(part.vectors_end - v);
        for (int32_t b = part.block; b < part.blocks_end; ++b) {
            const uint16_t* row = lookup_part<uint16_t>(l, l.row) + static_cast<int64_t>(b) * l.steps * kQ;
            const int32_t* flush = lookup_part<int32_t>(l, l.flush) + lookup_part<int32_t>(l, l.first)[b];
            kTile[n - 1](planes + v * kLanes, lookup_part<int32_t>(l, l.tap), row, flush, l.steps,
                         &kRows[l.code_bits - 1].row[0][0], sums);
            finish_tile(c, l, b, v, n, sums, y);
        }
    }
}

}  // namespace

const Variant kConv2dW2A2Avx512{"w2a2_avx512_vbmi", 2 | 1, supports, prepared_bytes, prepare, scratch_bytes, pack, compute};

}  // namespace edgenas
