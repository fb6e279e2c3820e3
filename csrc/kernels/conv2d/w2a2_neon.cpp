// Convolution of at most 2-bit codes and weights by table lookup (lookup.h), for NEON: 2 codes a byte, 16-entry rows.
//
// Lanes are 16 consecutive output positions. One tbl looks up 16 indices for two output channels at once, 64 multiply-adds;
// lookup_runs.h says how what it finds is added. A tile is 4 output channels x up to kMaxV vectors.
//
// On aarch64 a row could have 64 entries (3 codes a byte) in the four table registers that tbl takes. Vendors' optimization guides
// (Cortex-A76, Neoverse N1) let that form start twice every three cycles, the one-register form twice every cycle, and such a row
// takes four loads.
#include "../../runtime/cpu.h"
#include "lookup_neon.h"
#include "variants.h"

namespace edgenas {
namespace {

#if defined(__aarch64__)
constexpr int32_t kMaxV = 4;                // vectors of a tile: 16 sums, 8 of a run, 4 indices, a row of 32 registers
#else
constexpr int32_t kMaxV = 2;
#endif
constexpr int32_t kIndexBits = 4, kRowBytes = 16, kPairs = kRunChannels / 2;
constexpr LookupShape kShape{kIndexBits, kRunChannels, kLanes, kRowBytes, true};

struct alignas(64) Rows {                   // [weights of the second channel][of the first one][index]
    uint8_t row[256][kRowBytes];
    constexpr Rows() : row() {
        for (int32_t w = 0; w < 256; ++w)
            for (int32_t i = 0; i < kRowBytes; ++i)
                row[w][i] = static_cast<uint8_t>(lookup_entry(kIndexBits, 2, w % 16, i) + lookup_entry(kIndexBits, 2, w / 16, i) * 16);
    }
};
constexpr Rows kRows;

bool supports(const Conv2d& c) { return lookup_code_bits(c) == 2 && lookup_fits(c, kLeastPositions); }
size_t prepared_bytes(const Conv2d& c) { return lookup_bytes(c, kShape); }
void prepare(const Conv2d& c, void* prepared) { lookup_prepare(c, kShape, prepared); }
size_t scratch_bytes(const Conv2d& c) { return static_cast<size_t>(scratch_of(c, byte_planes_of(c), kIndexBits).total); }

template <int V>
struct ByteSums {                           // [pair][vector]
    uint8x16_t both[kPairs][V];             // of both channels of a pair, low + 16 high mod 256
    uint8x16_t high[kPairs][V];             // of the second one
};

// Nothing, but gcc takes the sums to be complete before the next step is read. It otherwise looks up all steps first and spills.
template <int V>
inline void finish_step(uint8x16_t (&found)[kPairs][V], const RunStep*& step) {
#pragma GCC unroll 2
    for (int p = 0; p < kPairs; ++p)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) __asm__ volatile("" : "+w"(found[p][v]));
    __asm__ volatile("" : "+r"(step));
}

// All runs of a segment; every run has `kLength` steps. Returns the first step behind them.
template <int V, int kLength>
inline const RunStep* look_up_runs(int32_t runs, const uint8_t* x, const RunStep* step, ByteSums<V>& sums) {
    uint8x16_t both[kPairs][V], high[kPairs][V];
#pragma GCC unroll 2
    for (int p = 0; p < kPairs; ++p)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) both[p][v] = high[p][v] = vdupq_n_u8(0);
    for (; runs > 0; --runs, step += kLength) {
        uint8x16_t found[kPairs][V];
#pragma GCC unroll 4
        for (int k = 0; k < kLength; ++k) {
            const uint8_t* at = x + step[k].tap;
            uint8x16_t index[V];
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) index[v] = vld1q_u8(at + kLanes * v);
#pragma GCC unroll 2
            for (int p = 0; p < kPairs; ++p) {
                const uint8x16_t row = vld1q_u8(&kRows.row[0][0] + step[k].row[p]);
#pragma GCC unroll 4
                for (int v = 0; v < V; ++v) {
                    const uint8x16_t entries = look_up(row, index[v]);
                    found[p][v] = k == 0 ? entries : vaddq_u8(found[p][v], entries);
                }
            }
            finish_step(found, step);
        }
#pragma GCC unroll 2
        for (int p = 0; p < kPairs; ++p)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) {
                both[p][v] = vaddq_u8(both[p][v], found[p][v]);
                high[p][v] = vsraq_n_u8(high[p][v], found[p][v], 4);
            }
    }
#pragma GCC unroll 2
    for (int p = 0; p < kPairs; ++p)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sums.both[p][v] = both[p][v], sums.high[p][v] = high[p][v];
    return step;
}

template <int V>
const RunStep* look_up_segment(const RunSegment& segment, const uint8_t* x, const RunStep* step, ByteSums<V>& sums) {
    switch (segment.length) {
        case 1: return look_up_runs<V, 1>(segment.runs, x, step, sums);
        case 2: return look_up_runs<V, 2>(segment.runs, x, step, sums);
        case 3: return look_up_runs<V, 3>(segment.runs, x, step, sums);
        default: return look_up_runs<V, 4>(segment.runs, x, step, sums);
    }
}

struct Job {
    const Conv2d& conv;
    const Lookup& lookup;
    const uint8_t* planes;
    void* y;
};

template <int V>
void run_tile(const Job& job, int32_t v, int32_t b) {
    const Lookup& l = job.lookup;
    const RunStep* step = lookup_part<RunStep>(l, l.step) + static_cast<int64_t>(b) * l.steps;
    const RunSegment* segments = lookup_part<RunSegment>(l, l.segment);
    const int32_t *first = lookup_part<int32_t>(l, l.first) + b;
    alignas(16) Widened sums[kRunChannels * V];
    for (int32_t s = first[0]; s < first[1]; ++s) {
        ByteSums<V> found;
        step = look_up_segment<V>(segments[s], job.planes + v * kLanes, step, found);
        for (int p = 0; p < kPairs; ++p)
            for (int i = 0; i < V; ++i) {
                const uint8x16_t high = found.high[p][i], low = vsubq_u8(found.both[p][i], vshlq_n_u8(high, 4));
                widen(sums[2 * p * V + i], low, s == first[0]);
                widen(sums[(2 * p + 1) * V + i], high, s == first[0]);
            }
    }
    finish_tile(job.conv, l, b * kRunChannels, v, V, sums, job.y);
}

void compute(const Conv2d& c, const void* prepared, const uint8_t*, void* y, const void* scratch, Share share) {
    const Lookup& l = *static_cast<const Lookup*>(prepared);
    const Job job{c, l, placed_planes(c, l, scratch), y};
    for_tiles(l, share, kMaxV, [&](int32_t v, int32_t vectors, int32_t b) {
        switch (vectors) {
            case 1: return run_tile<1>(job, v, b);
#if defined(__aarch64__)
            case 2: return run_tile<2>(job, v, b);
            case 3: return run_tile<3>(job, v, b);
#endif
            default: return run_tile<kMaxV>(job, v, b);
        }
    });
}

}  // namespace

const Variant kConv2dW2A2Neon{"w2a2_neon", cpu::kNeon, supports, prepared_bytes, prepare, scratch_bytes, pack, compute};

}  // namespace edgenas
