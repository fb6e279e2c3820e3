// Integer convolution for AVX2 without VNNI, every weight and activation width, exact.
//
// Lanes are 8 output positions (planes.h), each holding one C4 element. vpmaddubsw multiplies unsigned codes with signed
// weights and adds neighbours into int16, saturating: with 8-bit codes a pair of weights of one sign may exceed it as soon as
// |w0| + |w1| > 128. Two ways around, chosen per layer when the weights are prepared (dense.cpp), both exact for any codes:
//   wide    every product pair is widened at once (vpmaddwd with ones) into int32 sums. The rare pairs that could saturate
//           are halved; one half stays in place, the other joins a short list of extras of its output channel
//   narrow  the int16 pairs themselves are summed (vpaddw, a third less work) and widened at flush points, which the weights
//           determine: before any sum could leave int16 if all codes were as large as their width allows. Needs narrow codes
//           or narrow weights, so that runs are long
#include "finish_avx2.h"
#include "variants.h"

namespace edgenas {
namespace {

constexpr int32_t kQ = 4;                   // output channels of a block
constexpr int32_t kMaxV = 2;                // vectors of a tile
constexpr int32_t kLanes = 8;
constexpr DenseShape kShape{kQ, kLanes, true};

bool supports(const Conv2d&) { return true; }
size_t prepared_bytes(const Conv2d& c) { return dense_bytes(c, kShape); }
void prepare(const Conv2d& c, void* prepared) { dense_prepare(c, kShape, prepared); }
size_t scratch_bytes(const Conv2d& c) { return input_bytes(c); }

struct Tile {
    const uint8_t* x;                       // input at the first position
    const int32_t* tap;
    int32_t steps;
    const int32_t* weights;
    const int32_t* start;                   // [kQ]
    const int32_t* flush;
    __m256i part;                           // lanes of the last vector that may be read
};

template <bool kPart>
inline __m256i load(const uint8_t* at, __m256i part) {
    if (kPart) return _mm256_maskload_epi32(reinterpret_cast<const int*>(at), part);
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}

inline void store_sum(int32_t* sums, int index, __m256i v) { _mm256_store_si256(reinterpret_cast<__m256i*>(sums) + index, v); }

inline __m256i load_sum(const int32_t* sums, int index) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(sums) + index); }

// The int32 sums of a tile, in registers as long as everything around them is inlined.
template <int V>
struct TileSums {
    __m256i at[kQ][V];
};

// The multiply-adds are assembly because gcc's scheduler otherwise computes all products of a step first and then spills a sum
// to memory in the innermost loop, which halves the speed.
inline void add_wide(__m256i& sum, __m256i in, __m256i weight, __m256i ones) {
    __m256i product;
    __asm__ volatile("vpmaddubsw %3, %2, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0"
                     : "+x"(sum), "=&x"(product)
                     : "x"(in), "x"(weight), "x"(ones));
}

inline void add_narrow(__m256i& sum, __m256i in, __m256i weight) {
    __m256i product;
    __asm__ volatile("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(in), "x"(weight));
}

template <int V, bool kPart>
inline __attribute__((always_inline)) TileSums<V> wide_tile(const Tile& t) {
    const __m256i ones = _mm256_set1_epi16(1);
    TileSums<V> sums;
    auto& acc = sums.at;
#pragma GCC unroll 4
    for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) acc[q][v] = _mm256_set1_epi32(t.start[q]);
    const int32_t* w = t.weights;
    for (int32_t s = 0; s < t.steps; ++s, w += kQ) {
        const uint8_t* at = t.x + t.tap[s];
        __m256i in[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) in[v] = load<kPart>(at + 32 * v, t.part);
#pragma GCC unroll 4
        for (int q = 0; q < kQ; ++q) {
            const __m256i weight = _mm256_set1_epi32(w[q]);
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) add_wide(acc[q][v], in[v], weight, ones);
        }
    }
    return sums;
}

