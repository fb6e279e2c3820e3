// Direct float convolution over vectors of output positions, written once for any register width.
//
// Lanes are consecutive positions (conv2d/planes.h) of a plane of one input channel; a tile of kQ output channels x up to
// kMaxV vectors stays in registers and takes one fused multiply-add per weight and vector. Grouped layers run as dense ones on
// the input channels that a block of kQ output channels reads, with zero weights for channels of other groups.
//
// V describes the instruction set: Reg, kLanes, kQ, kMaxV, kFreeMask and the operations used below. Everything has internal
// linkage: each including file compiles its own copy with its own flags.
#pragma once
#include <cstring>

#include "../conv2d/planes.h"
#include "kernel.h"

namespace edgenas {
namespace {

struct Block {
    int32_t channel, steps;                 // first input channel; channels * taps
    int64_t weights;                        // offset in floats
};

struct Layout {                             // byte offsets in the prepared buffer
    Planes planes;
    int32_t taps, vectors, blocks, block_channels;
    size_t tap, bias, span, weights, total;
};

constexpr size_t aligned(size_t n) { return (n + 63) / 64 * 64; }

// exp(v) to about 1e-7 relative: 2^n * polynomial on |r| <= ln(2) / 2 (coefficients: Cephes expf, Moshier, public domain).
template <class V>
inline typename V::Reg exponential(typename V::Reg v) {
    const auto c = [](float f) { return V::set1(f); };
    const auto x = V::max(V::min(v, c(88.0f)), c(-87.0f));
    const auto n = V::round(V::mul(x, c(1.44269504f)));
    const auto r = V::fma(n, c(2.12194440e-4f), V::fma(n, c(-0.693359375f), x));
    auto p = V::fma(c(1.9875691500e-4f), r, c(1.3981999507e-3f));
    p = V::fma(p, r, c(8.3334519073e-3f));
    p = V::fma(p, r, c(4.1665795894e-2f));
    p = V::fma(p, r, c(1.6666665459e-1f));
    p = V::fma(p, r, c(5.0000001201e-1f));
    p = V::fma(V::mul(p, r), r, V::add(r, c(1.0f)));
    return V::scale_by_power_of_two(p, n);
}

template <class V>
inline typename V::Reg activate_lanes(Activation act, typename V::Reg v) {
    const auto zero = V::set1(0.0f), one = V::set1(1.0f), six = V::set1(6.0f);
    switch (act) {
        case Activation::kNone: return v;
        case Activation::kRelu: return V::max(v, zero);
        case Activation::kRelu6: return V::min(V::max(v, zero), six);
        case Activation::kLeakyRelu: return V::max(v, V::mul(v, V::set1(kLeakySlope)));
        case Activation::kHardswish: {
            const auto gate = V::min(V::max(V::add(v, V::set1(3.0f)), zero), six);
            return V::mul(V::mul(v, gate), V::set1(1.0f / 6.0f));
        }
        case Activation::kSilu: return V::div(v, V::add(one, exponential<V>(V::sub(zero, v))));
        case Activation::kSigmoid: return V::div(one, V::add(one, exponential<V>(V::sub(zero, v))));
        case Activation::kGelu: break;
    }
    alignas(64) float lanes[V::kLanes];     // erf has no cheap vector form; the lanes go one by one
    V::store(lanes, v);
    for (float& lane : lanes) lane = activate(act, lane);
    return V::load(lanes);
}

template <class V>
struct Direct {
    using Reg = typename V::Reg;
    static constexpr int32_t kQ = V::kQ, kMaxV = V::kMaxV, kLanes = V::kLanes;

    struct Range {                          // input channels [first, last)
        int32_t first, last;
    };

    static Range channels_of_block(const Conv2dF32& c, int32_t b) {
        const int32_t in = c.c_in / c.groups, out = c.c_out / c.groups;
        const int32_t last = (b * kQ + kQ < c.c_out ? b * kQ + kQ : c.c_out) - 1;
        return {b * kQ / out * in, (last / out + 1) * in};
    }

    static Layout layout_of(const Conv2dF32& c) {
        Layout l{};
        l.planes = planes_of(c);
        l.taps = c.kernel * c.kernel;
        l.vectors = (l.planes.positions + kLanes - 1) / kLanes;
        l.blocks = (c.c_out + kQ - 1) / kQ;
        int64_t channels = 0;
        for (int32_t b = 0; b < l.blocks; ++b) {
            const Range range = channels_of_block(c, b);
            channels += range.last - range.first;
            if (range.last - range.first > l.block_channels) l.block_channels = range.last - range.first;
        }
        l.tap = aligned(sizeof(Block) * static_cast<size_t>(l.blocks));
        l.bias = aligned(l.tap + sizeof(int32_t) * static_cast<size_t>(l.block_channels) * l.taps);
        l.span = aligned(l.bias + sizeof(float) * static_cast<size_t>(l.blocks * kQ));
        l.weights = aligned(l.span + sizeof(OutputSpan) * static_cast<size_t>(l.vectors));
        l.total = l.weights + sizeof(float) * static_cast<size_t>(channels * l.taps * kQ);
        return l;
    }

