// Epilogues of the lookup kernels for AVX-512: 64 lanes are 64 consecutive positions of one output channel.
// Everything here has internal linkage: only files compiled for AVX-512 may include it.
#pragma once
#include "finish_avx512.h"
#include "lookup.h"

namespace edgenas {
namespace {

// The sums of 64 positions. Widened: uint16 of the even and of the odd positions, where the even ones still contain 256 times
// their odd neighbour. Where bytes cannot overflow: the bytes as they are, in even[].
struct alignas(64) TileSums {
    uint16_t even[32], odd[32];
};

inline void widen(TileSums& to, __m512i sums, bool first) {
    const __m512i odd = _mm512_srli_epi16(sums, 8);
    if (first) {
        _mm512_store_si512(to.even, sums);
        _mm512_store_si512(to.odd, odd);
    } else {
        _mm512_store_si512(to.even, _mm512_add_epi16(_mm512_load_si512(to.even), sums));
        _mm512_store_si512(to.odd, _mm512_add_epi16(_mm512_load_si512(to.odd), odd));
    }
}

struct EvenOdd {
    __m512i even, odd;                      // uint16
};

inline EvenOdd load_sums(const TileSums& from) {
    const __m512i odd = _mm512_load_si512(from.odd);
    return {_mm512_sub_epi16(_mm512_load_si512(from.even), _mm512_slli_epi16(odd, 8)), odd};
}

// How sums become codes. Paired: bytes leave in the order of vpackuswb, even positions of each 16 before odd ones.
enum class Compare { kBytes, kPaired, kWords };

inline __m512i broadcast(uint8_t byte) { return _mm512_set1_epi8(static_cast<char>(byte)); }

// Codes of one channel, one byte per position.
template <Compare kForm, int kCount>
struct ChannelCodes {
    __m512i base, start, step, above[kCount];

    ChannelCodes(const Lookup& l, int32_t channel) {
        const LookupCompare& c = lookup_part<LookupCompare>(l, l.compare)[channel];
        base = kForm == Compare::kBytes ? broadcast(static_cast<uint8_t>(c.base)) : _mm512_set1_epi16(static_cast<int16_t>(c.base));
        start = broadcast(c.start), step = broadcast(c.step);
#pragma GCC unroll 3
        for (int k = 0; k < kCount; ++k) above[k] = broadcast(c.above[k]);
    }

    __m512i operator()(const TileSums& sums) const {
        __m512i bytes;
        if constexpr (kForm == Compare::kBytes) {
            bytes = _mm512_subs_epu8(_mm512_load_si512(sums.even), base);
        } else {
            const EvenOdd s = load_sums(sums);
            bytes = _mm512_packus_epi16(_mm512_subs_epu16(s.even, base), _mm512_subs_epu16(s.odd, base));
        }
        __m512i code = start;
#pragma GCC unroll 3
        for (int k = 0; k < kCount; ++k) code = _mm512_mask_add_epi8(code, _mm512_cmpgt_epu8_mask(bytes, above[k]), code, step);
        return code;
    }
};

// The same for thresholds too far apart for bytes.
template <int kCount>
struct ChannelCodes<Compare::kWords, kCount> {
    __m512i threshold[kCount], flip;

    ChannelCodes(const Lookup& l, int32_t channel) {
        const uint16_t* t = lookup_part<uint16_t>(l, l.threshold) + channel * kLookupThresholds;
#pragma GCC unroll 3
        for (int k = 0; k < kCount; ++k) threshold[k] = _mm512_set1_epi16(static_cast<int16_t>(t[k]));
        flip = broadcast(lookup_part<uint8_t>(l, l.flip)[channel]);
    }

