// Depthwise convolution (one input channel for each output channel) for AVX2, every weight and activation width, exact.
//
// Lanes are 8 output positions x the 4 channels of a C4 element (planes.h). Two taps are taken at once: their bytes are interleaved,
// so that one multiply-add instruction gives the sum of both for each position and channel
//   narrow  vpmaddubsw into int16 sums, where not even the largest codes and weights could leave int16
//   wide    codes widened to int16, vpmaddwd into int32 sums
// A dense kernel would spend three quarters of its work and more on zeros.
#include <algorithm>
#include <cstring>

#include "finish_avx2.h"
#include "variants.h"

namespace edgenas {
namespace {

constexpr int32_t kLanes = 8;
constexpr int32_t kChannels = 4;

constexpr int64_t aligned(int64_t n) { return (n + 63) / 64 * 64; }

// Two taps of four channels. Offsets are bytes.
struct TapPair {
    int32_t tap[2];
    int8_t narrow[kChannels][2];
    int16_t wide[kChannels][2];
};

struct Scales {
    float factor[kChannels], offset[kChannels];
};

// One buffer: header | pairs [c4][pairs] | starts [c4][4] | FloatScale [c4][4] | Scales [c4] | spans | trees
struct Depthwise {
    Planes planes;
    int32_t vectors, c4, pairs;
    bool narrow, scaled;                    // scaled: kLinear, every channel has a FloatScale, which replaces its start
    int64_t pair, start, scale, span, tree, total;
};

template <class T>
const T* part(const Depthwise& d, int64_t offset) {
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(&d) + offset);
}

// 1x1 without padding is not copied, so whole vectors could not be read; nobody trains such layers.
bool supports(const Conv2d& c) { return c.groups == c.c_in && c.c_out == c.c_in && c.groups > 1 && planes_of(c).copied; }

Depthwise header_of(const Conv2d& c) {
    Depthwise d{};
    d.planes = planes_of(c);
    d.vectors = (d.planes.positions + kLanes - 1) / kLanes;
    d.c4 = (c.c_out + 3) / 4;
    d.pairs = (c.kernel * c.kernel + 1) / 2;
    const int64_t largest_weight = c.wbits == 1 ? 1 : int64_t{1} << (c.wbits - 1);
    d.narrow = c.kernel * c.kernel * largest_weight * ((1 << c.abits) - 1) <= 32767;
    int64_t at = aligned(sizeof(Depthwise));
    const auto place = [&at](int64_t& offset, size_t bytes) { offset = at, at = aligned(at + static_cast<int64_t>(bytes)); };
    const auto c4 = static_cast<size_t>(d.c4);
    place(d.pair, sizeof(TapPair) * c4 * static_cast<size_t>(d.pairs));
    place(d.start, sizeof(int32_t) * c4 * kChannels);
    place(d.scale, sizeof(Scales) * c4);
    place(d.span, sizeof(OutputSpan) * static_cast<size_t>(d.vectors));
    place(d.tree, sizeof(int32_t) * kTreeSize * c4 * kChannels);
    d.total = at;
    return d;
}

size_t prepared_bytes(const Conv2d& c) { return static_cast<size_t>(header_of(c).total); }
size_t scratch_bytes(const Conv2d& c) { return input_bytes(c); }

// Fills the pairs of one channel; returns the sum of its weights and of their magnitudes.
std::pair<int32_t, int32_t> put_weights(const Conv2d& c, const Depthwise& d, int32_t channel, TapPair* pairs) {
    const int32_t taps = c.kernel * c.kernel;
    const uint8_t* row = c.weights + channel * weight_row_bytes(taps, c.wbits);
    int32_t sum = 0, size = 0;
    for (int32_t t = 0; t < 2 * d.pairs; ++t) {
        const int32_t tap = std::min(t, taps - 1), w = t < taps ? unpack_weight(row, t, c.wbits) : 0;
        TapPair& pair = pairs[t / 2];
        pair.tap[t % 2] = 4 * tap_offset(d.planes, tap / c.kernel, tap % c.kernel);
        pair.narrow[channel % 4][t % 2] = static_cast<int8_t>(w), pair.wide[channel % 4][t % 2] = static_cast<int16_t>(w);
        sum += w, size += w < 0 ? -w : w;
    }
    return {sum, size};
}

void prepare(const Conv2d& c, void* prepared) {
    Depthwise d = header_of(c);
    char* base = static_cast<char*>(prepared);
    std::memset(base, 0, static_cast<size_t>(d.total));
    int32_t* starts = reinterpret_cast<int32_t*>(base + d.start);
    d.scaled = c.requant.kind == Epilogue::kLinear;
    for (int32_t i = 0; i < c.c_out; ++i) {
        const auto [sum, size] = put_weights(c, d, i, reinterpret_cast<TapPair*>(base + d.pair) + static_cast<int64_t>(i / 4) * d.pairs);
        starts[i] = -c.zero_point * sum;
        FloatScale scale{0, 0};
        d.scaled = d.scaled && float_scale(c.requant, i, starts[i], static_cast<int64_t>(size) * ((1 << c.abits) - 1), scale);
        Scales& scales = reinterpret_cast<Scales*>(base + d.scale)[i / 4];
        scales.factor[i % 4] = scale.factor, scales.offset[i % 4] = scale.offset;
    }
    output_spans(d.planes, kLanes, reinterpret_cast<OutputSpan*>(base + d.span));
    const std::vector<int32_t> trees = threshold_trees(c, d.c4 * kChannels);
    if (!trees.empty()) std::memcpy(base + d.tree, trees.data(), sizeof(int32_t) * trees.size());
    std::memcpy(base, &d, sizeof(d));
}

void pack(const Conv2d& c, const void* prepared, const uint8_t* x, void* scratch, Share share) {
    copy_input(c, static_cast<const Depthwise*>(prepared)->planes, x, scratch, share);
}

inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline __m256i twice(const void* p) { return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p))); }

