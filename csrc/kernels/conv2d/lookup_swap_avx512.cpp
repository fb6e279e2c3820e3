// The role-swapped lookup kernel (lookup_swap.h) for AVX-512 VBMI: 64 output channels a vector, a tile of 7 or 8 pixels x up to 3
// vectors of byte sums in registers.
#include "lookup_finish_avx512.h"
#include "lookup_pack_avx512.h"
#include "lookup_swap.h"
#include "variants.h"

namespace edgenas {
namespace {

struct alignas(64) Rows {
    uint8_t row[64][64];
    constexpr explicit Rows(int32_t code_bits) : row() {
        for (int32_t q = 0; q < 64; ++q)
            for (int32_t w = 0; w < 64; ++w) row[q][w] = static_cast<uint8_t>(swap_entry(kIndexBits, code_bits, q, w));
    }
};
constexpr Rows kRows[2] = {Rows(1), Rows(2)};               // by code bits - 1

bool pointwise(const Conv2d& c) { return c.kernel == 1 && c.stride == 1 && c.pad == 0; }

// Where it saves a fifth of the lookups of lookup_avx512.cpp, whose tiles keep more sums in registers.
bool supports(const Conv2d& c) {
    if (!lookup_fits(c, 1) || c.requant.kind != Epilogue::kThreshold || c.requant.levels - 1 > kLookupThresholds) return false;
    const int64_t pixels = static_cast<int64_t>(c.h_out) * c.w_out, each = swap_pixels(static_cast<int32_t>(pixels));
    const int64_t swapped = (pixels + each - 1) / each * each * ((c.c_out + 63) / 64 * 64);
    const int64_t direct = (planes_of(c).positions + 63) / 64 * 64 * ((c.c_out + 7) / 8 * 8);
    return c.c_out > kSwapLanes && 5 * swapped < 4 * direct;
}

size_t prepared_bytes(const Conv2d& c) { return swap_bytes(c, kIndexBits); }
void prepare(const Conv2d& c, void* prepared) { swap_prepare(c, kIndexBits, prepared); }

// Scratch: codes [tile][step][8], then packed byte planes with room for what a move reads past their end.
struct Scratch {
    int64_t codes, packed_stride, total;
};

Scratch scratch_of(const Conv2d& c) {
    const int32_t pixels = c.h_out * c.w_out, each = swap_pixels(pixels);
    const int64_t tiles = (pixels + each - 1) / each, planes = lookup_byte_planes(kIndexBits, lookup_code_bits(c), c.c_in);
    Scratch s{};
    // Packing 1x1 layers works on two tiles at once.
    s.codes = (tiles + tiles % 2) * planes * c.kernel * c.kernel * kSwapPixels;
    s.codes = (s.codes + 63) / 64 * 64;
    s.packed_stride = (static_cast<int64_t>(c.h) * c.w + kMoveWindow + 63) / 64 * 64;
    s.total = s.codes + planes * s.packed_stride;
    return s;
}

size_t scratch_bytes(const Conv2d& c) { return static_cast<size_t>(scratch_of(c).total); }

// From the bytes of 16 pixels, 4 a pixel, to [tile of 8 pixels][byte plane][pixel].
struct alignas(64) TileOrder {
    uint8_t index[64];
    constexpr TileOrder() : index() {
        for (int i = 0; i < 64; ++i) index[i] = static_cast<uint8_t>(4 * (i / 32 * 8 + i % 8) + i / 8 % 4);
    }
};
constexpr TileOrder kTileOrder;

// 1x1: one group straight to its place in [tile][step][8].
template <int kBits, int kPlanes>
void pack_tiles(const Group& g, int64_t tile_bytes, uint8_t* codes) {
    constexpr __mmask8 kWritten = (1 << lookup_fold(kIndexBits, kPlanes * kBits)) - 1;
    const __m512i order = _mm512_load_si512(kTileOrder.index);
    for (int64_t at = 0; at < g.pixels; at += 16, codes += 2 * tile_bytes) {
        const int64_t left = g.pixels - at;
        const __mmask16 inside = static_cast<__mmask16>(left >= 16 ? 0xFFFF : (1u << left) - 1);
        const __m512i tiles = _mm512_permutexvar_epi8(order, pack_pixels<kBits, kPlanes>(g, at, inside));
        _mm256_mask_storeu_epi64(codes, kWritten, _mm512_castsi512_si256(tiles));
        _mm256_mask_storeu_epi64(codes + tile_bytes, kWritten, _mm512_extracti64x4_epi64(tiles, 1));
    }
}

constexpr PackFn kTiles1[] = {pack_tiles<1, 1>, pack_tiles<1, 2>, pack_tiles<1, 3>, pack_tiles<1, 4>, pack_tiles<1, 5>, pack_tiles<1, 6>};
constexpr PackFn kTiles2[] = {pack_tiles<2, 1>, pack_tiles<2, 2>, pack_tiles<2, 3>};

void pack(const Conv2d& c, const void* prepared, const uint8_t* x, void* scratch, Share share) {
    const Swap& s = *static_cast<const Swap*>(prepared);
    const Scratch at = scratch_of(c);
    uint8_t *codes = static_cast<uint8_t*>(scratch), *packed = codes + at.codes;
    const int32_t groups = pack_groups(c, s.code_bits), end = end_of(share, groups);
    for (int32_t g = begin_of(share, groups); g < end; ++g) {
        if (pointwise(c) && s.pixels == kSwapPixels) {
            const GroupPlanes group = group_of(c, s.code_bits, x, g);
            (s.code_bits == 1 ? kTiles1 : kTiles2)[group.planes - 1](group.pixels, s.steps * kSwapPixels, codes + 4 * g * kSwapPixels);
            continue;
        }
        pack_planes(c, s.code_bits, x, g, at.packed_stride, packed);
        for (int32_t p = 4 * g; p < s.byte_planes && p < 4 * g + 4; ++p)
            apply_moves(*swap_part<MoveList>(s, s.moves), packed + p * at.packed_stride, swap_part<uint8_t>(s, s.outside)[p],
                        codes + static_cast<int64_t>(p) * s.taps * kSwapPixels);
    }
}

struct Walk {                               // of one tile
    const uint8_t *codes, *weights, *start, *rows;
    const int32_t* flush;
    int32_t steps;
};

// sums: [pixel][vector], of channels instead of positions.
template <int Q, int V>
void tile(const Walk& walk, TileSums* sums) {
    const uint8_t *codes = walk.codes, *weights = walk.weights, *start = walk.start;
    const int32_t* flush = walk.flush;
    for (int32_t s = 0; s < walk.steps; start += 64 * V) {
        const bool first = s == 0;
        __m512i acc[Q][V];
#pragma GCC unroll 8
        for (int q = 0; q < Q; ++q)
#pragma GCC unroll 3
            for (int v = 0; v < V; ++v) acc[q][v] = _mm512_load_si512(start + 64 * v);
        for (const int32_t end = *flush++; s < end; ++s, codes += kSwapPixels, weights += 64 * V) {
            __m512i index[V];
#pragma GCC unroll 3
            for (int v = 0; v < V; ++v) {
                index[v] = _mm512_load_si512(weights + 64 * v);
                prefetch_stream(weights + 64 * v);
            }
#pragma GCC unroll 8
            for (int q = 0; q < Q; ++q) {
                const __m512i entries = _mm512_load_si512(walk.rows + 64 * codes[q]);
#pragma GCC unroll 3
                for (int v = 0; v < V; ++v) look_up_add(acc[q][v], index[v], entries);
            }
        }
#pragma GCC unroll 8
        for (int q = 0; q < Q; ++q)
#pragma GCC unroll 3
            for (int v = 0; v < V; ++v) {
                __asm__ volatile("" : "+v"(acc[q][v]) : : "memory");        // one after the other: together they would spill
                widen(sums[q * V + v], acc[q][v], first);
            }
    }
}

// The codes of 64 channels at one pixel.
template <int kCount>
inline __m512i channel_codes(const TileSums& sums, const uint16_t* threshold, __m512i flip) {
    const EvenOdd s = load_sums(sums);
    const __m512i one = _mm512_set1_epi16(1);
    __m512i even = _mm512_setzero_si512(), odd = _mm512_setzero_si512();
#pragma GCC unroll 3
    for (int k = 0; k < kCount; ++k) {
        even = _mm512_mask_add_epi16(even, _mm512_cmpge_epu16_mask(s.even, _mm512_load_si512(threshold + 64 * k)), even, one);
        odd = _mm512_mask_add_epi16(odd, _mm512_cmpge_epu16_mask(s.odd, _mm512_load_si512(threshold + 64 * k + 32)), odd, one);
    }
    return _mm512_xor_si512(_mm512_or_si512(even, _mm512_slli_epi16(odd, 8)), flip);
}

// Stores the 64 channels of up to 4 neighbouring pixels: 16 C4 planes, of which `planes` exist, `pitch` bytes apart.
inline void store_pixels(uint8_t* y, int64_t pitch, int32_t planes, int32_t pixels, const __m512i (&code)[4]) {
    const __m512i low01 = _mm512_unpacklo_epi32(code[0], code[1]), high01 = _mm512_unpackhi_epi32(code[0], code[1]);
    const __m512i low23 = _mm512_unpacklo_epi32(code[2], code[3]), high23 = _mm512_unpackhi_epi32(code[2], code[3]);
    const __m512i part[4] = {_mm512_unpacklo_epi64(low01, low23), _mm512_unpackhi_epi64(low01, low23),
                             _mm512_unpacklo_epi64(high01, high23), _mm512_unpackhi_epi64(high01, high23)};
    const __mmask8 written = static_cast<__mmask8>((1 << pixels) - 1);
    for (int j = 0; j < 4; ++j) {           // 128-bit lane i holds C4 plane 4 i + j
        const __m128i lane[4] = {_mm512_castsi512_si128(part[j]), _mm512_extracti32x4_epi32(part[j], 1),
                                 _mm512_extracti32x4_epi32(part[j], 2), _mm512_extracti32x4_epi32(part[j], 3)};
        for (int i = 0; i < 4 && 4 * i + j < planes; ++i) {
            uint8_t* to = y + (4 * i + j) * pitch;
            if (pixels == 4) _mm_storeu_si128(reinterpret_cast<__m128i*>(to), lane[i]);
            else _mm_mask_storeu_epi32(to, written, lane[i]);
        }
    }
}

template <int Q, int V, int kCount>
void finish_tile(const Conv2d& c, const Swap& s, int32_t t, int32_t vector, const TileSums* sums, uint8_t* y) {
    const int64_t pixels = static_cast<int64_t>(c.h_out) * c.w_out, first = static_cast<int64_t>(t) * Q;
    for (int32_t v = vector; v < vector + V; ++v) {
        const __m512i flip = _mm512_load_si512(swap_part<uint8_t>(s, s.flip) + 64 * v);
        const uint16_t* threshold = swap_part<uint16_t>(s, s.threshold) + 64 * kLookupThresholds * v;
        for (int32_t q = 0; q < Q && first + q < pixels; q += 4) {
            __m512i code[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i)
                code[i] = q + i < Q ? channel_codes<kCount>(sums[(q + i) * V + v - vector], threshold, flip) : _mm512_setzero_si512();
            const int64_t left = (Q < pixels - first ? Q : pixels - first) - q;
            store_pixels(y + (16 * v * pixels + first + q) * 4, 4 * pixels, (c.c_out + 3) / 4 - 16 * v,
                         static_cast<int32_t>(left < 4 ? left : 4), code);
        }
    }
}

// One tile of pixels at the V vectors of channels from `vector` on.
template <int Q, int V>
void run_tile(const Conv2d& c, const Swap& s, const uint8_t* codes, int32_t t, int32_t vector, uint8_t* y) {
    TileSums sums[Q * V];
    const int64_t before = static_cast<int64_t>(kSwapLanes) * vector;       // channels of earlier groups
    tile<Q, V>({codes + static_cast<int64_t>(t) * s.steps * kSwapPixels, swap_part<uint8_t>(s, s.weights) + before * s.steps,
                swap_part<uint8_t>(s, s.start) + before * s.runs, kRows[s.code_bits - 1].row[0], swap_part<int32_t>(s, s.flush),
                s.steps}, sums);
    if (c.requant.levels == 2) finish_tile<Q, V, 1>(c, s, t, vector, sums, y);
    else finish_tile<Q, V, kLookupThresholds>(c, s, t, vector, sums, y);
}

using TileFn = void (*)(const Conv2d&, const Swap&, const uint8_t*, int32_t, int32_t, uint8_t*);
constexpr TileFn kTile[2][3] = {{run_tile<7, 1>, run_tile<7, 2>, run_tile<7, 3>}, {run_tile<8, 1>, run_tile<8, 2>, run_tile<8, 3>}};

void compute(const Conv2d& c, const void* prepared, const uint8_t*, void* y, const void* scratch, Share share) {
    const Swap& s = *static_cast<const Swap*>(prepared);
    const GridPart part = part_of(share, s.tiles, swap_groups(s.vectors), 1, false);
    for (int32_t g = part.block; g < part.blocks_end; ++g) {
        const int32_t first = swap_first(s.vectors, g), n = swap_first(s.vectors, g + 1) - first;
        for (int32_t t = part.vector; t < part.vectors_end; ++t)
            kTile[s.pixels - 7][n - 1](c, s, static_cast<const uint8_t*>(scratch), t, first, static_cast<uint8_t*>(y));
    }
}

}  // namespace

const Variant kConv2dLookupSwapAvx512{"lookup_swap_avx512_vbmi", 2 | 1, supports, prepared_bytes, prepare, scratch_bytes, pack, compute};

}  // namespace edgenas
