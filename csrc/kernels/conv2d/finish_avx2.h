// Vector epilogues for the AVX2 kernels: 8 lanes are 8 consecutive positions of one output channel.
// Everything here has internal linkage: only files compiled for AVX2 may include it.
#pragma once
#include "compact_avx2.h"
#include "dense.h"

namespace edgenas {
namespace {

// v >> shift for signed 64-bit lanes, then clipped to [0, last]; AVX2 has neither, so the sign is extended by hand.
inline __m256i shift_clip_64(__m256i v, int32_t shift, int32_t last) {
    const __m256i sign = _mm256_set1_epi64x(static_cast<int64_t>(1ULL << (63 - shift)));
    const __m256i shifted = _mm256_srl_epi64(v, _mm_cvtsi32_si128(shift)), zero = _mm256_setzero_si256();
    v = _mm256_sub_epi64(_mm256_xor_si256(shifted, sign), sign);
    const __m256i high = _mm256_set1_epi64x(last);
    v = _mm256_blendv_epi8(v, high, _mm256_cmpgt_epi64(v, high));
    return _mm256_andnot_si256(_mm256_cmpgt_epi64(zero, v), v);
}

// (acc * multiplier + bias) >> shift; values outside [0, last] keep the side they are on.
inline __m256i scaled(const Requant& r, int32_t c, __m256i acc, int32_t last) {
    const __m256i m = _mm256_set1_epi32(r.multiplier[c]), b = _mm256_set1_epi64x(r.bias[c]);
    const __m256i even = _mm256_add_epi64(_mm256_mul_epi32(acc, m), b);
    const __m256i odd = _mm256_add_epi64(_mm256_mul_epi32(_mm256_srli_epi64(acc, 32), m), b);
    constexpr int kOdd = 0xAA;
    if (r.shift >= 32) {            // floor(floor(v / 2^32) / 2^(shift - 32)): the high halves fit 32-bit lanes
        const __m256i high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, kOdd);
        return _mm256_sra_epi32(high, _mm_cvtsi32_si128(r.shift - 32));
    }
    return _mm256_blend_epi32(shift_clip_64(even, r.shift, last), _mm256_slli_epi64(shift_clip_64(odd, r.shift, last), 32), kOdd);
}

inline __m256i signed_sum(const Requant& r, int32_t c, __m256i acc) {
    const __m256i flip = _mm256_set1_epi32(r.sign[c] < 0 ? -1 : 0);
    return _mm256_sub_epi32(_mm256_xor_si256(acc, flip), flip);
}

// levels - 1 minus the thresholds above acc (or -acc), one by one.
inline __m256i few_thresholds(const Requant& r, int32_t c, __m256i acc) {
    const int32_t count = r.levels - 1;
    const int32_t* t = r.thresholds + static_cast<int64_t>(c) * count;
    const __m256i v = signed_sum(r, c, acc);
    __m256i code = _mm256_set1_epi32(count);
    for (int32_t k = 0; k < count; ++k) code = _mm256_add_epi32(code, _mm256_cmpgt_epi32(_mm256_set1_epi32(t[k]), v));
    return code;
}

// The same by a walk down the channel's tree (dense.h); `at` counts from the first node of a level.
inline __m256i threshold_walk(const Requant& r, const int32_t* tree, int32_t c, __m256i acc) {
    const __m256i v = signed_sum(r, c, acc), one = _mm256_set1_epi32(1);
    __m256i at = _mm256_setzero_si256();
    for (int32_t first = 1; first < r.levels; first *= 2) {
        const __m256i level = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tree + first));
        const __m256i above = _mm256_cmpgt_epi32(_mm256_permutevar8x32_epi32(level, at), v);
        at = _mm256_add_epi32(_mm256_add_epi32(_mm256_add_epi32(at, at), one), above);
    }
    return at;
}

// Four channels' 8 positions each, as bytes ordered by channel within every 128-bit lane, to C4 elements.
inline __m256i to_c4(__m256i by_channel) {
    const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm256_shuffle_epi8(by_channel, _mm256_broadcastsi128_si256(order));
}

inline __m256i float_scaled(const FloatScale& scale, __m256i acc) {
    const __m256 product = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc), _mm256_set1_ps(scale.factor), _mm256_set1_ps(scale.offset));
    return _mm256_cvtps_epi32(product);
}

// One channel's value before the channels are packed: a code, clipped later by saturation, or a table index. scales: those of all
// channels (float_requant.h), or null where they are not proven.
template <Epilogue kKind>
inline __m256i value_of(const Requant& r, const int32_t* trees, const FloatScale* scales, int32_t c, __m256i acc) {
    if (kKind != Epilogue::kThreshold && scales != nullptr) return float_scaled(scales[c], acc);
    if constexpr (kKind == Epilogue::kThreshold)
        return r.levels <= 4 ? few_thresholds(r, c, acc) : threshold_walk(r, trees + c * kTreeSize, c, acc);
    else return scaled(r, c, acc, kKind == Epilogue::kTable ? r.table_size - 1 : 255);
}

