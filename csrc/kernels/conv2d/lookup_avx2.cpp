// Convolution of at most 2-bit codes and weights by table lookup (lookup.h), for AVX2: 2 codes of 2 bits or 4 of 1 bit
// a byte, 16-entry rows.
//
// Lanes are 32 consecutive output positions. One vpshufb looks up 32 indices for two output channels at once: 128 or 256
// multiply-adds. lookup_runs.h says how what it finds is added, runs_avx2.h is the loop. A tile is 4 output channels x up to 2
// vectors.
#include "lookup_pack_avx2.h"
#include "runs_avx2.h"
#include "variants.h"

namespace edgenas {
namespace {

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
size_t scratch_bytes(const Conv2d& c) { return static_cast<size_t>(pack_scratch(c, byte_planes_of(c)).total); }

void pack(const Conv2d& c, const void* prepared, const uint8_t* x, void* scratch, Share share) {
    const Lookup& l = *static_cast<const Lookup*>(prepared);
    const int32_t groups = (l.byte_planes + 3) / 4, first = begin_of(share, groups);
    uint8_t *to = static_cast<uint8_t*>(scratch), *buffer = to + first * pack_scratch(c, l.planes).group;    // one for all its groups
    for (int32_t t = first; t < end_of(share, groups); ++t) pack_group(c, l, x, t, buffer, to);
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
    const __m128i order = _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    const __m256i middle = splat(l.middle);
    const __m256i x = _mm256_packs_epi16(_mm256_sub_epi16(s.even, middle), _mm256_sub_epi16(s.odd, middle));
    return level_codes(l, binary, _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(order)));
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
        return finish(at.conv, c, Sums{wide[0], 4, at.spans, at.limit, lookup_part<int32_t>(l, l.tree), nullptr}, at.y);
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
    const Job job{c, l, static_cast<const uint8_t*>(scratch) + pack_scratch(c, l.planes).planes, y, limit};
    for (int32_t v = part.vector, n; v < part.vectors_end; v += n) {
        n = part.vectors_end - v >= kMaxV ? kMaxV : 1;
        for (int32_t b = part.block; b < part.blocks_end; ++b) {
            if (n == kMaxV) run_tile<kMaxV>(job, b, v);
            else run_tile<1>(job, b, v);
        }
    }
}

}  // namespace

const Variant kConv2dLookupAvx2{"lookup_avx2", 1, supports, prepared_bytes, prepare, scratch_bytes, pack, compute};

}  // namespace edgenas