    static bool supports(const Conv2dF32&) { return true; }
    static size_t prepared_bytes(const Conv2dF32& c) { return layout_of(c).total; }

    // The last tile reads past the last position, by less than one tile.
    static size_t scratch_bytes(const Conv2dF32& c) {
        const Layout l = layout_of(c);
        return l.planes.copied ? (static_cast<size_t>(c.c_in) * l.planes.size + kLanes) * sizeof(float) : 0;
    }

    // [channel][tap][output channel of the block]
    static void prepare_block(const Conv2dF32& c, int32_t b, Range range, float* w, float* bias) {
        const int32_t in = c.c_in / c.groups, out = c.c_out / c.groups, taps = c.kernel * c.kernel;
        std::memset(w, 0, sizeof(float) * static_cast<size_t>(range.last - range.first) * taps * kQ);
        for (int32_t q = 0; q < kQ && b * kQ + q < c.c_out; ++q) {
            const int32_t co = b * kQ + q, skip = (co / out * in - range.first) * taps;
            for (int32_t i = 0; i < in * taps; ++i)
                w[static_cast<int64_t>(skip + i) * kQ + q] = c.weights[static_cast<int64_t>(co) * in * taps + i];
            bias[co] = c.bias ? c.bias[co] : 0.0f;
        }
    }

    static void prepare(const Conv2dF32& c, void* prepared) {
        const Layout l = layout_of(c);
        char* base = static_cast<char*>(prepared);
        std::memset(base, 0, l.weights);
        Block* block = reinterpret_cast<Block*>(base);
        int32_t* tap = reinterpret_cast<int32_t*>(base + l.tap);
        for (int32_t p = 0; p < l.block_channels; ++p)
            for (int32_t t = 0; t < l.taps; ++t) *tap++ = p * l.planes.size + tap_offset(l.planes, t / c.kernel, t % c.kernel);
        float* weights = reinterpret_cast<float*>(base + l.weights);
        int64_t at = 0;
        for (int32_t b = 0; b < l.blocks; ++b) {
            const Range range = channels_of_block(c, b);
            block[b] = {range.first, (range.last - range.first) * l.taps, at};
            prepare_block(c, b, range, weights + at, reinterpret_cast<float*>(base + l.bias));
            at += static_cast<int64_t>(block[b].steps) * kQ;
        }
        output_spans(l.planes, kLanes, reinterpret_cast<OutputSpan*>(base + l.span));
    }

    struct Tile {                           // what every tile of one call shares
        const Conv2dF32& conv;
        const Layout& layout;
        const char* prepared;
        const float* x;
        float* y;
        GridPart part;
        int64_t limit;                      // of the elements of an output plane that this worker may write
    };

    // sums [kQ][N][kLanes]: bias + the products of a block at N vectors of positions from x on. kPart: lanes outside `part` of the
    // last vector lie outside a tensor that is used in place and are not read. A function of its own that ends in memory: together
    // with the activations gcc keeps no sum in a register.
    template <int N, bool kPart>
    static __attribute__((noinline)) void multiply(const float* x, const int32_t* tap, int32_t steps, const float* w, const float* bias,
                                                   decltype(V::mask(0)) part, float* sums) {
        Reg acc[kQ][N];
#pragma GCC unroll 8
        for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 4
            for (int v = 0; v < N; ++v) acc[q][v] = V::set1(bias[q]);
        for (int32_t s = 0; s < steps; ++s, w += kQ) {
            const float* at = x + tap[s];
            Reg in[N];
#pragma GCC unroll 4
            for (int v = 0; v < N; ++v) in[v] = kPart && v == N - 1 ? V::load_part(at + v * kLanes, part) : V::load(at + v * kLanes);
#pragma GCC unroll 8
            for (int q = 0; q < kQ; ++q) {
                const Reg weight = V::set1(w[q]);
#pragma GCC unroll 4
                for (int v = 0; v < N; ++v) V::accumulate(acc[q][v], in[v], weight);
            }
        }
#pragma GCC unroll 8
        for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 4
            for (int v = 0; v < N; ++v) V::store(sums + (q * N + v) * kLanes, acc[q][v]);
    }