// int32 sums of four channels: at[i] holds those of position i in its low half and of position 4 + i in its high half.
struct Quads {
    __m256i at[4];
};

inline Quads narrow_sums(const uint8_t* x, const TapPair* pair, int32_t pairs) {
    __m256i low = _mm256_setzero_si256(), high = low;           // int16: positions 0, 1 | 4, 5 and 2, 3 | 6, 7
    for (int32_t i = 0; i < pairs; ++i, ++pair) {
        const __m256i a = load(x + pair->tap[0]), b = load(x + pair->tap[1]);
        int64_t eight;
        std::memcpy(&eight, pair->narrow, sizeof(eight));
        const __m256i w = _mm256_set1_epi64x(eight);
        low = _mm256_add_epi16(low, _mm256_maddubs_epi16(_mm256_unpacklo_epi8(a, b), w));
        high = _mm256_add_epi16(high, _mm256_maddubs_epi16(_mm256_unpackhi_epi8(a, b), w));
    }
    const auto widen_low = [](__m256i v) { return _mm256_srai_epi32(_mm256_unpacklo_epi16(v, v), 16); };
    const auto widen_high = [](__m256i v) { return _mm256_srai_epi32(_mm256_unpackhi_epi16(v, v), 16); };
    return {{widen_low(low), widen_high(low), widen_low(high), widen_high(high)}};
}

inline Quads wide_sums(const uint8_t* x, const TapPair* pair, int32_t pairs) {
    const __m256i zero = _mm256_setzero_si256();
    __m256i s0 = zero, s1 = zero, s2 = zero, s3 = zero;
    for (int32_t i = 0; i < pairs; ++i, ++pair) {
        const __m256i a = load(x + pair->tap[0]), b = load(x + pair->tap[1]), w = twice(pair->wide);
        const __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
        s0 = _mm256_add_epi32(s0, _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), w));
        s1 = _mm256_add_epi32(s1, _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), w));
        s2 = _mm256_add_epi32(s2, _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), w));
        s3 = _mm256_add_epi32(s3, _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), w));
    }
    return {{s0, s1, s2, s3}};
}