template <int V, bool kPart>
inline __attribute__((always_inline)) TileSums<V> narrow_tile(const Tile& t) {
    const __m256i ones = _mm256_set1_epi16(1);
    TileSums<V> sums;
#pragma GCC unroll 4
    for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sums.at[q][v] = _mm256_set1_epi32(t.start[q]);
    const int32_t *w = t.weights, *flush = t.flush;
    for (int32_t s = 0; s < t.steps;) {
        __m256i acc[kQ][V];
#pragma GCC unroll 4
        for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) acc[q][v] = _mm256_setzero_si256();
        for (const int32_t end = *flush++; s < end; ++s, w += kQ) {
            const uint8_t* at = t.x + t.tap[s];
            __m256i in[V];
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) in[v] = load<kPart>(at + 32 * v, t.part);
#pragma GCC unroll 4
            for (int q = 0; q < kQ; ++q) {
                const __m256i weight = _mm256_set1_epi32(w[q]);
#pragma GCC unroll 2
                for (int v = 0; v < V; ++v) add_narrow(acc[q][v], in[v], weight);
            }
        }
#pragma GCC unroll 4
        for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) sums.at[q][v] = _mm256_add_epi32(sums.at[q][v], _mm256_madd_epi16(acc[q][v], ones));
    }
    return sums;
}

template <int V, bool kPart>
void add_extras(const Tile& t, const DenseExtra* extra, const int32_t* range, int32_t* sums) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int q = 0; q < kQ; ++q) {
        __m256i acc[V];
        for (int v = 0; v < V; ++v) acc[v] = load_sum(sums, q * V + v);
        for (int32_t e = range[q]; e < range[q + 1]; ++e) {
            const __m256i weight = _mm256_set1_epi32(extra[e].weights);
            for (int v = 0; v < V; ++v) {
                add_wide(acc[v], load<kPart>(t.x + extra[e].offset + 32 * v, t.part), weight, ones);
            }
        }
        for (int v = 0; v < V; ++v) store_sum(sums, q * V + v, acc[v]);
    }
}

struct Job {
    const Conv2d& conv;
    const Dense& dense;
    const uint8_t* x;
    void* y;
    GridPart part;
    int64_t limit;                          // store_limit
};

// The commonest epilogue, straight from registers: absent channels have the scale 0 and the code 0, or `lo`, which `keep` clears.
template <int V>
inline __attribute__((always_inline)) void finish_linear(const Job& job, int32_t b, const TileSums<V>& sums, const OutputSpan* spans) {
    const Conv2d& c = job.conv;
    const FloatScale* scale = dense_part<FloatScale>(job.dense, job.dense.scale) + b * kQ;
    const int32_t live = c.c_out - b * kQ;
    const __m256i keep = _mm256_set1_epi32(live >= kQ ? -1 : (1 << (8 * live)) - 1);
    const __m256i lo = _mm256_set1_epi8(static_cast<char>(c.requant.lo)), hi = _mm256_set1_epi8(static_cast<char>(c.requant.hi));
    uint8_t* plane = static_cast<uint8_t*>(job.y) + static_cast<int64_t>(b) * c.h_out * c.w_out * 4;
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
        const __m256i first = _mm256_packs_epi32(float_scaled(scale[0], sums.at[0][v]), float_scaled(scale[1], sums.at[1][v]));
        const __m256i second = _mm256_packs_epi32(float_scaled(scale[2], sums.at[2][v]), float_scaled(scale[3], sums.at[3][v]));
        const __m256i codes = to_c4(_mm256_max_epu8(_mm256_min_epu8(_mm256_packus_epi16(first, second), hi), lo));
        store_compact(plane, job.limit, spans[v], _mm256_and_si256(codes, keep));
    }
}

