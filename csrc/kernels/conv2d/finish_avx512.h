// The int8 step and vector epilogues for the AVX-512 kernels: 16 lanes are 16 consecutive positions of one output channel.
// Everything here has internal linkage: only files compiled for AVX-512 may include it.
#pragma once
#include <immintrin.h>

#include <climits>

#include "dense.h"

namespace edgenas {
namespace {

// The step of the int8-style kernels. Assembly, because gcc otherwise moves sums between registers in the innermost loop.
inline void add_products(__m512i& sums, __m512i codes, __m512i weights) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(codes), "v"(weights));
}

// For weights that stream from the second level cache. As a number, because the address may lie past their end.
inline void prefetch_stream(const void* at) {
    constexpr uintptr_t kAhead = 2048;
    _mm_prefetch(reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(at) + kAhead), _MM_HINT_T0);
}

// Drops the gaps and stores the rest; touches only the bytes of stored lanes.
inline void store_span(void* plane, const OutputSpan& span, __m512i elements) {
    const __mmask16 lanes = static_cast<__mmask16>(span.lanes);
    uint32_t* to = static_cast<uint32_t*>(plane) + span.out;
    if (lanes == 0xFFFF) {
        _mm512_storeu_si512(to, elements);
        return;
    }
    const __mmask16 packed = static_cast<__mmask16>((1u << __builtin_popcount(span.lanes)) - 1);
    _mm512_mask_storeu_epi32(to, packed, _mm512_maskz_compress_epi32(lanes, elements));
}

