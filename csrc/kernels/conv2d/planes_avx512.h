// The padded form of stride-2 layers (planes.h) for AVX-512: both column phases of a row in one pass.
// Everything here has internal linkage: only files compiled for AVX-512 may include it.
#pragma once
#include <immintrin.h>

#include <algorithm>

#include "planes.h"

namespace edgenas {
namespace {

// Lanes of 16 consecutive columns from x on that lie in [0, w).
inline __mmask16 columns_inside(int32_t x, int32_t w) {
    const int32_t first = std::clamp(-x, 0, 16), end = std::clamp(w - x, first, 16);
    return static_cast<__mmask16>((1u << end) - (1u << first));
}

// One image row, or null outside the image, as `p.row` elements of the even and of the odd padded columns.
inline void fill_phase_rows(const Planes& p, const uint32_t* row, __m512i outside, uint32_t* even, uint32_t* odd) {
    const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odds = _mm512_add_epi32(evens, _mm512_set1_epi32(1));
    for (int32_t i = 0; i < p.row; i += 16) {
        __m512i low = outside, high = outside;
        if (row != nullptr) {
            const int32_t x = 2 * i - p.pad;
            const bool inside = x >= 0 && x + 32 <= p.w;
            low = inside ? _mm512_loadu_si512(row + x) : _mm512_mask_loadu_epi32(outside, columns_inside(x, p.w), row + x);
            high = inside ? _mm512_loadu_si512(row + x + 16) : _mm512_mask_loadu_epi32(outside, columns_inside(x + 16, p.w), row + x + 16);
        }
        const __mmask16 written = i + 16 <= p.row ? 0xFFFF : columns_inside(i, p.row);
        _mm512_mask_storeu_epi32(even + i, written, _mm512_permutex2var_epi32(low, evens, high));
        _mm512_mask_storeu_epi32(odd + i, written, _mm512_permutex2var_epi32(low, odds, high));
    }
}

// As fill_plane, for p.phases == 2.
inline void fill_phases(const Planes& p, const uint32_t* src, uint32_t outside, uint32_t* dst, Share share) {
    const __m512i padding = _mm512_set1_epi32(static_cast<int32_t>(outside));
    for (int32_t r = 2 * begin_of(share, p.rows); r < 2 * end_of(share, p.rows); ++r) {
        const int32_t y = r - p.pad;
        uint32_t* even = dst + 2 * (r % 2) * static_cast<int64_t>(p.phase_size) + r / 2 * p.row;
        fill_phase_rows(p, y >= 0 && y < p.h ? src + static_cast<int64_t>(y) * p.w : nullptr, padding, even, even + p.phase_size);
    }
}

}  // namespace
}  // namespace edgenas
