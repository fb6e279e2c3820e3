// The int8-style kernel of avx512.cpp with the roles exchanged, for images with few pixels: lanes are 16 output channels with four
// input channels each, and the codes of a pixel are broadcast. So no lane is lost to short rows.
//
// A tile is 7 or 8 neighbouring pixels of a row x 2 vectors of channels: 16 sums in registers.
#include <cstring>

#include "dense.h"
#include "finish_avx512.h"
#include "variants.h"

namespace edgenas {
namespace {

constexpr int32_t kV = 2;                   // vectors of channels
constexpr int32_t kChannels = 16 * kV;
constexpr DenseShape kShape{kChannels, 16, false};

// Pixels of a tile, 0 if rows are no multiple of it.
constexpr int32_t tile_pixels(int32_t w_out) { return w_out % 8 == 0 ? 8 : w_out % 7 == 0 ? 7 : 0; }

// Where avx512.cpp would lose a tenth of its lanes.
bool supports(const Conv2d& c) {
    const int64_t pixels = static_cast<int64_t>(c.h_out) * c.w_out, lanes = (planes_of(c).positions + 15) / 16 * 16;
    return c.groups == 1 && c.c_out % kChannels == 0 && tile_pixels(c.w_out) > 0 && 10 * pixels < 9 * lanes;
}

size_t prepared_bytes(const Conv2d& c) { return dense_bytes(c, kShape); }
void prepare(const Conv2d& c, void* prepared) { dense_prepare(c, kShape, prepared); }
size_t scratch_bytes(const Conv2d& c) { return input_bytes(c); }

void pack(const Conv2d& c, const void* prepared, const uint8_t* x, void* scratch, Share share) {
    copy_input(c, static_cast<const Dense*>(prepared)->planes, x, scratch, share);
}

inline __m512i broadcast_codes(const uint8_t* at) {
    int32_t codes;
    std::memcpy(&codes, at, sizeof(codes));
    return _mm512_set1_epi32(codes);
}

// Sums of 4 pixels [pixel] of 16 channels to [channel][16 positions], from `to` on.
inline void transpose(const __m512i (&sums)[4], int32_t* to) {
    const __m512i low01 = _mm512_unpacklo_epi32(sums[0], sums[1]), high01 = _mm512_unpackhi_epi32(sums[0], sums[1]);
    const __m512i low23 = _mm512_unpacklo_epi32(sums[2], sums[3]), high23 = _mm512_unpackhi_epi32(sums[2], sums[3]);
    const __m512i part[4] = {_mm512_unpacklo_epi64(low01, low23), _mm512_unpackhi_epi64(low01, low23),
                             _mm512_unpacklo_epi64(high01, high23), _mm512_unpackhi_epi64(high01, high23)};
    for (int j = 0; j < 4; ++j) {           // 128-bit lane i holds channel 4 i + j
        const __m128i lane[4] = {_mm512_castsi512_si128(part[j]), _mm512_extracti32x4_epi32(part[j], 1),
                                 _mm512_extracti32x4_epi32(part[j], 2), _mm512_extracti32x4_epi32(part[j], 3)};
        for (int i = 0; i < 4; ++i) _mm_store_si128(reinterpret_cast<__m128i*>(to + (4 * i + j) * 16), lane[i]);
    }
}

// sums [channel][16 positions], of which Q are meant: start + dot products of Q pixels from x on.
template <int Q>
void tile(const uint8_t* x, const int32_t* tap, int32_t steps, const int8_t* weights, const int32_t* start, int32_t* sums) {
    __m512i acc[Q][kV];
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q)
#pragma GCC unroll 2
        for (int v = 0; v < kV; ++v) acc[q][v] = _mm512_load_si512(start + 16 * v);
    for (int32_t s = 0; s < steps; ++s, weights += 4 * kChannels) {
        const uint8_t* at = x + tap[s];
        __m512i weight[kV];
#pragma GCC unroll 2
        for (int v = 0; v < kV; ++v) {
            weight[v] = _mm512_load_si512(weights + 64 * v);
            prefetch_stream(weights + 64 * v);
        }
#pragma GCC unroll 8
        for (int q = 0; q < Q; ++q) {
            const __m512i codes = broadcast_codes(at + 4 * q);
#pragma GCC unroll 2
            for (int v = 0; v < kV; ++v) add_products(acc[q][v], codes, weight[v]);
        }
    }
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v)
#pragma GCC unroll 2
        for (int q = 0; q < 8; q += 4) {
            const __m512i four[4] = {acc[q][v], acc[q + 1][v], acc[q + 2][v], q + 3 < Q ? acc[q + 3 < Q ? q + 3 : 0][v] : __m512i{}};
            transpose(four, sums + 256 * v + q);
        }
}

template <int Q>
void run_tile(const Conv2d& c, const Dense& d, const uint8_t* x, void* y, int32_t b, int32_t t) {
    const int32_t row = t / (c.w_out / Q), column = t % (c.w_out / Q) * Q;
    const DenseBlock& block = dense_part<DenseBlock>(d, d.block)[b];
    alignas(64) int32_t sums[kChannels * 16];
    tile<Q>(x + 4 * (row * d.planes.row + column), dense_part<int32_t>(d, d.tap), block.steps,
            dense_part<int8_t>(d, d.weights + block.weights), dense_part<int32_t>(d, d.start) + b * kChannels, sums);
    const OutputSpan span{row * c.w_out + column, (1u << Q) - 1};
    finish(c, dense_part<uint8_t>(d, d.table), b * kChannels, kChannels, 1, sums, &span, y);
}

void compute(const Conv2d& conv, const void* prepared, const uint8_t* x, void* y, const void* scratch, Share share) {
    const Dense& d = *static_cast<const Dense*>(prepared);
    const Conv2d c = with_multipliers(conv, d);
    x = input_of(d.planes, x, scratch);
    const int32_t pixels = tile_pixels(c.w_out);
    const GridPart part = part_of(share, c.h_out * (c.w_out / pixels), d.blocks, 1, large_weights(d));
    for (int32_t b = part.block; b < part.blocks_end; ++b)
        for (int32_t t = part.vector; t < part.vectors_end; ++t) (pixels == 8 ? run_tile<8> : run_tile<7>)(c, d, x, y, b, t);
}

}  // namespace

const Variant kConv2dSwapAvx512{"swap_avx512_vnni", 2 | 1, supports, prepared_bytes, prepare, scratch_bytes, pack, compute};

}  // namespace edgenas