// Four channels' 16 positions each, as bytes ordered by channel within every 128-bit lane, to C4 elements.
inline __m512i to_c4(__m512i by_channel) {
    return _mm512_shuffle_epi8(by_channel, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
}

// Epilogues of four channels. Each takes their int32 sums and returns C4 elements.

struct Multipliers {
    __m512i multiplier[4], bias[4];
    int32_t shift, last;

    // Absent channels repeat the last one; finish() clears their bytes.
    Multipliers(const Requant& r, int32_t c, int32_t c_out, int32_t last_code) : shift(r.shift), last(last_code) {
        for (int32_t i = 0; i < 4; ++i) {
            const int32_t channel = c + i < c_out ? c + i : c_out - 1;
            multiplier[i] = _mm512_set1_epi32(r.multiplier[channel]);
            bias[i] = _mm512_set1_epi64(r.bias[channel]);
        }
    }

    // (acc * multiplier + bias) >> shift; values outside [0, last] keep the side they are on.
    __m512i scaled(__m512i acc, int32_t i) const {
        const __m512i even = _mm512_add_epi64(_mm512_mul_epi32(acc, multiplier[i]), bias[i]);
        const __m512i odd = _mm512_add_epi64(_mm512_mul_epi32(_mm512_srli_epi64(acc, 32), multiplier[i]), bias[i]);
        constexpr __mmask16 kOdd = 0xAAAA;
        if (shift >= 32) {          // floor(floor(v / 2^32) / 2^(shift - 32)): the high halves fit 32-bit lanes
            const __m512i high = _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
            return _mm512_sra_epi32(high, _mm_cvtsi32_si128(shift - 32));
        }
        const __m128i by = _mm_cvtsi32_si128(shift);
        const __m512i zero = _mm512_setzero_si512(), high = _mm512_set1_epi64(last);
        const __m512i e = _mm512_max_epi64(_mm512_min_epi64(_mm512_sra_epi64(even, by), high), zero);
        const __m512i o = _mm512_max_epi64(_mm512_min_epi64(_mm512_sra_epi64(odd, by), high), zero);
        return _mm512_mask_blend_epi32(kOdd, e, _mm512_slli_epi64(o, 32));
    }
};

struct Linear {
    Multipliers scale;
    __m512i lo, hi;

    Linear(const Requant& r, const uint8_t*, int32_t c, int32_t c_out)
        : scale(r, c, c_out, 255), lo(_mm512_set1_epi8(static_cast<char>(r.lo))), hi(_mm512_set1_epi8(static_cast<char>(r.hi))) {}

    // Saturating packs clip to 0 .. 255, the narrower limits follow on bytes.
    __m512i operator()(const __m512i (&acc)[4]) const {
        const __m512i a = _mm512_packs_epi32(scale.scaled(acc[0], 0), scale.scaled(acc[1], 1));
        const __m512i b = _mm512_packs_epi32(scale.scaled(acc[2], 2), scale.scaled(acc[3], 3));
        return to_c4(_mm512_max_epu8(_mm512_min_epu8(_mm512_packus_epi16(a, b), hi), lo));
    }
};

struct Table {
    Multipliers scale;
    const uint8_t* table;                   // padded to whole blocks
    int32_t size;

    Table(const Requant& r, const uint8_t* padded, int32_t c, int32_t c_out)
        : scale(r, c, c_out, r.table_size - 1), table(padded), size(r.table_size) {}

    __m512i index(__m512i first, __m512i second) const {
        const __m512i clipped = _mm512_min_epi16(_mm512_packs_epi32(first, second), _mm512_set1_epi16(static_cast<int16_t>(size - 1)));
        return _mm512_max_epi16(clipped, _mm512_setzero_si512());
    }

    // One two-register permute looks up the 128 entries of a block for 64 indices.
    __m512i operator()(const __m512i (&acc)[4]) const {
        const __m512i a = index(scale.scaled(acc[0], 0), scale.scaled(acc[1], 1));
        const __m512i b = index(scale.scaled(acc[2], 2), scale.scaled(acc[3], 3));
        const __m512i low = _mm512_set1_epi16(kTableBlock - 1);
        const __m512i within = _mm512_packus_epi16(_mm512_and_si512(a, low), _mm512_and_si512(b, low));
        const __m512i block = _mm512_packus_epi16(_mm512_srli_epi16(a, 7), _mm512_srli_epi16(b, 7));
        __m512i out = _mm512_permutex2var_epi8(_mm512_loadu_si512(table), within, _mm512_loadu_si512(table + 64));
        for (int32_t i = 1; i * kTableBlock < size; ++i) {
            const uint8_t* at = table + i * kTableBlock;
            const __m512i found = _mm512_permutex2var_epi8(_mm512_loadu_si512(at), within, _mm512_loadu_si512(at + 64));
            out = _mm512_mask_mov_epi8(out, _mm512_cmpeq_epi8_mask(block, _mm512_set1_epi8(static_cast<char>(i))), found);
        }
        return to_c4(out);
    }
};

// Up to four levels: one compare each. More: binary search, the sorted thresholds sit in one register; absent ones are INT_MAX,
// which no sum reaches (conv2d/kernel.h bounds them).
template <int32_t kLevels>
struct Threshold {
    const int32_t* thresholds[4];
    __m512i flip[4];                        // acc or -acc
    __m512i sorted[4];
    int32_t count;

    Threshold(const Requant& r, const uint8_t*, int32_t c, int32_t c_out) : count(r.levels - 1) {
        const __mmask16 present = static_cast<__mmask16>((1u << count) - 1);
        for (int32_t i = 0; i < 4; ++i) {
            const int32_t channel = c + i < c_out ? c + i : c_out - 1;
            thresholds[i] = r.thresholds + static_cast<int64_t>(channel) * count;
            flip[i] = _mm512_set1_epi32(r.sign[channel] < 0 ? -1 : 0);
            sorted[i] = _mm512_mask_loadu_epi32(_mm512_set1_epi32(INT_MAX), present, thresholds[i]);
        }
    }

    __m512i code(__m512i acc, int32_t i) const {
        const __m512i v = _mm512_sub_epi32(_mm512_xor_si512(acc, flip[i]), flip[i]);
        __m512i code = _mm512_setzero_si512();
        if constexpr (kLevels <= 4) {
            for (int32_t k = 0; k < count; ++k) {
                const __mmask16 above = _mm512_cmpge_epi32_mask(v, _mm512_set1_epi32(thresholds[i][k]));
                code = _mm512_mask_add_epi32(code, above, code, _mm512_set1_epi32(1));
            }
            return code;
        }
#pragma GCC unroll 4
        for (int32_t step = kLevels / 2; step > 0; step /= 2) {
            const __m512i at = _mm512_permutexvar_epi32(_mm512_add_epi32(code, _mm512_set1_epi32(step - 1)), sorted[i]);
            code = _mm512_mask_add_epi32(code, _mm512_cmpge_epi32_mask(v, at), code, _mm512_set1_epi32(step));
        }
        return code;
    }

    __m512i operator()(const __m512i (&acc)[4]) const {
        const __m512i a = _mm512_packs_epi32(code(acc[0], 0), code(acc[1], 1)), b = _mm512_packs_epi32(code(acc[2], 2), code(acc[3], 3));
        return to_c4(_mm512_packus_epi16(a, b));
    }
};

// Sums [channel][vector][16] of the channels c .. c+3, and where their positions go.
struct Sums {
    const int32_t* at;
    int32_t vectors;
    const OutputSpan* spans;
    __m512i load(int32_t channel, int32_t vector) const { return _mm512_load_si512(at + (channel * vectors + vector) * 16); }
};

template <class Kind>
void finish_codes(const Conv2d& conv, const uint8_t* table, int32_t c, const Sums& sums, uint8_t* plane) {
    const Kind kind(conv.requant, table, c, conv.c_out);
    const int32_t live = conv.c_out - c;
    const __m512i keep = _mm512_set1_epi32(live >= 4 ? -1 : (1 << (8 * live)) - 1);
    for (int32_t v = 0; v < sums.vectors; ++v) {
        const __m512i acc[4] = {sums.load(0, v), sums.load(1, v), sums.load(2, v), sums.load(3, v)};
        store_span(plane, sums.spans[v], _mm512_and_si512(kind(acc), keep));
    }
}

void finish_floats(const Conv2d& conv, int32_t c, const Sums& sums, float* y, int64_t pixels) {
    for (int32_t i = 0; i < 4 && c + i < conv.c_out; ++i)
        for (int32_t v = 0; v < sums.vectors; ++v) {
            const __m512 acc = _mm512_cvtepi32_ps(sums.load(i, v));
            const __m512 scaled = _mm512_mul_ps(acc, _mm512_set1_ps(conv.requant.scale[c + i]));
            const __m512 value = _mm512_add_ps(scaled, _mm512_set1_ps(conv.requant.offset[c + i]));
            store_span(y + (c + i) * pixels, sums.spans[v], _mm512_castps_si512(value));
        }
}

// Finishes `channels` (a multiple of 4) x `vectors` sums [channel][vector][16] of the channels from c on. table: padded copy.
void finish(const Conv2d& conv, const uint8_t* table, int32_t c, int32_t channels, int32_t vectors, const int32_t* sums,
            const OutputSpan* spans, void* y) {
    const int64_t pixels = static_cast<int64_t>(conv.h_out) * conv.w_out;
    for (int32_t i = 0; i < channels && c + i < conv.c_out; i += 4) {
        const Sums four{sums + i * vectors * 16, vectors, spans};
        uint8_t* plane = static_cast<uint8_t*>(y) + (c + i) / 4 * pixels * 4;
        switch (conv.requant.kind) {
            case Epilogue::kLinear: finish_codes<Linear>(conv, table, c + i, four, plane); break;
            case Epilogue::kTable: finish_codes<Table>(conv, table, c + i, four, plane); break;
            case Epilogue::kThreshold:
                if (conv.requant.levels <= 4) finish_codes<Threshold<4>>(conv, table, c + i, four, plane);
                else finish_codes<Threshold<16>>(conv, table, c + i, four, plane);
                break;
            case Epilogue::kFloat: finish_floats(conv, c + i, four, static_cast<float*>(y), pixels); break;
        }
    }
}

}  // namespace
}  // namespace edgenas
