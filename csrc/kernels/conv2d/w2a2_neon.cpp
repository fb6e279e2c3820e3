// Convolution of at most 2-bit codes and weights by table lookup (lookup.h), for NEON: 2 codes of 2 bits a byte, 16-entry rows.
//
// One tbl looks up 16 indices in the row that the weights select, one add: 32 multiply-adds in two instructions, as many as two sdot
// do. A row of 64 entries (3 codes) would take tbl with four table registers: 48 multiply-adds in two instructions, but vendors'
// optimization guides give it three times the cost of the one-register form (Cortex-A76, Neoverse N1: two every three cycles
// instead of two every cycle), and rows that are four loads.
#include "../../runtime/cpu.h"
#include "lookup_neon.h"
#include "variants.h"

namespace edgenas {
namespace {

struct alignas(16) Rows {
    uint8_t row[16][16];
    constexpr Rows() : row() {
        for (int32_t w = 0; w < 16; ++w)
            for (int32_t i = 0; i < 16; ++i) row[w][i] = static_cast<uint8_t>(lookup_entry(4, 2, w, i));
    }
};
constexpr Rows kRows;

struct W2A2 {
    static constexpr int32_t kIndexBits = 4, kRowBytes = 16;
#if defined(__aarch64__)
    static constexpr int32_t kMaxV = 4;     // vectors of a tile
#else
    static constexpr int32_t kMaxV = 2;
#endif

    static const uint8_t* table(int32_t) { return &kRows.row[0][0]; }

    template <int V>
    static void add(uint8x16_t (&acc)[kQ][V], const uint8x16_t (&index)[V], const uint16_t* row, const uint8_t* rows) {
#pragma GCC unroll 4
        for (int q = 0; q < kQ; ++q) {
            const uint8x16_t entries = vld1q_u8(rows + row[q]);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) acc[q][v] = vaddq_u8(acc[q][v], look_up(entries, index[v]));
        }
    }
};

using Kernel = ByteKernel<W2A2>;

bool supports(const Conv2d& c) { return lookup_code_bits(c) == 2 && lookup_fits(c, kLeastPositions); }

}  // namespace

const Variant kConv2dW2A2Neon{"w2a2_neon", cpu::kNeon, supports, Kernel::prepared_bytes, Kernel::prepare, Kernel::scratch_bytes,
                              pack,        Kernel::compute};

}  // namespace edgenas