template <int V, bool kPart>
void run_tile(const Job& job, int32_t b, int32_t vector, int32_t live) {
    const Dense& d = job.dense;
    const DenseBlock& block = dense_part<DenseBlock>(d, d.block)[b];
    const int64_t first = static_cast<int64_t>(block.plane) * d.planes.size + static_cast<int64_t>(vector) * kLanes;
    const Tile t{job.x + 4 * first,
                 dense_part<int32_t>(d, d.tap),
                 block.steps,
                 dense_part<int32_t>(d, d.weights + block.weights),
                 dense_part<int32_t>(d, d.start) + b * kQ,
                 dense_part<int32_t>(d, d.flush) + block.flush,
                 first_lanes(live)};
    const TileSums<V> found = d.narrow ? narrow_tile<V, kPart>(t) : wide_tile<V, kPart>(t);
    const OutputSpan* spans = dense_part<OutputSpan>(d, d.span) + vector;
    const bool extras = block.extra[kQ] > block.extra[0];
    if (d.scaled && !extras && job.conv.requant.kind == Epilogue::kLinear) return finish_linear(job, b, found, spans);
    alignas(64) int32_t sums[kQ * kMaxV * kLanes];
    for (int q = 0; q < kQ; ++q)
        for (int v = 0; v < V; ++v) store_sum(sums, q * V + v, found.at[q][v]);
    if (extras) add_extras<V, kPart>(t, dense_part<DenseExtra>(d, d.extra), block.extra, sums);
    const FloatScale* scales = d.scaled ? dense_part<FloatScale>(d, d.scale) : nullptr;
    finish(job.conv, b * kQ, Sums{sums, V, spans, job.limit, dense_part<int32_t>(d, d.tree), scales}, job.y);
}

// The vectors from `vector` on that one tile takes; a partial last vector of a tensor used in place goes alone.
int32_t tile_vectors(const Job& job, int32_t vector) {
    const Planes& p = job.dense.planes;
    const bool alone = !p.copied && p.positions % kLanes != 0 && job.part.vectors_end == job.dense.vectors;
    return job.part.vectors_end - vector - (alone ? 1 : 0) >= kMaxV ? kMaxV : 1;
}

void run_tile(const Job& job, int32_t b, int32_t vector, int32_t count) {
    const int32_t live = job.dense.planes.positions - (vector + count - 1) * kLanes;
    if (count == kMaxV) run_tile<kMaxV, false>(job, b, vector, live);
    else if (live >= kLanes || job.dense.planes.copied) run_tile<1, false>(job, b, vector, live);
    else run_tile<1, true>(job, b, vector, live);
}

void pack(const Conv2d& c, const void* prepared, const uint8_t* x, void* scratch, Share share) {
    copy_input(c, static_cast<const Dense*>(prepared)->planes, x, scratch, share);
}

void compute(const Conv2d& c, const void* prepared, const uint8_t* x, void* y, const void* scratch, Share share) {
    const Dense& d = *static_cast<const Dense*>(prepared);
    const GridPart part = part_of(share, d.vectors, d.blocks, kMaxV, large_weights(d));
    const int64_t pixels = static_cast<int64_t>(c.h_out) * c.w_out;
    const int64_t limit = store_limit(dense_part<OutputSpan>(d, d.span), part.vectors_end, d.vectors, 1, pixels);
    const Job job{c, d, input_of(d.planes, x, scratch), y, part, limit};
    if (large_weights(d)) {
        for (int32_t b = part.block; b < part.blocks_end; ++b)
            for (int32_t v = part.vector, n; v < part.vectors_end; v += n) run_tile(job, b, v, n = tile_vectors(job, v));
    } else {
        for (int32_t v = part.vector, n; v < part.vectors_end; v += n) {
            n = tile_vectors(job, v);
            for (int32_t b = part.block; b < part.blocks_end; ++b) run_tile(job, b, v, n);
        }
    }
}

}  // namespace

const Variant kConv2dAvx2{"avx2", 1, supports, prepared_bytes, prepare, scratch_bytes, pack, compute};

}  // namespace edgenas
