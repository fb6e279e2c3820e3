// Integer convolution for NEON without dot product (Cortex-A53, A72, and 32-bit ARMv7), every weight and activation width, exact.
//
// Lanes are 4 output positions (planes.h), each holding one C4 element, so a product of bytes is one channel of one position and
// smlal adds 8 of them to 8 sums of 16 bits. How far these can grow is known from the weights: they are widened to 32 bits only at
// flush points (dense.h). smlal is signed: 8-bit codes enter as code - 128, narrower ones as they are.
#include "../../runtime/cpu.h"
#include "tiles_neon.h"
#include "variants.h"

namespace edgenas {
namespace {

constexpr int32_t kQ = 4;                   // output channels of a block
#if defined(__aarch64__)
constexpr int32_t kMaxV = 3;                // vectors of a tile: 24 of 32 registers are sums
#else
constexpr int32_t kMaxV = 1;                // 8 of 16
#endif
constexpr int32_t kLanes = 4;
constexpr DenseShape kShape{.channels = kQ, .lanes = kLanes, .saturating = false, .signed_codes = true, .single_sums = true};

bool supports(const Conv2d&) { return true; }
size_t prepared_bytes(const Conv2d& c) { return dense_bytes(c, kShape); }
void prepare(const Conv2d& c, void* prepared) { dense_prepare(c, kShape, prepared); }
size_t scratch_bytes(const Conv2d& c) { return input_bytes(c); }

// The 16-bit sums of 4 positions, 4 channels each: positions 0 and 1, then 2 and 3.
struct Narrow {
    int16x8_t low, high;
};

// One output channel: its weights of a tap are word q of four.
template <int q, int V>
inline void add_channel(Narrow (&acc)[V], const int8x16_t (&in)[V], int32x4_t weights) {
#if defined(__aarch64__)
    const int8x16_t w = vreinterpretq_s8_s32(vdupq_laneq_s32(weights, q));
#else
    const int8x8_t w = vreinterpret_s8_s32(vdup_lane_s32(q < 2 ? vget_low_s32(weights) : vget_high_s32(weights), q % 2));
#endif
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) {
#if defined(__aarch64__)
        acc[v].low = vmlal_s8(acc[v].low, vget_low_s8(in[v]), vget_low_s8(w));
        acc[v].high = vmlal_high_s8(acc[v].high, in[v], w);
#else
        acc[v].low = vmlal_s8(acc[v].low, vget_low_s8(in[v]), w);
        acc[v].high = vmlal_s8(acc[v].high, vget_high_s8(in[v]), w);
#endif
    }
}

// 32-bit sums of pairs of channels, in the order of Narrow.
struct Wide {
    int32x4_t low, high;
};

inline void widen(Wide& to, const Narrow& sum, bool first) {
    to.low = first ? vpaddlq_s16(sum.low) : vpadalq_s16(to.low, sum.low);
    to.high = first ? vpaddlq_s16(sum.high) : vpadalq_s16(to.high, sum.high);
}

struct Tile {
    const uint8_t* x;                       // input at the first position
    const int32_t* tap;
    int32_t steps;
    const int32_t* weights;                 // [steps][kQ], each of four input channels
    const int32_t* flush;
    int32_t live;                           // kPart: lanes of the only vector that may be read
};

// kFlip: codes are raised to signed by their top bit.
template <int V, bool kFlip, bool kPart>
void tile(const Tile& t, Wide* sums) {
    const uint8x16_t flip = vdupq_n_u8(kFlip ? 0x80 : 0);
    const int32_t *w = t.weights, *flush = t.flush;
    for (int32_t s = 0; s < t.steps;) {
        const bool first = s == 0;
        Narrow acc[kQ][V];
#pragma GCC unroll 4
        for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 3
            for (int v = 0; v < V; ++v) acc[q][v] = {vdupq_n_s16(0), vdupq_n_s16(0)};
        for (const int32_t end = *flush++; s < end; ++s, w += kQ) {
            const uint8_t* at = t.x + t.tap[s];
            int8x16_t in[V];
#pragma GCC unroll 3
            for (int v = 0; v < V; ++v) {
                const uint8x16_t codes = kPart ? load_lanes(at, t.live) : vld1q_u8(at + 16 * v);
                in[v] = vreinterpretq_s8_u8(kFlip ? veorq_u8(codes, flip) : codes);
            }
            const int32x4_t weights = vld1q_s32(w);
            add_channel<0>(acc[0], in, weights);
            add_channel<1>(acc[1], in, weights);
            add_channel<2>(acc[2], in, weights);
            add_channel<3>(acc[3], in, weights);
        }
#pragma GCC unroll 4
        for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 3
            for (int v = 0; v < V; ++v) widen(sums[q * V + v], acc[q][v], first);
    }
}

struct Job {
    const Conv2d& conv;
    const Dense& dense;
    const uint8_t* x;
    void* y;
};

template <int V, bool kPart>
void run_tile(const Job& job, int32_t b, int32_t v, int32_t live) {
    const Dense& d = job.dense;
    const DenseBlock& block = dense_part<DenseBlock>(d, d.block)[b];
    const int64_t first = static_cast<int64_t>(block.plane) * d.planes.size + static_cast<int64_t>(v) * kLanes;
    const Tile t{job.x + 4 * first,
                 dense_part<int32_t>(d, d.tap),
                 block.steps,
                 dense_part<int32_t>(d, d.weights + block.weights),
                 dense_part<int32_t>(d, d.flush) + block.flush,
                 live};
    Wide wide[kQ * V];
    if (d.flip) tile<V, true, kPart>(t, wide);
    else tile<V, false, kPart>(t, wide);
    alignas(16) int32_t sums[kQ * V * kLanes];
    const int32_t* start = dense_part<int32_t>(d, d.start) + b * kQ;
    for (int q = 0; q < kQ; ++q)
        for (int i = q * V; i < (q + 1) * V; ++i)
            vst1q_s32(sums + i * kLanes, vaddq_s32(vdupq_n_s32(start[q]), add_pairs(wide[i].low, wide[i].high)));
    finish(job.conv, b * kQ, Sums<V>{sums, dense_part<OutputSpan>(d, d.span) + v}, job.y);
}

void pack(const Conv2d& c, const void* prepared, const uint8_t* x, void* scratch, Share share) {
    copy_input(c, static_cast<const Dense*>(prepared)->planes, x, scratch, share);
}

void compute(const Conv2d& c, const void* prepared, const uint8_t* x, void* y, const void* scratch, Share share) {
    const Dense& d = *static_cast<const Dense*>(prepared);
    const Job job{c, d, input_of(d.planes, x, scratch), y};
    for_tiles(d, share, kMaxV, [&](int32_t b, int32_t v, int32_t vectors) {
        const int32_t live = d.planes.positions - (v + vectors - 1) * kLanes;
        if (live < kLanes && !d.planes.copied) return run_tile<1, true>(job, b, v, live);
        switch (vectors) {
            case 1: return run_tile<1, false>(job, b, v, live);
#if defined(__aarch64__)
            case 2: return run_tile<2, false>(job, b, v, live);
#endif
            default: return run_tile<kMaxV, false>(job, b, v, live);
        }
    });
}

}  // namespace

const Variant kConv2dNeon{"neon", cpu::kNeon, supports, prepared_bytes, prepare, scratch_bytes, pack, compute};

}  // namespace edgenas
