// Vector epilogues for the NEON kernels: 4 lanes are 4 consecutive positions of one output channel.
// Everything here has internal linkage: only files compiled for NEON may include it.
#pragma once
#include "compact_neon.h"
#include "kernel.h"

namespace edgenas {
namespace {

// Sums [channel][vector][4] of the channels c .. c+3, and where their positions go.
template <int V>
struct Sums {
    const int32_t* at;
    const OutputSpan* spans;                // [V]
    int32x4_t load(int32_t channel, int32_t vector) const { return vld1q_s32(at + (channel * V + vector) * 4); }
};

// (acc * multiplier + bias) >> shift of V vectors, clipped to int16: values outside a code or an index keep the side they are on.
template <int V>
inline void scale(const Requant& r, int32_t c, const int32x4_t (&acc)[V], int16x4_t (&value)[V]) {
    const int32x2_t m = vdup_n_s32(r.multiplier[c]);
    const int64x2_t b = vdupq_n_s64(r.bias[c]), right = vdupq_n_s64(-r.shift);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
        const int64x2_t low = vshlq_s64(vaddq_s64(vmull_s32(vget_low_s32(acc[v]), m), b), right);
        const int64x2_t high = vshlq_s64(vaddq_s64(vmull_s32(vget_high_s32(acc[v]), m), b), right);
        value[v] = vqmovn_s32(vcombine_s32(vqmovn_s64(low), vqmovn_s64(high)));
    }
}

inline int32x4_t count_reached(int32x4_t count, int32x4_t acc, int32x4_t threshold) {
    return vsubq_s32(count, vreinterpretq_s32_u32(vcgeq_s32(acc, threshold)));
}

// The number of thresholds that acc (or -acc) reaches, for V vectors.
template <int V>
inline void count_thresholds(const Requant& r, int32_t c, const int32x4_t (&acc)[V], int16x4_t (&value)[V]) {
    const int32_t count = r.levels - 1;
    const int32_t* t = r.thresholds + static_cast<int64_t>(c) * count;
    int32x4_t signed_acc[V], code[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) signed_acc[v] = r.sign[c] < 0 ? vnegq_s32(acc[v]) : acc[v], code[v] = vdupq_n_s32(0);
    for (int32_t k = 0; k < count; ++k) {
        const int32x4_t threshold = vdupq_n_s32(t[k]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) code[v] = count_reached(code[v], signed_acc[v], threshold);
    }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) value[v] = vmovn_s32(code[v]);
}

// Four channels' 4 positions each, as bytes ordered by channel, to C4 elements.
inline uint8x16_t to_c4(uint8x16_t by_channel) {
    alignas(16) static constexpr uint8_t kOrder[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
    return look_up(by_channel, vld1q_u8(kOrder));
}

// One channel's values before the channels are packed: codes, clipped later by saturation, or table indices.
template <Epilogue kKind, int V>
inline void values_of(const Requant& r, int32_t c, const Sums<V>& sums, int32_t i, int16x4_t (&value)[V]) {
    int32x4_t acc[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[v] = sums.load(i, v);
    if constexpr (kKind == Epilogue::kThreshold) count_thresholds(r, c, acc, value);
    else scale(r, c, acc, value);
}

// The values of four channels, [0][1] and [2][3] as saturated int16, as C4 elements.
template <Epilogue kKind>
inline uint8x16_t codes_of(const Requant& r, int16x8_t first, int16x8_t second) {
    if constexpr (kKind == Epilogue::kTable) {
        const int16x8_t last = vdupq_n_s16(static_cast<int16_t>(r.table_size - 1)), zero = vdupq_n_s16(0);
        alignas(16) int16_t index[16];
        alignas(16) uint8_t found[16];
        vst1q_s16(index, vmaxq_s16(vminq_s16(first, last), zero));
        vst1q_s16(index + 8, vmaxq_s16(vminq_s16(second, last), zero));
        for (int i = 0; i < 16; ++i) found[i] = r.table[index[i]];
        return to_c4(vld1q_u8(found));
    }
    const uint8x16_t codes = vcombine_u8(vqmovun_s16(first), vqmovun_s16(second));
    if constexpr (kKind == Epilogue::kThreshold) return to_c4(codes);
    return to_c4(vmaxq_u8(vminq_u8(codes, vdupq_n_u8(static_cast<uint8_t>(r.hi))), vdupq_n_u8(static_cast<uint8_t>(r.lo))));
}

template <Epilogue kKind, int V>
void finish_codes(const Conv2d& conv, int32_t c, const Sums<V>& sums, uint8_t* plane) {
    const Requant r = conv.requant;         // a copy: stores to y cannot change it
    const int32_t live = conv.c_out - c;
    const uint8x16_t keep = vreinterpretq_u8_u32(vdupq_n_u32(live >= 4 ? ~0u : (1u << (8 * live)) - 1));
    int16x4_t value[4][V];
    for (int32_t i = 0; i < 4; ++i)         // absent channels repeat the last one, `keep` clears their bytes
        values_of<kKind, V>(r, c + (i < live ? i : live - 1), sums, i, value[i]);
    for (int v = 0; v < V; ++v) {
        const uint8x16_t codes = codes_of<kKind>(r, vcombine_s16(value[0][v], value[1][v]), vcombine_s16(value[2][v], value[3][v]));
        store_span(plane, sums.spans[v], vandq_u8(codes, keep));
    }
}

// Scalar on armv7, whose vector unit takes denormal floats for zero.
inline float32x4_t floats_of(const Requant& r, int32_t c, int32x4_t acc) {
#if defined(__aarch64__)
    return vaddq_f32(vmulq_f32(vcvtq_f32_s32(acc), vdupq_n_f32(r.scale[c])), vdupq_n_f32(r.offset[c]));
#else
    int32_t sum[4];
    float value[4];
    vst1q_s32(sum, acc);
    for (int i = 0; i < 4; ++i) value[i] = requant_float(r, c, sum[i]);
    return vld1q_f32(value);
#endif
}

template <int V>
void finish_floats(const Conv2d& conv, int32_t c, const Sums<V>& sums, float* y, int64_t pixels) {
    for (int32_t i = 0; i < 4 && c + i < conv.c_out; ++i)
        for (int v = 0; v < V; ++v)
            store_span(y + (c + i) * pixels, sums.spans[v], vreinterpretq_u8_f32(floats_of(conv.requant, c + i, sums.load(i, v))));
}

// Finishes the 4 channels from c on.
template <int V>
void finish(const Conv2d& conv, int32_t c, const Sums<V>& sums, void* y) {
    const int64_t pixels = static_cast<int64_t>(conv.h_out) * conv.w_out;
    uint8_t* plane = static_cast<uint8_t*>(y) + c / 4 * pixels * 4;
    switch (conv.requant.kind) {
        case Epilogue::kLinear: return finish_codes<Epilogue::kLinear, V>(conv, c, sums, plane);
        case Epilogue::kTable: return finish_codes<Epilogue::kTable, V>(conv, c, sums, plane);
        case Epilogue::kThreshold: return finish_codes<Epilogue::kThreshold, V>(conv, c, sums, plane);
        case Epilogue::kFloat: return finish_floats(conv, c, sums, static_cast<float*>(y), pixels);
    }
}

}  // namespace
}  // namespace edgenas
