// From C4 tensors to the byte planes of the lookup kernels (lookup.h), for AVX-512 VBMI.
// Everything here has internal linkage: only files compiled for AVX-512 may include it.
#pragma once
#include <immintrin.h>

#include "lookup.h"
#include "moves.h"

namespace edgenas {
namespace {

constexpr int32_t kIndexBits = 6;

// One group of C4 planes that share bytes.
struct Group {
    const uint8_t* c4;
    int64_t pixels;
    uint32_t live;                          // bits that hold codes of existing channels
};

// 16 pixels of a group from `at` on, folded: byte i of each 32-bit lane belongs to byte plane i.
template <int kBits, int kPlanes>
inline __m512i pack_pixels(const Group& g, int64_t at, __mmask16 inside) {
    __m512i codes = _mm512_maskz_loadu_epi32(inside, g.c4 + 4 * at);
#pragma GCC unroll 6
    for (int s = 1; s < kPlanes; ++s) {
        const __m512i in = _mm512_maskz_loadu_epi32(inside, g.c4 + 4 * (s * g.pixels + at));
        codes = _mm512_or_si512(codes, _mm512_slli_epi32(in, s * kBits));
    }
    codes = _mm512_and_si512(codes, _mm512_set1_epi32(static_cast<int32_t>(g.live)));
    constexpr int kUsed = kPlanes * kBits, kSpare = kIndexBits - kUsed, kFold = lookup_fold(kIndexBits, kUsed);
    if constexpr (kFold == 1) {
        const __m512i folded = _mm512_or_si512(codes, _mm512_srli_epi32(codes, 7));
        return _mm512_or_si512(folded, _mm512_srli_epi32(folded, 14));
    } else if constexpr (kFold == 2) {
        return _mm512_or_si512(codes, _mm512_srli_epi32(codes, 16 - kUsed));
    } else if constexpr (kFold == 3) {
        __m512i folded = codes;
#pragma GCC unroll 3
        for (int k = 0; k < 3; ++k) {
            const __m512i moved = _mm512_srli_epi32(codes, 24 + k * kSpare - 8 * k - kUsed);
            folded = _mm512_or_si512(folded, _mm512_and_si512(moved, _mm512_set1_epi32(((1 << kSpare) - 1) << (8 * k + kUsed))));
        }
        return folded;
    } else {
        return codes;
    }
}

// Bytes 0 and 1 of the 32-bit lanes of two vectors, 32 each.
struct alignas(64) SplitOrder {
    uint8_t index[64];
    constexpr SplitOrder() : index() {
        for (int i = 0; i < 64; ++i) index[i] = static_cast<uint8_t>(4 * (i % 32) + i / 32);
    }
};
constexpr SplitOrder kSplitOrder;

// One group becomes up to four byte planes, 64 pixels at a time.
template <int kBits, int kPlanes>
void pack_group(const Group& g, int64_t stride, uint8_t* packed) {
    constexpr int kFold = lookup_fold(kIndexBits, kPlanes * kBits);
    const __m512i low = _mm512_load_si512(kSplitOrder.index), high = _mm512_add_epi8(low, _mm512_set1_epi8(2));
    const auto store = [&](int64_t at, const __m512i (&part)[4]) {
        const __m512i a = _mm512_permutex2var_epi8(part[0], low, part[1]), b = _mm512_permutex2var_epi8(part[2], low, part[3]);
        _mm512_store_si512(packed + at, _mm512_shuffle_i64x2(a, b, 0x44));
        if constexpr (kFold > 1) _mm512_store_si512(packed + stride + at, _mm512_shuffle_i64x2(a, b, 0xEE));
        if constexpr (kFold > 2) {
            const __m512i c = _mm512_permutex2var_epi8(part[0], high, part[1]), d = _mm512_permutex2var_epi8(part[2], high, part[3]);
            _mm512_store_si512(packed + 2 * stride + at, _mm512_shuffle_i64x2(c, d, 0x44));
            if constexpr (kFold > 3) _mm512_store_si512(packed + 3 * stride + at, _mm512_shuffle_i64x2(c, d, 0xEE));
        }
    };
    int64_t at = 0;
    for (; at + 64 <= g.pixels; at += 64) {
        __m512i part[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) part[i] = pack_pixels<kBits, kPlanes>(g, at + 16 * i, 0xFFFF);
        store(at, part);
    }
    if (at == g.pixels) return;
    __m512i part[4];
    for (int i = 0; i < 4; ++i) {
        const int64_t left = g.pixels - at - 16 * i;
        part[i] = pack_pixels<kBits, kPlanes>(g, at + 16 * i, static_cast<__mmask16>(left >= 16 ? 0xFFFF : left <= 0 ? 0 : (1u << left) - 1));
    }
    store(at, part);
}

using PackFn = void (*)(const Group&, int64_t, uint8_t*);
constexpr PackFn kPack1[] = {pack_group<1, 1>, pack_group<1, 2>, pack_group<1, 3>, pack_group<1, 4>, pack_group<1, 5>, pack_group<1, 6>};
constexpr PackFn kPack2[] = {pack_group<2, 1>, pack_group<2, 2>, pack_group<2, 3>};

// Packs group i of the layer's C4 planes into the byte planes 4 i .. 4 i + 3, as many as it folds into.
inline void pack_planes(const Conv2d& c, int32_t code_bits, const uint8_t* x, int32_t i, int64_t stride, uint8_t* packed) {
    const int32_t group = kIndexBits / code_bits, first = i * group;
    const int32_t channels = c.c_in - 4 * first < 4 * group ? c.c_in - 4 * first : 4 * group, planes = (channels + 3) / 4;
    const int64_t pixels = static_cast<int64_t>(c.h) * c.w;
    const Group g{x + first * pixels * 4, pixels, lookup_live_bits(code_bits, channels)};
    (code_bits == 1 ? kPack1 : kPack2)[planes - 1](g, stride, packed + 4 * i * stride);
}

inline int32_t pack_groups(const Conv2d& c, int32_t code_bits) {
    const int32_t group = kIndexBits / code_bits;
    return ((c.c_in + 3) / 4 + group - 1) / group;
}

// Reads up to kMoveWindow - 1 bytes past the source plane.
inline void apply_moves(const MoveList& moves, const uint8_t* from, uint8_t outside, uint8_t* to) {
    const __m512i out = _mm512_set1_epi8(static_cast<char>(outside));
    for (const Move *m = moves.first(), *end = m + moves.count; m < end; ++m) {
        const __m512i index = _mm512_loadu_si512(m->index);
        const __m512i low = _mm512_loadu_si512(from + m->from), high = _mm512_loadu_si512(from + m->from + 64);
        const __m512i moved = _mm512_mask_mov_epi8(_mm512_permutex2var_epi8(low, index, high), _mm512_movepi8_mask(index), out);
        if (m->written == ~0ull) _mm512_storeu_si512(to + m->to, moved);
        else _mm512_mask_storeu_epi8(to + m->to, m->written, moved);
    }
}

}  // namespace
}  // namespace edgenas