inline __m256i linear_codes(const Requant& r, const Scales& scales, const Quads& sums) {
    const __m256 factor = _mm256_castsi256_ps(twice(scales.factor)), offset = _mm256_castsi256_ps(twice(scales.offset));
    __m256i value[4];
    for (int i = 0; i < 4; ++i) value[i] = _mm256_cvtps_epi32(_mm256_fmadd_ps(_mm256_cvtepi32_ps(sums.at[i]), factor, offset));
    const __m256i codes = _mm256_packus_epi16(_mm256_packs_epi32(value[0], value[1]), _mm256_packs_epi32(value[2], value[3]));
    const __m256i lo = _mm256_set1_epi8(static_cast<char>(r.lo)), hi = _mm256_set1_epi8(static_cast<char>(r.hi));
    return _mm256_max_epu8(_mm256_min_epu8(codes, hi), lo);
}

// To [channel][8 positions], the starts added.
inline void spread(const Quads& s, const int32_t* starts, int32_t* to) {
    const __m256i low01 = _mm256_unpacklo_epi32(s.at[0], s.at[1]), low23 = _mm256_unpacklo_epi32(s.at[2], s.at[3]);
    const __m256i high01 = _mm256_unpackhi_epi32(s.at[0], s.at[1]), high23 = _mm256_unpackhi_epi32(s.at[2], s.at[3]);
    const __m256i channel[4] = {_mm256_unpacklo_epi64(low01, low23), _mm256_unpackhi_epi64(low01, low23),
                                _mm256_unpacklo_epi64(high01, high23), _mm256_unpackhi_epi64(high01, high23)};
    for (int q = 0; q < 4; ++q)
        _mm256_store_si256(reinterpret_cast<__m256i*>(to + 8 * q), _mm256_add_epi32(channel[q], _mm256_set1_epi32(starts[q])));
}

template <bool kNarrow>
void run_channels(const Conv2d& c, const Depthwise& d, const uint8_t* x, void* y, int32_t b, const GridPart& grid, int64_t limit) {
    const int64_t pixels = static_cast<int64_t>(c.h_out) * c.w_out;
    const uint8_t* plane = x + static_cast<int64_t>(b) * d.planes.size * 4;
    const TapPair* pairs = part<TapPair>(d, d.pair) + static_cast<int64_t>(b) * d.pairs;
    const OutputSpan* spans = part<OutputSpan>(d, d.span);
    const Requant r = c.requant;            // a copy: stores to y cannot change it
    const int32_t live = c.c_out - 4 * b;
    const __m256i keep = _mm256_set1_epi32(live >= 4 ? -1 : (1 << (8 * live)) - 1);
    for (int32_t v = grid.vector; v < grid.vectors_end; ++v) {
        const uint8_t* at = plane + static_cast<int64_t>(v) * kLanes * 4;
        const Quads sums = kNarrow ? narrow_sums(at, pairs, d.pairs) : wide_sums(at, pairs, d.pairs);
        if (d.scaled) {
            const __m256i codes = linear_codes(r, part<Scales>(d, d.scale)[b], sums);
            store_compact(static_cast<uint8_t*>(y) + b * pixels * 4, limit, spans[v], _mm256_and_si256(codes, keep));
            continue;
        }
        alignas(32) int32_t wide[kChannels * kLanes];
        spread(sums, part<int32_t>(d, d.start) + b * kChannels, wide);
        finish(c, b * kChannels, Sums{wide, 1, spans + v, limit, part<int32_t>(d, d.tree), nullptr}, y);
    }
}

void compute(const Conv2d& c, const void* prepared, const uint8_t* x, void* y, const void* scratch, Share share) {
    const Depthwise& d = *static_cast<const Depthwise*>(prepared);
    const GridPart grid = part_of(share, d.vectors, d.c4, 1, false);
    const int64_t limit = store_limit(part<OutputSpan>(d, d.span), grid.vectors_end, d.vectors, 1, static_cast<int64_t>(c.h_out) * c.w_out);
    const uint8_t* planes = input_of(d.planes, x, scratch);
    for (int32_t b = grid.block; b < grid.blocks_end; ++b) {
        if (d.narrow) run_channels<true>(c, d, planes, y, b, grid, limit);
        else run_channels<false>(c, d, planes, y, b, grid, limit);
    }
}

}  // namespace

const Variant kConv2dDepthwiseAvx2{"depthwise_avx2", 1, supports, prepared_bytes, prepare, scratch_bytes, pack, compute};

}  // namespace edgenas
