// Convolution of at most 2-bit codes and weights by table lookup (lookup.h), for AVX2: 2 codes of 2 bits or 4 of 1 bit
// a byte, 16-entry rows.
//
// Lanes are 32 consecutive output positions. One vpshufb looks up 32 indices for two output channels at once: 128 or 256
// multiply-adds. lookup_runs.h says how what it finds is added, runs_avx2.h is the loop. A tile is 4 output channels x up to 2
// vectors.
#include <algorithm>

#include "finish_avx2.h"
#include "lookup.h"
#include "runs_avx2.h"
#include "variants.h"

namespace edgenas {
namespace {

constexpr int32_t kIndexBits = 4;
constexpr int32_t kQ = kRunChannels;        // output channels of a block
constexpr int32_t kMaxV = 2;                // vectors of a tile
constexpr int32_t kLanes = 32;
constexpr int32_t kRowBytes = 16;
constexpr LookupShape kShape{kIndexBits, kQ, kLanes, kRowBytes, true};

struct alignas(64) Rows {                   // [weights of the second channel][of the first one][index]
    uint8_t row[256][kRowBytes];
    constexpr explicit Rows(int32_t code_bits) : row() {
        for (int32_t w = 0; w < 256; ++w)
            for (int32_t i = 0; i < kRowBytes; ++i)
                row[w][i] = static_cast<uint8_t>(lookup_entry(kIndexBits, code_bits, w % 16, i) +
                                                 lookup_entry(kIndexBits, code_bits, w / 16, i) * 16);
    }
};
constexpr Rows kRows[2] = {Rows(1), Rows(2)};               // by code bits - 1

// Below, most of the 32 lanes would be empty and the int8-style kernel is as fast.
constexpr int32_t kLeastPositions = 20;

bool supports(const Conv2d& c) { return lookup_fits(c, kLeastPositions); }
size_t prepared_bytes(const Conv2d& c) { return lookup_bytes(c, kShape); }
void prepare(const Conv2d& c, void* prepared) { lookup_prepare(c, kShape, prepared); }
size_t scratch_bytes(const Conv2d& c) { return static_cast<size_t>(lookup_scratch(c, byte_planes_of(c), kIndexBits).total); }

inline __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store256(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

// 8 pixels of one group of C4 planes, folded as lookup.h says.
inline __m256i pack_pixels(const uint8_t* c4, int64_t pixels, int32_t planes, int32_t bits, __m256i live, int64_t left) {
    __m256i codes = _mm256_setzero_si256();
    for (int32_t s = 0; s < planes; ++s) {
        const uint8_t* from = c4 + s * pixels * 4;
        const __m256i in = left >= 8 ? load256(from)
                                     : _mm256_maskload_epi32(reinterpret_cast<const int*>(from), first_lanes(static_cast<int32_t>(left)));
        codes = _mm256_or_si256(codes, _mm256_slli_epi32(in, s * bits));
    }
    codes = _mm256_and_si256(codes, live);
    const int32_t used = planes * bits, spare = kIndexBits - used;
    switch (lookup_fold(kIndexBits, used)) {
        case 1: codes = _mm256_or_si256(codes, _mm256_srli_epi32(codes, 7)); return _mm256_or_si256(codes, _mm256_srli_epi32(codes, 14));
        case 2: return _mm256_or_si256(codes, _mm256_srli_epi32(codes, 16 - used));
        case 3: {
            __m256i folded = codes;
            for (int32_t k = 0; k < 3; ++k) {
                const __m256i moved = _mm256_srli_epi32(codes, 24 + k * spare - 8 * k - used);
                folded = _mm256_or_si256(folded, _mm256_and_si256(moved, _mm256_set1_epi32(((1 << spare) - 1) << (8 * k + used))));
            }
            return folded;
        }
        default: return codes;
    }
}

// One group of C4 planes becomes up to four byte planes.
void pack_group(const uint8_t* c4, int64_t pixels, int32_t planes, int32_t bits, uint32_t live, int64_t stride, uint8_t* packed) {
    const __m256i low = _mm256_set1_epi16(0x00FF), order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const int32_t folded = lookup_fold(kIndexBits, planes * bits);
    for (int64_t at = 0; at < pixels; at += kLanes) {
        __m256i even[4], odd[4];            // bytes 0 and 2, 1 and 3 of 8 pixels as uint16
        for (int i = 0; i < 4; ++i) {
            const int64_t left = std::clamp<int64_t>(pixels - at - 8 * i, 0, 8);
            const __m256i codes = pack_pixels(c4 + (left > 0 ? 4 * (at + 8 * i) : 0), pixels, planes, bits,
                                              _mm256_set1_epi32(static_cast<int32_t>(live)), left);
            even[i] = _mm256_and_si256(codes, low), odd[i] = _mm256_srli_epi16(codes, 8);
        }
        // Bytes (plane 0, plane 2) or (1, 3) of positions; 128-bit halves hold 0-3, 8-11 | 4-7, 12-15 and the same from 16 on.
        for (int i = 0; i < 4 && i < folded; ++i) {
            const __m256i(&from)[4] = i % 2 == 0 ? even : odd;
            const __m256i a = _mm256_packus_epi16(from[0], from[1]), b = _mm256_packus_epi16(from[2], from[3]);
            const __m256i plane = i < 2 ? _mm256_packus_epi16(_mm256_and_si256(a, low), _mm256_and_si256(b, low))
                                        : _mm256_packus_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8));
            store256(packed + i * stride + at, _mm256_permutevar8x32_epi32(plane, order));
        }
    }
}

void pack(const Conv2d& c, const void* prepared, const uint8_t* x, void* scratch, Share share) {
    const Lookup& l = *static_cast<const Lookup*>(prepared);
    const int64_t pixels = static_cast<int64_t>(c.h) * c.w, stride = lookup_scratch(c, l.planes, kIndexBits).packed_stride;
    uint8_t* packed = static_cast<uint8_t*>(scratch);
    const int32_t bits = l.code_bits, group = kIndexBits / bits, c4 = (c.c_in + 3) / 4, groups = (c4 + group - 1) / group;
    const int32_t first = begin_of(share, groups), last = end_of(share, groups);
    for (int32_t t = first, g = t * group; t < last; ++t, g += group)
        pack_group(x + g * pixels * 4, pixels, std::min(group, c4 - g), bits,
                   lookup_live_bits(bits, std::min(4 * group, c.c_in - 4 * g)), stride, packed + 4 * t * stride);
    place_planes(c, l, 4 * first, 4 * last, packed);
}

// Sums of one tile, widened: [channel][vector][even, odd position][16]; even sums still contain 256 * odd.
using Widened = uint16_t[2][16];

inline void widen(Widened& to, __m256i sums, bool first) {
    const __m256i odd = _mm256_srli_epi16(sums, 8);
    store256(to[0], first ? sums : _mm256_add_epi16(load256(to[0]), sums));
    store256(to[1], first ? odd : _mm256_add_epi16(load256(to[1]), odd));
}

// The sums of a pair's first channel: both contains 16 high.
inline __m256i low_sums(__m256i both, __m256i high) {
    return _mm256_sub_epi8(both, _mm256_slli_epi16(_mm256_and_si256(high, _mm256_set1_epi8(15)), 4));
}

struct EvenOdd {
    __m256i even, odd;                      // uint16
};

inline EvenOdd load_sums(const Widened& from) {
    const __m256i odd = load256(from[1]);
    return {_mm256_sub_epi16(load256(from[0]), _mm256_slli_epi16(odd, 8)), odd};
}

inline __m256i splat(uint32_t four_bytes) { return _mm256_set1_epi32(static_cast<int32_t>(four_bytes)); }

// The codes of 32 positions, one byte each: by ByteLevels, of x as int8. binary: only the first threshold is there.
inline __m256i level_codes(const ByteLevels& l, bool binary, __m256i x) {
    __m256i code = _mm256_sub_epi8(splat(l.base), _mm256_cmpgt_epi8(x, splat(l.above[0])));
    if (!binary)
        for (int k = 1; k < 3; ++k) code = _mm256_sub_epi8(code, _mm256_cmpgt_epi8(x, splat(l.above[k])));
    return _mm256_xor_si256(code, splat(l.flip));
}

// The same from widened sums.
inline __m256i level_codes(const ByteLevels& l, bool binary, const Widened& sums) {
    const EvenOdd s = load_sums(sums);
    const __m256i middle = splat(l.middle), order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
    const __m256i x = _mm256_packs_epi16(_mm256_sub_epi16(s.even, middle), _mm256_sub_epi16(s.odd, middle));
    return level_codes(l, binary, _mm256_shuffle_epi8(x, order));
}

// The same by comparing 16-bit sums with thresholds of any distance.
inline __m256i threshold_codes(const Widened& sums, const uint16_t* threshold, uint8_t flip) {
    const EvenOdd s = load_sums(sums);
    __m256i even = _mm256_setzero_si256(), odd = _mm256_setzero_si256();
    for (int k = 0; k < kLookupThresholds; ++k) {
        const __m256i t = _mm256_set1_epi16(static_cast<int16_t>(threshold[k]));        // a >= t where max(a, t) == a
        even = _mm256_sub_epi16(even, _mm256_cmpeq_epi16(_mm256_max_epu16(s.even, t), s.even));
        odd = _mm256_sub_epi16(odd, _mm256_cmpeq_epi16(_mm256_max_epu16(s.odd, t), s.odd));
    }
    return _mm256_xor_si256(_mm256_or_si256(even, _mm256_slli_epi16(odd, 8)), _mm256_set1_epi8(static_cast<char>(flip)));
}

// Interleaves four byte vectors of 32 positions into C4 elements and stores them.
inline void store_c4(void* plane, int64_t limit, const OutputSpan* spans, const __m256i (&code)[4]) {
    const __m256i low01 = _mm256_unpacklo_epi8(code[0], code[1]), high01 = _mm256_unpackhi_epi8(code[0], code[1]);
    const __m256i low23 = _mm256_unpacklo_epi8(code[2], code[3]), high23 = _mm256_unpackhi_epi8(code[2], code[3]);
    // part j holds positions 4j .. 4j+3 in its low half, 16 + 4j .. in its high half
    const __m256i part[4] = {_mm256_unpacklo_epi16(low01, low23), _mm256_unpackhi_epi16(low01, low23),
                             _mm256_unpacklo_epi16(high01, high23), _mm256_unpackhi_epi16(high01, high23)};
    store_compact(plane, limit, spans[0], _mm256_permute2x128_si256(part[0], part[1], 0x20));
    store_compact(plane, limit, spans[1], _mm256_permute2x128_si256(part[2], part[3], 0x20));
    store_compact(plane, limit, spans[2], _mm256_permute2x128_si256(part[0], part[1], 0x31));
    store_compact(plane, limit, spans[3], _mm256_permute2x128_si256(part[2], part[3], 0x31));
}

// int32 sums of 32 positions in order, the offset added.
inline void spread(const Widened& sums, int32_t offset, int32_t* to) {
    const EvenOdd s = load_sums(sums);
    const __m256i add = _mm256_set1_epi32(offset);
    const __m256i low = _mm256_unpacklo_epi16(s.even, s.odd), high = _mm256_unpackhi_epi16(s.even, s.odd);
    const __m128i eight[4] = {_mm256_castsi256_si128(low), _mm256_castsi256_si128(high), _mm256_extracti128_si256(low, 1),
                              _mm256_extracti128_si256(high, 1)};
    for (int i = 0; i < 4; ++i) store256(to + 8 * i, _mm256_add_epi32(_mm256_cvtepu16_epi32(eight[i]), add));
}

// The block's channels at one vector of positions, from widened sums.
struct Place {
    const Conv2d& conv;
    const Lookup& lookup;
    const OutputSpan* spans;                // of this vector
    int64_t limit;                          // store_limit
    void* y;
    void* plane(int32_t block) const { return static_cast<uint8_t*>(y) + static_cast<int64_t>(block) * conv.h_out * conv.w_out * 4; }
};

void finish_wide(const Place& at, int32_t b, const Widened* sums, int32_t stride) {
    const Lookup& l = at.lookup;
    const int32_t c = b * kQ;
    if (!l.fast) {
        alignas(32) int32_t wide[kQ][kLanes];
        for (int q = 0; q < kQ; ++q) spread(sums[q * stride], lookup_part<int32_t>(l, l.offset)[c + q], wide[q]);
        return finish(at.conv, c, Sums{wide[0], 4, at.spans, at.limit, lookup_part<int32_t>(l, l.tree)}, at.y);
    }
    __m256i code[kQ];
    if (lookup_part<SumReach>(l, l.reach)[b] != SumReach::kFar) {
        const bool binary = at.conv.requant.levels == 2;
        const ByteLevels* levels = lookup_part<ByteLevels>(l, l.level) + c;
        for (int q = 0; q < kQ; ++q) code[q] = level_codes(levels[q], binary, sums[q * stride]);
    } else {
        const uint16_t* threshold = lookup_part<uint16_t>(l, l.threshold) + c * kLookupThresholds;
        const uint8_t* flip = lookup_part<uint8_t>(l, l.flip) + c;
        for (int q = 0; q < kQ; ++q) code[q] = threshold_codes(sums[q * stride], threshold + q * kLookupThresholds, flip[q]);
    }
    store_c4(at.plane(b), at.limit, at.spans, code);
}

// The same from byte sums, which were never widened.
void finish_bytes(const Place& at, int32_t b, const ByteSums& sums, int32_t v) {
    const ByteLevels* levels = lookup_part<ByteLevels>(at.lookup, at.lookup.level) + b * kQ;
    const __m256i middle = _mm256_set1_epi8(-128);
    const bool binary = at.conv.requant.levels == 2;
    __m256i code[kQ];
    for (int p = 0; p < kQ / 2; ++p) {
        const __m256i high = sums.high[p][v], low = low_sums(sums.both[p][v], high);
        code[2 * p] = level_codes(levels[2 * p], binary, _mm256_xor_si256(low, middle));
        code[2 * p + 1] = level_codes(levels[2 * p + 1], binary, _mm256_xor_si256(high, middle));
    }
    store_c4(at.plane(b), at.limit, at.spans, code);
}

struct Job {
    const Conv2d& conv;
    const Lookup& lookup;
    const uint8_t* planes;
    void* y;
    int64_t limit;
};

template <int V>
void run_tile(const Job& job, int32_t b, int32_t v) {
    const Lookup& l = job.lookup;
    const uint8_t* x = job.planes + v * kLanes;
    const uint8_t* table = &kRows[l.code_bits - 1].row[0][0];
    const RunStep* step = lookup_part<RunStep>(l, l.step) + static_cast<int64_t>(b) * l.steps;
    const RunSegment* segments = lookup_part<RunSegment>(l, l.segment);
    const int32_t* first = lookup_part<int32_t>(l, l.first) + b;
    const OutputSpan* spans = lookup_part<OutputSpan>(l, l.span) + 4 * v;
    ByteSums found;
    found.clear();
    if (l.fast && lookup_part<SumReach>(l, l.reach)[b] == SumReach::kBytes) {
        for (int32_t s = first[0]; s < first[1]; ++s) step = look_up_runs<V>(segments[s], x, step, table, found);
        for (int i = 0; i < V; ++i) finish_bytes(Place{job.conv, l, spans + 4 * i, job.limit, job.y}, b, found, i);
        return;
    }
    alignas(64) Widened sums[kQ * V];
    bool widened = false;
    int32_t s = first[0];
    do {
        step = look_up_runs<V>(segments[s], x, step, table, found);
        if (!segments[s].widen) continue;
        for (int p = 0; p < kQ / 2; ++p)
            for (int i = 0; i < V; ++i) {
                widen(sums[2 * p * V + i], low_sums(found.both[p][i], found.high[p][i]), !widened);
                widen(sums[(2 * p + 1) * V + i], found.high[p][i], !widened);
            }
        widened = true;
        found.clear();
    } while (++s < first[1]);
    for (int i = 0; i < V; ++i) finish_wide(Place{job.conv, l, spans + 4 * i, job.limit, job.y}, b, sums + i, V);
}

void compute(const Conv2d& c, const void* prepared, const uint8_t*, void* y, const void* scratch, Share share) {
    const Lookup& l = *static_cast<const Lookup*>(prepared);
    const GridPart part = part_of(share, l.vectors, l.blocks, kMaxV, false);
    const int64_t pixels = static_cast<int64_t>(c.h_out) * c.w_out;
    const int64_t limit = store_limit(lookup_part<OutputSpan>(l, l.span), part.vectors_end, l.vectors, 4, pixels);
    const Job job{c, l, placed_planes(c, l, scratch), y, limit};
    for (int32_t v = part.vector, n; v < part.vectors_end; v += n) {
        n = part.vectors_end - v >= kMaxV ? kMaxV : 1;
        for (int32_t b = part.block; b < part.blocks_end; ++b) {
            if (n == kMaxV) run_tile<kMaxV>(job, b, v);
            else run_tile<1>(job, b, v);
        }
    }
}

}  // namespace

const Variant kConv2dW2A2Avx2{"w2a2_avx2", 1, supports, prepared_bytes, prepare, scratch_bytes, pack, compute};

}  // namespace edgenas
