// Integer convolution for AVX-512 VNNI, every weight and activation width.
//
// Lanes are 16 output positions (planes.h), each lane holding one C4 element, so one vpdpbusd adds four channels of one tap:
// unsigned codes x signed weights, exact in int32. A tile of 8 output channels x up to 3 vectors lives in registers
// (24 sums, 3 inputs, 1 weight). The zero point is a constant per output channel: the sums start at -z * sum(w).
#include "dense.h"
#include "finish_avx512.h"
#include "planes_avx512.h"
#include "variants.h"

namespace edgenas {
namespace {

constexpr int32_t kMaxQ = 8;                // output channels of a block
constexpr int32_t kMaxV = 3;                // vectors of a tile
constexpr int32_t kLanes = 16;

// Blocks of grouped layers are one C4 plane wide: wider ones would read more planes, most of them with zero weights.
constexpr int32_t block_channels(const Conv2d& c) { return c.groups > 1 ? 4 : kMaxQ; }
constexpr DenseShape shape_of(const Conv2d& c) { return {block_channels(c), kLanes, false}; }

bool supports(const Conv2d&) { return true; }
size_t prepared_bytes(const Conv2d& c) { return dense_bytes(c, shape_of(c)); }
void prepare(const Conv2d& c, void* prepared) { dense_prepare(c, shape_of(c), prepared); }
size_t scratch_bytes(const Conv2d& c) { return input_bytes(c); }

// sums[q][v] = start[q] + dot products of V vectors of positions from x on. Lanes outside `tail` of the last vector are not
// read: a tensor used in place (1x1) ends there.
template <int kQ, int V>
void tile(const uint8_t* x, const int32_t* tap, int32_t steps, const int32_t* w, const int32_t* start, __mmask16 tail, int32_t* sums) {
    __m512i acc[kQ][V];
#pragma GCC unroll 8
    for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) acc[q][v] = _mm512_set1_epi32(start[q]);
    for (int32_t s = 0; s < steps; ++s, w += kQ) {
        const uint8_t* at = x + tap[s];
        __m512i in[V];
#pragma GCC unroll 3
        for (int v = 0; v < V - 1; ++v) in[v] = _mm512_loadu_si512(at + 64 * v);
        in[V - 1] = _mm512_maskz_loadu_epi32(tail, at + 64 * (V - 1));
#pragma GCC unroll 8
        for (int q = 0; q < kQ; ++q) {
            const __m512i weight = _mm512_set1_epi32(w[q]);
#pragma GCC unroll 3
            for (int v = 0; v < V; ++v) add_products(acc[q][v], in[v], weight);
        }
    }
#pragma GCC unroll 8
    for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) _mm512_store_si512(sums + (q * V + v) * kLanes, acc[q][v]);
}

using TileFn = void (*)(const uint8_t*, const int32_t*, int32_t, const int32_t*, const int32_t*, __mmask16, int32_t*);
constexpr TileFn kTile4[kMaxV] = {tile<4, 1>, tile<4, 2>, tile<4, 3>};
constexpr TileFn kTile8[kMaxV] = {tile<8, 1>, tile<8, 2>, tile<8, 3>};

// Vectors of the next tile: full ones, but 2 + 2 rather than 3 + 1.
constexpr int32_t tile_vectors(int32_t left) { return left == 4 ? 2 : left < kMaxV ? left : kMaxV; }

void run_tile(const Conv2d& c, const Dense& d, const uint8_t* x, void* y, int32_t b, int32_t v, int32_t vectors) {
    const DenseBlock& block = dense_part<DenseBlock>(d, d.block)[b];
    const int64_t first = static_cast<int64_t>(block.plane) * d.planes.size + static_cast<int64_t>(v) * kLanes;
    const int32_t left = d.planes.positions - (v + vectors - 1) * kLanes;
    const __mmask16 tail = static_cast<__mmask16>(d.planes.copied || left >= kLanes ? 0xFFFF : (1u << left) - 1);
    const int32_t channels = block_channels(c);
    alignas(64) int32_t sums[kMaxQ * kMaxV * kLanes];
    const TileFn run = (channels == 4 ? kTile4 : kTile8)[vectors - 1];
    run(x + 4 * first, dense_part<int32_t>(d, d.tap), block.steps, dense_part<int32_t>(d, d.weights + block.weights),
        dense_part<int32_t>(d, d.start) + b * channels, tail, sums);
    finish(c, dense_part<uint8_t>(d, d.table), b * channels, channels, vectors, sums, dense_part<OutputSpan>(d, d.span) + v, y);
}

void pack(const Conv2d& c, const void* prepared, const uint8_t* x, void* scratch, Share share) {
    const Planes& p = static_cast<const Dense*>(prepared)->planes;
    if (p.phases == 1) return copy_input(c, p, x, scratch, share);
    const int64_t pixels = static_cast<int64_t>(c.h) * c.w;
    for (int64_t i = 0; i < (c.c_in + 3) / 4; ++i)
        fill_phases(p, reinterpret_cast<const uint32_t*>(x) + i * pixels, 0x01010101u * static_cast<uint32_t>(c.zero_point),
                    static_cast<uint32_t*>(scratch) + i * p.size, share);
}

void compute(const Conv2d& conv, const void* prepared, const uint8_t* x, void* y, const void* scratch, Share share) {
    const Dense& d = *static_cast<const Dense*>(prepared);
    const Conv2d c = with_multipliers(conv, d);
    x = input_of(d.planes, x, scratch);
    const GridPart part = part_of(share, d.vectors, d.blocks, kMaxV, large_weights(d));
    if (large_weights(d)) {
        for (int32_t b = part.block; b < part.blocks_end; ++b)
            for (int32_t v = part.vector, n; v < part.vectors_end; v += n)
                run_tile(c, d, x, y, b, v, n = tile_vectors(part.vectors_end - v));
    } else {
        for (int32_t v = part.vector, n; v < part.vectors_end; v += n) {
            n = tile_vectors(part.vectors_end - v);
            for (int32_t b = part.block; b < part.blocks_end; ++b) run_tile(c, d, x, y, b, v, n);
        }
    }
}

}  // namespace

const Variant kConv2dAvx512{"avx512_vnni", 2 | 1, supports, prepared_bytes, prepare, scratch_bytes, pack, compute};

}  // namespace edgenas
