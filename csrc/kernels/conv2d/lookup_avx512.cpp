// Convolution of at most 2-bit codes and weights by table lookup (lookup.h), for AVX-512 VBMI: 3 codes of 2 bits or 6 of 1 bit a
// byte, 64-entry rows.
//
// Lanes are 64 consecutive output positions. One vpermb looks up 64 indices in the row that the weights select, one vpaddb adds:
// 192 or 384 multiply-adds. A tile of 8 output channels x up to 3 vectors of byte sums lives in registers.
#include "lookup_finish_avx512.h"
#include "lookup_pack_avx512.h"
#include "variants.h"

namespace edgenas {
namespace {

constexpr int32_t kQ = 8;                   // output channels of a block
constexpr int32_t kMaxV = 3;                // vectors of a tile
constexpr int32_t kLanes = 64;
constexpr int32_t kRowBytes = 64;
constexpr LookupShape kShape{kIndexBits, kQ, kLanes, kRowBytes, false};

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

// Prepared: what lookup_prepare builds, then the moves that place byte planes. Scratch: byte planes as packed, where the layer
// needs them so with room for what a move reads past their end; then in padded form.
struct Scratch {
    int64_t packed_stride, placed, total;
};

Scratch scratch_of(const Conv2d& c, const Planes& planes) {
    constexpr int64_t kSlack = 256;         // whole vectors are loaded past the last position
    const int64_t count = lookup_byte_planes(kIndexBits, lookup_code_bits(c), c.c_in);
    Scratch s{};
    s.packed_stride = planes.copied ? (static_cast<int64_t>(c.h) * c.w + kMoveWindow + 63) / 64 * 64 : planes.size;
    s.placed = planes.copied ? count * s.packed_stride : 0;
    s.total = s.placed + count * planes.size + kSlack;
    return s;
}

bool supports(const Conv2d& c) { return lookup_fits(c, kLeastPositions); }

size_t prepared_bytes(const Conv2d& c) {
    const Planes planes = byte_planes_of(c);
    return lookup_bytes(c, kShape) + (planes.copied ? move_list_bytes(padding_moves(planes)) : 0);
}

void prepare(const Conv2d& c, void* prepared) {
    lookup_prepare(c, kShape, prepared);
    const Lookup& l = *static_cast<const Lookup*>(prepared);
    if (l.planes.copied) store_moves(padding_moves(l.planes), static_cast<char*>(prepared) + l.total);
}

size_t scratch_bytes(const Conv2d& c) { return static_cast<size_t>(scratch_of(c, byte_planes_of(c)).total); }

void pack(const Conv2d& c, const void* prepared, const uint8_t* x, void* scratch, Share share) {
    const Lookup& l = *static_cast<const Lookup*>(prepared);
    const Scratch at = scratch_of(c, l.planes);
    uint8_t* packed = static_cast<uint8_t*>(scratch);
    const MoveList& moves = *lookup_part<MoveList>(l, l.total);
    const int32_t groups = pack_groups(c, l.code_bits), end = end_of(share, groups);
    for (int32_t g = begin_of(share, groups); g < end; ++g) {
        pack_planes(c, l.code_bits, x, g, at.packed_stride, packed);
        if (!l.planes.copied) continue;
        for (int32_t p = 4 * g; p < l.byte_planes && p < 4 * g + 4; ++p)
            apply_moves(moves, packed + p * at.packed_stride, lookup_part<uint8_t>(l, l.outside)[p],
                        packed + at.placed + static_cast<int64_t>(p) * l.planes.size);
    }
}

// Assembly, because gcc otherwise looks up everything first and spills sums in the innermost loop.
inline void look_up_add(__m512i& sum, __m512i index, __m512i row) {
    __m512i found;
    __asm__ volatile("vpermb %3, %2, %1\n\tvpaddb %1, %0, %0" : "+v"(sum), "=&v"(found) : "v"(index), "v"(row));
}

struct Walk {                               // of one block of output channels
    const int32_t *tap, *flush;
    const uint16_t* row;
    int32_t steps;
    const uint8_t* rows;
    bool bytes;                             // sums fit bytes and are wanted so
};

// sums: [channel][vector].
template <int V>
void tile(const uint8_t* x, const Walk& walk, TileSums* sums) {
    const uint16_t* row = walk.row;
    const int32_t* flush = walk.flush;
    for (int32_t s = 0; s < walk.steps;) {
        const bool first = s == 0;
        __m512i acc[kQ][V];
#pragma GCC unroll 8
        for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 3
            for (int v = 0; v < V; ++v) acc[q][v] = _mm512_setzero_si512();
        for (const int32_t end = *flush++; s < end; ++s, row += kQ) {
            const uint8_t* at = x + walk.tap[s];
            __m512i index[V];
#pragma GCC unroll 3
            for (int v = 0; v < V; ++v) index[v] = _mm512_loadu_si512(at + kLanes * v);
#pragma GCC unroll 8
            for (int q = 0; q < kQ; ++q) {
                const __m512i entries = _mm512_load_si512(walk.rows + row[q]);
#pragma GCC unroll 3
                for (int v = 0; v < V; ++v) look_up_add(acc[q][v], index[v], entries);
            }
        }
#pragma GCC unroll 8
        for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 3
            for (int v = 0; v < V; ++v) {
                __asm__ volatile("" : "+v"(acc[q][v]) : : "memory");        // one after the other: together they would spill
                if (walk.bytes) _mm512_store_si512(sums[q * V + v].even, acc[q][v]);
                else widen(sums[q * V + v], acc[q][v], first);
            }
    }
}

// One block of output channels at V vectors of positions from v on.
template <int V>
void run_tile(const Conv2d& c, const Lookup& l, const uint8_t* planes, int32_t b, int32_t v, void* y) {
    const int32_t* flush = lookup_part<int32_t>(l, l.flush) + lookup_part<int32_t>(l, l.first)[b];
    const bool bytes = l.bytes && *flush == l.steps;
    const uint16_t* row = lookup_part<uint16_t>(l, l.row) + static_cast<int64_t>(b) * l.steps * kQ;
    TileSums sums[kQ * V];
    tile<V>(planes + v * kLanes, {lookup_part<int32_t>(l, l.tap), flush, row, l.steps, kRows[l.code_bits - 1].row[0], bytes}, sums);
    const Compare form = bytes ? Compare::kBytes : l.bytes ? Compare::kPaired : Compare::kWords;
    for (int32_t q = 0; q < kQ && b * kQ + q < c.c_out; q += 4)
        finish_lookup<V>(c, l, form, b * kQ + q, sums + q * V, lookup_part<OutputSpan>(l, l.span) + 4 * v, y);
}

using TileFn = void (*)(const Conv2d&, const Lookup&, const uint8_t*, int32_t, int32_t, void*);
constexpr TileFn kTile[kMaxV] = {run_tile<1>, run_tile<2>, run_tile<3>};

// Vectors of the next tile: full ones, but 2 + 2 rather than 3 + 1.
constexpr int32_t tile_vectors(int32_t left) { return left == 4 ? 2 : left < kMaxV ? left : kMaxV; }

void compute(const Conv2d& c, const void* prepared, const uint8_t*, void* y, const void* scratch, Share share) {
    const Lookup& l = *static_cast<const Lookup*>(prepared);
    const uint8_t* planes = static_cast<const uint8_t*>(scratch) + scratch_of(c, l.planes).placed;
    const GridPart part = part_of(share, l.vectors, l.blocks, kMaxV, false);
    for (int32_t v = part.vector, n; v < part.vectors_end; v += n) {
        n = tile_vectors(part.vectors_end - v);
        for (int32_t b = part.block; b < part.blocks_end; ++b) kTile[n - 1](c, l, planes, b, v, y);
    }
}

}  // namespace

const Variant kConv2dLookupAvx512{"lookup_avx512_vbmi", 2 | 1, supports, prepared_bytes, prepare, scratch_bytes, pack, compute};

}  // namespace edgenas