    // The last vector has `live` lanes.
    template <int N, bool kPart>
    static void run_tile(const Tile& tile, int32_t b, int32_t vector, int32_t live) {
        const Layout& l = tile.layout;
        const Block& block = reinterpret_cast<const Block*>(tile.prepared)[b];
        const float* bias = reinterpret_cast<const float*>(tile.prepared + l.bias) + b * kQ;
        const float* w = reinterpret_cast<const float*>(tile.prepared + l.weights) + block.weights;
        const float* x = tile.x + static_cast<int64_t>(block.channel) * l.planes.size + static_cast<int64_t>(vector) * kLanes;
        alignas(64) float sums[kQ * N * kLanes];
        multiply<N, kPart>(x, reinterpret_cast<const int32_t*>(tile.prepared + l.tap), block.steps, w, bias, V::mask(live), sums);
        const OutputSpan* spans = reinterpret_cast<const OutputSpan*>(tile.prepared + l.span) + vector;
        const int64_t pixels = static_cast<int64_t>(tile.conv.h_out) * tile.conv.w_out;
        for (int q = 0; q < kQ && b * kQ + q < tile.conv.c_out; ++q)
            for (int v = 0; v < N; ++v) {
                const Reg sum = V::load(sums + (q * N + v) * kLanes);
                V::store_span(tile.y + (b * kQ + q) * pixels, tile.limit, spans[v], activate_lanes<V>(tile.conv.act, sum));
            }
    }

    // Full tiles, but 2 + 2 vectors rather than 3 + 1; where masked loads cost something, a partial last vector goes alone.
    static int32_t tile_vectors(const Tile& tile, int32_t vector) {
        const Layout& l = tile.layout;
        const bool last = tile.part.vectors_end == l.vectors && l.planes.positions % kLanes != 0;
        const bool alone = last && !V::kFreeMask && !l.planes.copied;
        const int32_t left = tile.part.vectors_end - vector - (alone ? 1 : 0);
        if (left <= 0) return 1;
        return left == kMaxV + 1 && kMaxV > 2 ? kMaxV - 1 : left < kMaxV ? left : kMaxV;
    }

    static void run_tile(const Tile& tile, int32_t b, int32_t vector, int32_t count) {
        const int32_t live = tile.layout.planes.positions - (vector + count - 1) * kLanes;
        const bool part = live < kLanes && !tile.layout.planes.copied;
        if (part && count == 1) run_tile<1, true>(tile, b, vector, live);
        else if (part && count == 2) run_tile<2, V::kFreeMask>(tile, b, vector, live);
        else if (part) run_tile<kMaxV, V::kFreeMask>(tile, b, vector, live);
        else if (count == 1) run_tile<1, false>(tile, b, vector, live);
        else if (count == 2) run_tile<2, false>(tile, b, vector, live);
        else run_tile<kMaxV, false>(tile, b, vector, live);
    }

    static void pack(const Conv2dF32& c, const void*, const float* x, void* scratch, Share share) {
        const Planes p = planes_of(c);
        if (!p.copied) return;
        for (int32_t i = 0; i < c.c_in; ++i)
            fill_plane(p, reinterpret_cast<const uint32_t*>(x) + static_cast<int64_t>(i) * c.h * c.w, 0,
                       static_cast<uint32_t*>(scratch) + static_cast<int64_t>(i) * p.size, share);
    }

    static void compute(const Conv2dF32& c, const void* prepared, const float* x, float* y, const void* scratch, Share share) {
        const Layout l = layout_of(c);
        const char* base = static_cast<const char*>(prepared);
        constexpr size_t kCacheBytes = 512 * 1024;      // half of a common L2: larger weights are read once, block by block
        const bool large = l.total - l.weights > kCacheBytes;
        const GridPart part = part_of(share, l.vectors, l.blocks, kMaxV, large);
        const OutputSpan* spans = reinterpret_cast<const OutputSpan*>(base + l.span);
        const int64_t limit = part.vectors_end < l.vectors ? spans[part.vectors_end].out : static_cast<int64_t>(c.h_out) * c.w_out;
        const Tile tile{c, l, base, l.planes.copied ? static_cast<const float*>(scratch) : x, y, part, limit};
        if (large) {
            for (int32_t b = part.block; b < part.blocks_end; ++b)
                for (int32_t v = part.vector, n; v < part.vectors_end; v += n) run_tile(tile, b, v, n = tile_vectors(tile, v));
        } else {
            for (int32_t v = part.vector, n; v < part.vectors_end; v += n) {
                n = tile_vectors(tile, v);
                for (int32_t b = part.block; b < part.blocks_end; ++b) run_tile(tile, b, v, n);
            }
        }
    }
};

}  // namespace
}  // namespace edgenas