    __m512i operator()(const TileSums& sums) const {
        const EvenOdd s = load_sums(sums);
        const __m512i one = _mm512_set1_epi16(1);
        __m512i even = _mm512_setzero_si512(), odd = _mm512_setzero_si512();
#pragma GCC unroll 3
        for (int k = 0; k < kCount; ++k) {
            even = _mm512_mask_add_epi16(even, _mm512_cmpge_epu16_mask(s.even, threshold[k]), even, one);
            odd = _mm512_mask_add_epi16(odd, _mm512_cmpge_epu16_mask(s.odd, threshold[k]), odd, one);
        }
        return _mm512_xor_si512(_mm512_or_si512(even, _mm512_slli_epi16(odd, 8)), flip);
    }
};

// Interleaves four byte vectors of 64 positions into C4 elements and stores them.
template <bool kPaired>
inline void store_c4(void* plane, const OutputSpan* spans, __m512i c0, __m512i c1, __m512i c2, __m512i c3) {
    const __m512i low01 = _mm512_unpacklo_epi8(c0, c1), high01 = _mm512_unpackhi_epi8(c0, c1);
    const __m512i low23 = _mm512_unpacklo_epi8(c2, c3), high23 = _mm512_unpackhi_epi8(c2, c3);
    // Within each 128-bit lane part j holds elements of positions 4j .. 4j+3; paired: 0 2 4 6 | 8 10 12 14 | 1 3 5 7 | 9 11 13 15.
    const __m512i part[4] = {_mm512_unpacklo_epi16(low01, low23), _mm512_unpackhi_epi16(low01, low23),
                             _mm512_unpacklo_epi16(high01, high23), _mm512_unpackhi_epi16(high01, high23)};
    const __m512i first = kPaired ? _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
                                  : _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i last = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    const __m512i &a = part[0], &b = part[kPaired ? 2 : 1], &c = part[kPaired ? 1 : 2], &d = part[3];
    const __m512i ab = _mm512_permutex2var_epi32(a, first, b), cd = _mm512_permutex2var_epi32(c, first, d);
    store_span(plane, spans[0], _mm512_shuffle_i64x2(ab, cd, 0x44));
    store_span(plane, spans[1], _mm512_shuffle_i64x2(ab, cd, 0xEE));
    const __m512i ab2 = _mm512_permutex2var_epi32(a, last, b), cd2 = _mm512_permutex2var_epi32(c, last, d);
    store_span(plane, spans[2], _mm512_shuffle_i64x2(ab2, cd2, 0x44));
    store_span(plane, spans[3], _mm512_shuffle_i64x2(ab2, cd2, 0xEE));
}

// Four channels from `channel` on of V vectors; sums [channel][vector].
template <Compare kForm, int kCount, int V>
void finish_four(const Lookup& l, int32_t channel, const TileSums* sums, const OutputSpan* spans, uint8_t* plane) {
    __m512i code[4][V];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        const ChannelCodes<kForm, kCount> codes(l, channel + j);
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) code[j][v] = codes(sums[j * V + v]);
    }
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) store_c4<kForm == Compare::kPaired>(plane, spans + 4 * v, code[0][v], code[1][v], code[2][v], code[3][v]);
}

template <int kCount, int V>
void finish_thresholds(const Lookup& l, Compare form, int32_t channel, const TileSums* sums, const OutputSpan* spans, uint8_t* plane) {
    switch (form) {
        case Compare::kBytes: return finish_four<Compare::kBytes, kCount, V>(l, channel, sums, spans, plane);
        case Compare::kPaired: return finish_four<Compare::kPaired, kCount, V>(l, channel, sums, spans, plane);
        case Compare::kWords: return finish_four<Compare::kWords, kCount, V>(l, channel, sums, spans, plane);
    }
}

// int32 sums of 64 positions in order, the offset added.
inline void spread(const TileSums& sums, int32_t offset, int32_t* to) {
    const EvenOdd s = load_sums(sums);
    const __m512i add = _mm512_set1_epi32(offset);
    const auto half = [](__m512i v, int i) { return i == 0 ? _mm512_castsi512_si256(v) : _mm512_extracti64x4_epi64(v, 1); };
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    for (int i = 0; i < 2; ++i) {
        const __m512i even = _mm512_cvtepu16_epi32(half(s.even, i)), odd = _mm512_cvtepu16_epi32(half(s.odd, i));
        _mm512_store_si512(to + 32 * i, _mm512_add_epi32(_mm512_permutex2var_epi32(even, low, odd), add));
        _mm512_store_si512(to + 32 * i + 16, _mm512_add_epi32(_mm512_permutex2var_epi32(even, high, odd), add));
    }
}

// Finishes the channels `channel` .. +3 of V vectors whose sums are in that form (kWords: widened).
template <int V>
void finish_lookup(const Conv2d& conv, const Lookup& l, Compare form, int32_t channel, const TileSums* sums, const OutputSpan* spans, void* y) {
    if (l.fast) {
        uint8_t* plane = static_cast<uint8_t*>(y) + static_cast<int64_t>(channel) * conv.h_out * conv.w_out;
        if (conv.requant.levels == 2) finish_thresholds<1, V>(l, form, channel, sums, spans, plane);
        else finish_thresholds<kLookupThresholds, V>(l, form, channel, sums, spans, plane);
        return;
    }
    for (int v = 0; v < V; ++v) {
        alignas(64) int32_t wide[4][64];
        for (int j = 0; j < 4; ++j) spread(sums[j * V + v], lookup_part<int32_t>(l, l.offset)[channel + j], wide[j]);
        finish(conv, lookup_part<uint8_t>(l, l.table), channel, 4, 4, wide[0], spans + 4 * v, y);
    }
}

}  // namespace
}  // namespace edgenas
