// Storing vectors of positions without their gaps on AVX2, which has no compress instruction.
// Internal linkage: only files compiled for AVX2 may include it.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "planes.h"

namespace edgenas {
namespace {

// All bits of the lanes 0 .. live-1.
inline __m256i first_lanes(int32_t live) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(live), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// order[m]: the lanes of the mask m in ascending order, one per byte.
struct CompactOrder {
    uint64_t order[256];
    constexpr CompactOrder() : order() {
        for (int m = 0; m < 256; ++m)
            for (int lane = 0, at = 0; lane < 8; ++lane)
                if (m >> lane & 1) order[m] |= static_cast<uint64_t>(lane) << (8 * at++);
    }
};
constexpr CompactOrder kCompact;

// Where the output of the vectors before `end` stops, in elements of a plane: a worker writes nothing behind its last one.
// spans: [vectors * per_vector].
inline int64_t store_limit(const OutputSpan* spans, int32_t end, int32_t vectors, int32_t per_vector, int64_t pixels) {
    return end < vectors ? spans[end * per_vector].out : pixels;
}

// Writes the lanes of the span to plane[span.out ...]. Vectors are stored in ascending order, so what a whole store leaves
// behind the live lanes is overwritten by the next ones; only where it would pass `limit` (store_limit) is the store exact.
inline void store_compact(void* plane, int64_t limit, const OutputSpan& span, __m256i elements) {
    if (span.lanes == 0) return;
    uint32_t* to = static_cast<uint32_t*>(plane) + span.out;
    if (span.lanes != 0xFF) {
        const __m128i order = _mm_cvtsi64_si128(static_cast<int64_t>(kCompact.order[span.lanes]));
        elements = _mm256_permutevar8x32_epi32(elements, _mm256_cvtepu8_epi32(order));
    }
    if (span.out + 8 <= limit) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), elements);
        return;
    }
    alignas(32) uint32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), elements);
    std::memcpy(to, lanes, sizeof(uint32_t) * static_cast<size_t>(__builtin_popcount(span.lanes)));
}

}  // namespace
}  // namespace edgenas
