// Weights of the int8-style kernels, prepared: int8 in blocks of output channels, four input channels to a 32-bit word.
//
// Built for the portable CPU (dense.cpp), read by the ISA files. One buffer, all offsets in bytes from its start:
//   Dense header | multipliers | biases | blocks | taps | starts | spans | table | threshold trees | scales |
//   flushes | extras | weights
// weights of a block: [input plane][tap][output channel of the block][4 input channels], int8; absent channels are zero.
// Grouped layers run as dense ones on the range of input planes that a block reads, with zeros for other groups.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "../float_requant.h"
#include "kernel.h"
#include "planes.h"

namespace edgenas {

// What a kernel wants.
struct DenseShape {
    int32_t channels, lanes;        // output channels of a block (saturating: at most kMaxBlock), positions of a vector
    bool saturating;                // it multiplies with vpmaddubsw, whose pair sums are int16 (see DenseBlock)
    bool signed_codes = false;      // its instructions are signed x signed: 8-bit codes enter as code - 128
    bool single_sums = false;       // its sums are int16 with flush points, always, each of one input channel
};

constexpr int32_t kMaxBlock = 8;
constexpr int32_t kTableBlock = 128;        // the copy of the requantization table is padded to a multiple of this

struct DenseBlock {
    int32_t plane, steps;           // first input plane; planes * taps
    int64_t weights;                // byte offset of its weights from Dense::weights
    int32_t flush;                  // narrow: index of its first flush point
    int32_t extra[kMaxBlock + 1];   // wide: its channel q has the extras [extra[q], extra[q + 1])
};

// A pair of weights that does not fit one vpmaddubsw is halved: one half stays in the dense weights, the other is an extra.
struct DenseExtra {
    int32_t offset;                 // bytes from the block's first plane, as in the tap list
    int32_t weights;                // four int8
};

struct Dense {
    Planes planes;
    int32_t vectors, blocks;
    bool narrow;                    // int16 sums with flush points, instead of int32 sums (with extras, where saturating)
    bool flip;                      // codes enter as code - 128, that is with their top bit flipped
    int32_t shift;                  // of the multipliers and biases below
    int64_t multiplier, bias;       // kLinear and kTable: int32, int64 [c_out], shifted left for a shift of 32 where they allow it
    bool scaled;                    // every channel has a FloatScale, which replaces its start
    int64_t block, tap, start, span, table, tree, scale, flush, extra, weights, total;
};

template <class T>
static inline const T* dense_part(const Dense& d, int64_t offset) {
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(&d) + offset);
}

// The layer with the prepared multipliers: a shift of 32 or more costs a vector kernel half the work of a smaller one.
static inline Conv2d with_multipliers(const Conv2d& c, const Dense& d) {
    Conv2d scaled = c;
    scaled.requant.shift = d.shift;
    scaled.requant.multiplier = dense_part<int32_t>(d, d.multiplier);
    scaled.requant.bias = dense_part<int64_t>(d, d.bias);
    return scaled;
}

size_t dense_bytes(const Conv2d&, const DenseShape&);
void dense_prepare(const Conv2d&, const DenseShape&, void* prepared);

// Thresholds of more than four levels as search trees, [channels][kTreeSize], for kernels that look thresholds up: node 1 is the
// root, the children of node n are 2n (below its threshold) and 2n + 1. Empty for other epilogues; absent channels are zero.
constexpr int32_t kTreeSize = 16;
std::vector<int32_t> threshold_trees(const Conv2d&, int32_t channels);

// Scratch of the padded input, a share of the copy itself, and where the kernel reads: x itself where no copy is needed.
size_t input_bytes(const Conv2d&);
void copy_input(const Conv2d&, const Planes&, const uint8_t* x, void* scratch, Share);

static inline const uint8_t* input_of(const Planes& p, const uint8_t* x, const void* scratch) {
    return p.copied ? static_cast<const uint8_t*>(scratch) : x;
}

// Half of a common L2: weights larger than this are read once, block by block.
constexpr int64_t kCacheBytes = 512 * 1024;
static inline bool large_weights(const Dense& d) { return d.total - d.weights > kCacheBytes; }

}  // namespace edgenas