// The values of four channels, [0][1] and [2][3] packed to int16, as C4 elements.
template <Epilogue kKind>
inline __m256i codes_of(const Requant& r, __m256i first, __m256i second) {
    if constexpr (kKind == Epilogue::kTable) {      // index by index: AVX2's gather is no faster than its loads
        const __m256i last = _mm256_set1_epi16(static_cast<int16_t>(r.table_size - 1)), zero = _mm256_setzero_si256();
        alignas(32) uint16_t index[2][16];
        alignas(32) uint8_t found[2][16];
        _mm256_store_si256(reinterpret_cast<__m256i*>(index[0]), _mm256_max_epi16(_mm256_min_epi16(first, last), zero));
        _mm256_store_si256(reinterpret_cast<__m256i*>(index[1]), _mm256_max_epi16(_mm256_min_epi16(second, last), zero));
        for (int half = 0; half < 2; ++half)        // the order packus gives: per 128 bits, first then second
            for (int i = 0; i < 8; ++i) {
                found[half][i] = r.table[index[0][8 * half + i]];
                found[half][8 + i] = r.table[index[1][8 * half + i]];
            }
        return to_c4(_mm256_load_si256(reinterpret_cast<const __m256i*>(found)));
    }
    const __m256i codes = _mm256_packus_epi16(first, second);
    if constexpr (kKind == Epilogue::kThreshold) return to_c4(codes);
    const __m256i lo = _mm256_set1_epi8(static_cast<char>(r.lo)), hi = _mm256_set1_epi8(static_cast<char>(r.hi));
    return to_c4(_mm256_max_epu8(_mm256_min_epu8(codes, hi), lo));
}

// Sums [channel][vector][8] of the channels c .. c+3, where their positions go, up to which element of a plane the worker
// writes (store_limit), and the threshold trees and scales of all channels.
struct Sums {
    const int32_t* at;
    int32_t vectors;
    const OutputSpan* spans;
    int64_t limit;
    const int32_t* trees;
    const FloatScale* scales;
    __m256i load(int32_t channel, int32_t vector) const {
        return _mm256_load_si256(reinterpret_cast<const __m256i*>(at + (channel * vectors + vector) * 8));
    }
};

template <Epilogue kKind>
void finish_codes(const Conv2d& conv, int32_t c, const Sums& sums, uint8_t* plane) {
    const Requant r = conv.requant;         // a copy: stores to y cannot change it
    const int32_t live = conv.c_out - c;
    const __m256i keep = _mm256_set1_epi32(live >= 4 ? -1 : (1 << (8 * live)) - 1);
    int32_t channel[4];                     // absent channels repeat the last one, `keep` clears their bytes
    for (int32_t i = 0; i < 4; ++i) channel[i] = c + (i < live ? i : live - 1);
    for (int32_t v = 0; v < sums.vectors; ++v) {
        __m256i value[4];
        for (int i = 0; i < 4; ++i) value[i] = value_of<kKind>(r, sums.trees, sums.scales, channel[i], sums.load(i, v));
        const __m256i codes = codes_of<kKind>(r, _mm256_packs_epi32(value[0], value[1]), _mm256_packs_epi32(value[2], value[3]));
        store_compact(plane, sums.limit, sums.spans[v], _mm256_and_si256(codes, keep));
    }
}

void finish_floats(const Conv2d& conv, int32_t c, const Sums& sums, float* y, int64_t pixels) {
    for (int32_t i = 0; i < 4 && c + i < conv.c_out; ++i)
        for (int32_t v = 0; v < sums.vectors; ++v) {
            const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sums.load(i, v)), _mm256_set1_ps(conv.requant.scale[c + i]));
            const __m256 value = _mm256_add_ps(scaled, _mm256_set1_ps(conv.requant.offset[c + i]));
            store_compact(y + (c + i) * pixels, sums.limit, sums.spans[v], _mm256_castps_si256(value));
        }
}

// Finishes the 4 channels from c on.
void finish(const Conv2d& conv, int32_t c, const Sums& sums, void* y) {
    const int64_t pixels = static_cast<int64_t>(conv.h_out) * conv.w_out;
    uint8_t* plane = static_cast<uint8_t*>(y) + c / 4 * pixels * 4;
    switch (conv.requant.kind) {
        case Epilogue::kLinear: return finish_codes<Epilogue::kLinear>(conv, c, sums, plane);
        case Epilogue::kTable: return finish_codes<Epilogue::kTable>(conv, c, sums, plane);
        case Epilogue::kThreshold: return finish_codes<Epilogue::kThreshold>(conv, c, sums, plane);
        case Epilogue::kFloat: return finish_floats(conv, c, sums, static_cast<float*>(y), pixels);
    }
}

}  // namespace
}  // namespace edgenas
