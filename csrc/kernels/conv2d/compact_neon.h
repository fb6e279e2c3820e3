// Small vector helpers for NEON on aarch64 and armv7, where the latter lacks an instruction.
// Internal linkage: only files compiled for NEON may include it.
#pragma once
#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "planes.h"

namespace edgenas {
namespace {

// table[index] in each byte, indices below 16. On armv7 assembly, because gcc copies the table of vtbl2_u8 for every use.
inline uint8x16_t look_up(uint8x16_t table, uint8x16_t index) {
#if defined(__aarch64__)
    return vqtbl1q_u8(table, index);
#else
    uint8x16_t found;
    __asm__("vtbl.8 %e0, {%e1-%f1}, %e2\n\tvtbl.8 %f0, {%e1-%f1}, %f2" : "=&w"(found) : "w"(table), "w"(index));
    return found;
#endif
}

// Sums of neighbours: those of a, then those of b.
inline int32x4_t add_pairs(int32x4_t a, int32x4_t b) {
#if defined(__aarch64__)
    return vpaddq_s32(a, b);
#else
    return vcombine_s32(vpadd_s32(vget_low_s32(a), vget_high_s32(a)), vpadd_s32(vget_low_s32(b), vget_high_s32(b)));
#endif
}

// The first `live` 32-bit lanes, 1 to 4 of them, with nothing read behind them.
inline uint8x16_t load_lanes(const uint8_t* from, int32_t live) {
    uint32_t lanes[4] = {0, 0, 0, 0};
    std::memcpy(lanes, from, sizeof(uint32_t) * static_cast<size_t>(live < 4 ? live : 4));
    return vreinterpretq_u8_u32(vld1q_u32(lanes));
}

// order[m]: the bytes of the 32-bit lanes of the mask m, in ascending order.
struct CompactOrder {
    alignas(16) uint8_t order[16][16];
    constexpr CompactOrder() : order() {
        for (int m = 0; m < 16; ++m)
            for (int lane = 0, at = 0; lane < 4; ++lane)
                if (m >> lane & 1)
                    for (int i = 0; i < 4; ++i) order[m][at++] = static_cast<uint8_t>(4 * lane + i);
    }
};
constexpr CompactOrder kCompact;

// Writes the lanes of a span of 4 positions, and nothing else, to plane[span.out ...].
inline void store_span(void* plane, const OutputSpan& span, uint8x16_t elements) {
    uint32_t* to = static_cast<uint32_t*>(plane) + span.out;
    if (span.lanes == 0xF) {
        vst1q_u8(reinterpret_cast<uint8_t*>(to), elements);
        return;
    }
    const uint32x4_t lanes = vreinterpretq_u32_u8(look_up(elements, vld1q_u8(kCompact.order[span.lanes])));
    switch (__builtin_popcount(span.lanes)) {
        case 1: return vst1q_lane_u32(to, lanes, 0);
        case 2: return vst1_u32(to, vget_low_u32(lanes));
        case 3: vst1_u32(to, vget_low_u32(lanes)); return vst1q_lane_u32(to + 2, lanes, 2);
        default: return;
    }
}

}  // namespace
}  // namespace edgenas
