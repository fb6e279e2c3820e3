// Convolution of 1-bit codes and weights bit by bit, for NEON: 8 codes a byte, in the byte planes of lookup.h.
//
// A weight of +1 adds the code q, one of -1 adds -q, which raised by 1 is 1 - q: with weight bits (w + 1) / 2 the raised sum of a byte
// is the number of its bits in which code and weight agree. So eor, cnt and add do 128 multiply-adds. (A lookup in 16-entry rows
// for two output channels, lookup_runs.h, does 128 in tbl, add and usra, but takes more loads.)
#include "../../runtime/cpu.h"
#include "lookup_neon.h"
#include "variants.h"

namespace edgenas {
namespace {

constexpr int32_t kQ = kBlock;
#if defined(__aarch64__)
constexpr int32_t kMaxV = 4;                // vectors of a tile: 16 of 32 registers are sums
#else
constexpr int32_t kMaxV = 2;                // 8 of 16
#endif
constexpr int32_t kIndexBits = 8, kRowBytes = 1;                // the offset of a "row" is the weights themselves
constexpr LookupShape kShape{kIndexBits, kQ, kLanes, kRowBytes, false};

bool supports(const Conv2d& c) { return lookup_code_bits(c) == 1 && lookup_fits(c, kLeastPositions); }
size_t prepared_bytes(const Conv2d& c) { return lookup_bytes(c, kShape); }
void prepare(const Conv2d& c, void* prepared) { lookup_prepare(c, kShape, prepared); }
size_t scratch_bytes(const Conv2d& c) { return static_cast<size_t>(scratch_of(c, byte_planes_of(c), kIndexBits).total); }

// One output channel: `flipped` holds the inverted weights of four, each in the low byte of 16 bits.
template <int q, int V>
inline void add_channel(uint8x16_t (&acc)[V], const uint8x16_t (&codes)[V], uint8x8_t flipped) {
    const uint8x16_t weights = vdupq_lane_u8(flipped, 2 * q);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[v] = vaddq_u8(acc[v], vcntq_u8(veorq_u8(codes[v], weights)));
}

struct Tile {
    const uint8_t* x;                       // byte planes at the first position
    const int32_t* tap;
    const uint16_t* weights;                // [steps][kQ]
    const int32_t* flush;
    int32_t steps;
};

template <int V>
void tile(const Tile& t, Widened* sums) {
    const uint16_t* w = t.weights;
    const int32_t* flush = t.flush;
    for (int32_t s = 0; s < t.steps;) {
        const bool first = s == 0;
        uint8x16_t acc[kQ][V];
#pragma GCC unroll 4
        for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) acc[q][v] = vdupq_n_u8(0);
        for (const int32_t end = *flush++; s < end; ++s, w += kQ) {
            const uint8_t* at = t.x + t.tap[s];
            uint8x16_t codes[V];
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) codes[v] = vld1q_u8(at + kLanes * v);
            const uint8x8_t flipped = vmvn_u8(vreinterpret_u8_u16(vld1_u16(w)));
            add_channel<0>(acc[0], codes, flipped);
            add_channel<1>(acc[1], codes, flipped);
            add_channel<2>(acc[2], codes, flipped);
            add_channel<3>(acc[3], codes, flipped);
        }
#pragma GCC unroll 4
        for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) widen(sums[q * V + v], acc[q][v], first);
    }
}

void run_tile(const Tile& t, int32_t vectors, Widened* sums) {
    switch (vectors) {
        case 1: return tile<1>(t, sums);
#if defined(__aarch64__)
        case 2: return tile<2>(t, sums);
        case 3: return tile<3>(t, sums);
#endif
        default: return tile<kMaxV>(t, sums);
    }
}

void compute(const Conv2d& c, const void* prepared, const uint8_t*, void* y, const void* scratch, Share share) {
    const Lookup& l = *static_cast<const Lookup*>(prepared);
    const uint8_t* planes = placed_planes(c, l, scratch);
    for_tiles(l, share, kMaxV, [&](int32_t v, int32_t vectors, int32_t b) {
        const Tile t{planes + v * kLanes,
                     lookup_part<int32_t>(l, l.tap),
                     lookup_part<uint16_t>(l, l.row) + static_cast<int64_t>(b) * l.steps * kQ,
                     lookup_part<int32_t>(l, l.flush) + lookup_part<int32_t>(l, l.first)[b],
                     l.steps};
        alignas(16) Widened sums[kQ * kMaxV];
        run_tile(t, vectors, sums);
        finish_tile(c, l, b * kQ, v, vectors, sums, y);
    });
}

}  // namespace

const Variant kConv2dW1A1Neon{"w1a1_neon", cpu::kNeon, supports, prepared_bytes, prepare, scratch_bytes, pack, compute};

}  // namespace edgenas
