// Convolution with codebooks for AVX2: 16-entry rows looked up by vpshufb, lanes are 32 consecutive output positions.
//
// A tile of 4 output channels x 2 vectors of byte sums lives in registers, of one vector where entries have two parts.
#include "../conv2d/finish_avx2.h"
#include "tables.h"
#include "variants.h"

namespace edgenas {
namespace {

constexpr int32_t kQ = kCodebookBlock;
constexpr int32_t kLanes = kCodebookLanes;

bool supports(const CodebookConv2d& b) { return b.conv.groups == 1 && (codebook_fits_bytes(b) || !codebook_fits_int8(b)); }
size_t prepared_bytes(const CodebookConv2d& b) { return codebook_bytes(b); }
void prepare(const CodebookConv2d& b, void* prepared) { codebook_prepare(b, prepared); }
size_t scratch_bytes(const CodebookConv2d& b) { return static_cast<size_t>(codebook_scratch(b).total); }

inline __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store256(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

// The index bytes of one plane: `group` channels from lane `lane` of a C4 plane on. Sixteen pixels at a time, then one by one.
void pack_plane(const uint8_t* c4, int64_t pixels, int32_t lane, int32_t group, int32_t abits, uint8_t* to) {
    const int32_t high = group == 2 ? 8 - abits : 24;       // moves the second code down beside the first
    const __m256i mask = _mm256_set1_epi32(group == 2 ? (1 << (2 * abits)) - 1 : (1 << abits) - 1);
    const __m128i down = _mm_cvtsi32_si128(8 * lane), second = _mm_cvtsi32_si128(high);
    const __m256i first_code = _mm256_set1_epi32((1 << abits) - 1);
    int64_t at = 0;
    for (; at + 16 <= pixels; at += 16) {
        __m256i index[2];
        for (int i = 0; i < 2; ++i) {
            const __m256i codes = _mm256_srl_epi32(load256(c4 + 4 * (at + 8 * i)), down);
            const __m256i rest = _mm256_andnot_si256(first_code, _mm256_srl_epi32(codes, second));
            index[i] = _mm256_and_si256(_mm256_or_si256(_mm256_and_si256(codes, first_code), rest), mask);
        }
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(index[0], index[1]), 0xD8);
        const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(words, words), 0xD8);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + at), _mm256_castsi256_si128(bytes));
    }
    for (; at < pixels; ++at) {
        const uint8_t* code = c4 + 4 * at + lane;
        to[at] = static_cast<uint8_t>(group == 2 ? code[0] | code[1] << abits : code[0]);
    }
}

void pack(const CodebookConv2d& b, const void* prepared, const uint8_t* x, void* scratch, Share share) {
    const CodebookTables& t = *static_cast<const CodebookTables*>(prepared);
    const Conv2d& c = b.conv;
    const CodebookScratch s = codebook_scratch(b);
    const int64_t pixels = static_cast<int64_t>(c.h) * c.w;
    const int32_t outside = t.group == 2 ? c.zero_point | c.zero_point << c.abits : c.zero_point;
    uint8_t *packed = static_cast<uint8_t*>(scratch), *placed = packed + s.packed_bytes;
    for (int64_t p = begin_of(share, t.index_planes); p < end_of(share, t.index_planes); ++p) {
        const auto channel = static_cast<int32_t>(p) * t.group;
        pack_plane(x + channel / 4 * pixels * 4, pixels, channel % 4, t.group, c.abits, packed + p * s.stride);
        if (t.planes.copied)
            fill_byte_plane(t.planes, packed + p * s.stride, static_cast<uint8_t>(outside), placed + p * t.planes.size);
    }
}

// Sums of one part of a tile, widened: [even, odd position][16]; even sums still contain 256 * odd.
using Widened = uint16_t[2][16];

struct alignas(64) Sums16 {
    Widened at[kQ * 2];                     // [channel][vector or part]
};

struct alignas(64) Sums32 {
    uint32_t at[kQ * 2][kLanes];            // [channel][vector]
};

inline void widen(Widened& to, __m256i sums) {
    store256(to[0], _mm256_add_epi16(load256(to[0]), sums));
    store256(to[1], _mm256_add_epi16(load256(to[1]), _mm256_srli_epi16(sums, 8)));
}

// Adds uint16 sums of 32 positions, times 2^shift, to the uint32 ones, and clears them.
inline void deepen(Widened& from, int32_t shift, uint32_t* to) {
    const __m128i by = _mm_cvtsi32_si128(shift);
    const __m256i odd = load256(from[1]), even = _mm256_sub_epi16(load256(from[0]), _mm256_slli_epi16(odd, 8));
    const __m256i low = _mm256_unpacklo_epi16(even, odd), high = _mm256_unpackhi_epi16(even, odd);
    const __m128i eight[4] = {_mm256_castsi256_si128(low), _mm256_castsi256_si128(high), _mm256_extracti128_si256(low, 1),
                              _mm256_extracti128_si256(high, 1)};
    for (int i = 0; i < 4; ++i)
        store256(to + 8 * i, _mm256_add_epi32(load256(to + 8 * i), _mm256_sll_epi32(_mm256_cvtepu16_epi32(eight[i]), by)));
    store256(from[0], _mm256_setzero_si256());
    store256(from[1], _mm256_setzero_si256());
}

