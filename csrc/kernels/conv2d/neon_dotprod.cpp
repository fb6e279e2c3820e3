// Integer convolution for NEON with the dot product instructions of ARMv8.2, every weight and activation width.
//
// Lanes are 4 output positions (planes.h), each lane holding one C4 element, so one sdot adds four channels of one tap, and the
// weights of four output channels are the four words of one register. A tile of 8 output channels x up to 3 vectors lives in
// registers (24 sums, 3 inputs, 2 weights). sdot is signed: 8-bit codes enter as code - 128, narrower ones as they are.
#include "../../runtime/cpu.h"
#include "tiles_neon.h"
#include "variants.h"

namespace edgenas {
namespace {

constexpr int32_t kQ = 8;                   // output channels of a block
constexpr int32_t kMaxV = 3;                // vectors of a tile
constexpr int32_t kLanes = 4;
constexpr DenseShape kShape{.channels = kQ, .lanes = kLanes, .saturating = false, .signed_codes = true};

bool supports(const Conv2d&) { return true; }
size_t prepared_bytes(const Conv2d& c) { return dense_bytes(c, kShape); }
void prepare(const Conv2d& c, void* prepared) { dense_prepare(c, kShape, prepared); }
size_t scratch_bytes(const Conv2d& c) { return input_bytes(c); }

// Four channels from one register of weights.
template <int V>
inline void add_channels(int32x4_t (*acc)[V], const int8x16_t (&in)[V], int8x16_t weights) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) {
        acc[0][v] = vdotq_laneq_s32(acc[0][v], in[v], weights, 0);
        acc[1][v] = vdotq_laneq_s32(acc[1][v], in[v], weights, 1);
        acc[2][v] = vdotq_laneq_s32(acc[2][v], in[v], weights, 2);
        acc[3][v] = vdotq_laneq_s32(acc[3][v], in[v], weights, 3);
    }
}

struct Tile {
    const uint8_t* x;                       // input at the first position
    const int32_t* tap;
    int32_t steps;
    const int8_t* weights;
    const int32_t* start;                   // [kQ]
    int32_t live;                           // kPart: lanes of the only vector that may be read
};

// sums[q][v] = start[q] + dot products. kFlip: codes are raised to signed by their top bit.
template <int V, bool kFlip, bool kPart>
void tile(const Tile& t, int32_t* sums) {
    const uint8x16_t flip = vdupq_n_u8(kFlip ? 0x80 : 0);
    int32x4_t acc[kQ][V];
#pragma GCC unroll 8
    for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) acc[q][v] = vdupq_n_s32(t.start[q]);
    const int8_t* w = t.weights;
    for (int32_t s = 0; s < t.steps; ++s, w += 4 * kQ) {
        const uint8_t* at = t.x + t.tap[s];
        int8x16_t in[V];
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            const uint8x16_t codes = kPart ? load_lanes(at, t.live) : vld1q_u8(at + 16 * v);
            in[v] = vreinterpretq_s8_u8(kFlip ? veorq_u8(codes, flip) : codes);
        }
        add_channels(acc, in, vld1q_s8(w));
        add_channels(acc + 4, in, vld1q_s8(w + 16));
    }
#pragma GCC unroll 8
    for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) vst1q_s32(sums + (q * V + v) * kLanes, acc[q][v]);
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
                 dense_part<int8_t>(d, d.weights + block.weights),
                 dense_part<int32_t>(d, d.start) + b * kQ,
                 live};
    alignas(16) int32_t sums[kQ * V * kLanes];
    if (d.flip) tile<V, true, kPart>(t, sums);
    else tile<V, false, kPart>(t, sums);
    const OutputSpan* spans = dense_part<OutputSpan>(d, d.span) + v;
    for (int32_t q = 0; q < kQ && b * kQ + q < job.conv.c_out; q += 4)
        finish(job.conv, b * kQ + q, Sums<V>{sums + q * V * kLanes, spans}, job.y);
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
            case 2: return run_tile<2, false>(job, b, v, live);
            default: return run_tile<kMaxV, false>(job, b, v, live);
        }
    });
}

}  // namespace

const Variant kConv2dNeonDotprod{"neon_dotprod", cpu::kNeonDotprod | cpu::kNeon, supports, prepared_bytes, prepare,
                                 scratch_bytes,  pack,                           compute};

}  // namespace edgenas
