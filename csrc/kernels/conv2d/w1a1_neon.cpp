// Convolution of 1-bit codes and weights bit by bit, for NEON: 8 codes a byte, in the byte planes of lookup.h.
//
// A weight of +1 adds the code q, one of -1 adds -q, which raised by 1 is 1 - q: with weight bits (w + 1) / 2 the raised sum of a byte
// is the number of its bits in which code and weight agree. So eor, cnt, add do 128 multiply-adds, against 64 in the two
// instructions of a lookup in 16-entry rows.
#include "../../runtime/cpu.h"
#include "lookup_neon.h"
#include "variants.h"

namespace edgenas {
namespace {

struct W1A1 {
    static constexpr int32_t kIndexBits = 8, kRowBytes = 1;     // a row's offset is the weights themselves
#if defined(__aarch64__)
    static constexpr int32_t kMaxV = 4;     // vectors of a tile
#else
    static constexpr int32_t kMaxV = 2;
#endif

    static const uint8_t* table(int32_t) { return nullptr; }

    template <int q, int V>
    static void add_channel(uint8x16_t (&acc)[V], const uint8x16_t (&codes)[V], uint8x8_t flipped) {
        const uint8x16_t weights = vdupq_lane_u8(flipped, 2 * q);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[v] = vaddq_u8(acc[v], vcntq_u8(veorq_u8(codes[v], weights)));
    }

    template <int V>
    static void add(uint8x16_t (&acc)[kQ][V], const uint8x16_t (&codes)[V], const uint16_t* row, const uint8_t*) {
        const uint8x8_t flipped = vmvn_u8(vreinterpret_u8_u16(vld1_u16(row)));
        add_channel<0>(acc[0], codes, flipped);
        add_channel<1>(acc[1], codes, flipped);
        add_channel<2>(acc[2], codes, flipped);
        add_channel<3>(acc[3], codes, flipped);
    }
};

using Kernel = ByteKernel<W1A1>;

bool supports(const Conv2d& c) { return lookup_code_bits(c) == 1 && lookup_fits(c, kLeastPositions); }

}  // namespace

const Variant kConv2dW1A1Neon{"w1a1_neon", cpu::kNeon, supports, Kernel::prepared_bytes, Kernel::prepare, Kernel::scratch_bytes,
                              pack,        Kernel::compute};

}  // namespace edgenas