// Assembly, because gcc otherwise looks up everything first and spills sums in the innermost loop.
inline void look_up_add(__m256i& sum, __m256i index, __m256i row) {
    __m256i found;
    __asm__ volatile("vpshufb %2, %3, %1\n\tvpaddb %1, %0, %0" : "+x"(sum), "=&x"(found) : "x"(index), "x"(row));
}

// V vectors of positions, P parts of an entry; V * P is at most 2.
template <int V, int P>
void tile(const CodebookTables& t, const uint8_t* x, const uint16_t* row, const int32_t* flush, Sums32& total) {
    const uint8_t* entries = codebook_part<uint8_t>(t, t.entry);
    const int32_t* tap = codebook_part<int32_t>(t, t.tap);
    Sums16 words{};
    for (int32_t s = 0; s < t.steps;) {
        __m256i acc[kQ][V * P];
#pragma GCC unroll 4
        for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 2
            for (int k = 0; k < V * P; ++k) acc[q][k] = _mm256_setzero_si256();
        const int32_t point = *flush++, end = point < 0 ? ~point : point;
        for (; s < end; ++s, row += kQ) {
            const uint8_t* at = x + tap[s];
            __m256i index[V];
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) index[v] = load256(at + kLanes * v);
#pragma GCC unroll 4
            for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 2
                for (int p = 0; p < P; ++p) {
                    const __m256i part = _mm256_load_si256(reinterpret_cast<const __m256i*>(entries + row[q] + p * kCodebookRow));
#pragma GCC unroll 2
                    for (int v = 0; v < V; ++v) look_up_add(acc[q][v * P + p], index[v], part);
                }
        }
#pragma GCC unroll 4
        for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 2
            for (int k = 0; k < V * P; ++k) widen(words.at[q * V * P + k], acc[q][k]);
        if (point >= 0) continue;
        for (int q = 0; q < kQ; ++q)
            for (int k = 0; k < V * P; ++k) deepen(words.at[q * V * P + k], k % P == 0 ? 0 : t.shift, total.at[q * V + k / P]);
    }
}

// Writes the channels c .. c+3 at the 32 positions of each of `vectors` vectors.
void finish_tile(const CodebookConv2d& b, const CodebookTables& t, int32_t c, int32_t v, int32_t vectors, Sums32& total, int64_t limit,
                 void* y) {
    const OutputSpan* spans = codebook_part<OutputSpan>(t, t.span) + 4 * v;
    const int64_t pixels = static_cast<int64_t>(b.conv.h_out) * b.conv.w_out;
    for (int32_t i = 0; i < vectors; ++i, spans += 4) {
        alignas(32) int32_t wide[kQ][kLanes];
        for (int q = 0; q < kQ; ++q) {
            const __m256i offset = _mm256_set1_epi32(static_cast<int32_t>(codebook_part<uint32_t>(t, t.offset)[c + q]));
            for (int k = 0; k < kLanes; k += 8) store256(wide[q] + k, _mm256_add_epi32(load256(total.at[q * vectors + i] + k), offset));
        }
        if (!b.sums) {
            finish(b.conv, c, Sums{wide[0], 4, spans, limit, codebook_part<int32_t>(t, t.tree), nullptr}, y);
            continue;
        }
        for (int q = 0; q < kQ && c + q < b.conv.c_out; ++q)
            for (int k = 0; k < 4; ++k)
                store_compact(static_cast<int32_t*>(y) + (c + q) * pixels, limit, spans[k], load256(wide[q] + 8 * k));
    }
}

void compute(const CodebookConv2d& b, const void* prepared, const uint8_t*, void* y, const void* scratch, Share share) {
    const CodebookTables& t = *static_cast<const CodebookTables*>(prepared);
    const uint8_t* planes = static_cast<const uint8_t*>(scratch) + (t.planes.copied ? codebook_scratch(b).packed_bytes : 0);
    const int32_t most = t.parts == 1 ? 2 : 1;
    const GridPart part = part_of(share, t.vectors, t.blocks, most, false);
    const int64_t pixels = static_cast<int64_t>(b.conv.h_out) * b.conv.w_out;
    const int64_t limit = store_limit(codebook_part<OutputSpan>(t, t.span), part.vectors_end, t.vectors, 4, pixels);
    for (int32_t v = part.vector, n; v < part.vectors_end; v += n) {
        n = part.vectors_end - v >= most ? most : 1;
        const auto run = t.parts == 2 ? tile<1, 2> : n == 2 ? tile<2, 1> : tile<1, 1>;
        for (int32_t block = part.block; block < part.blocks_end; ++block) {
            Sums32 total{};
            const uint16_t* row = codebook_part<uint16_t>(t, t.row) + static_cast<int64_t>(block) * t.steps * kQ;
            const int32_t* flush = codebook_part<int32_t>(t, t.flush) + codebook_part<int32_t>(t, t.first)[block];
            run(t, planes + v * kLanes, row, flush, total);
            finish_tile(b, t, block * kQ, v, n, total, limit, y);
        }
    }
}

}  // namespace

const CodebookVariant kCodebookAvx2{"lookup_avx2", 1, supports, prepared_bytes, prepare, scratch_bytes, pack, compute};

}  // namespace edgenas
