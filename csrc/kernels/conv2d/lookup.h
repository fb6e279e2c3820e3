// Layers of at most 2-bit weights and codes, prepared for the table lookup kernels (w2a2_avx512.cpp, w2a2_avx2.cpp).
//
// `group` codes of 2 bits, of consecutive input channels at one pixel, share a byte: the index. The weights that meet them select
// one of 4^group rows of a small table whose entry `index` is their dot product, raised by a constant so that it is never
// negative. One byte shuffle per (row, vector of pixels) then does `group` multiply-adds in every byte lane.
// Sums are bytes; how far they can grow is known from the weights, so they are widened to uint16 only at flush points.
//
// Built for the portable CPU (lookup.cpp), read by the ISA files. One buffer, offsets in bytes from its start:
//   Lookup header | taps | rows | first flush of each block | flushes | offsets | thresholds | flips | spans | table | trees
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernel.h"
#include "planes.h"

namespace edgenas {

struct LookupShape {
    int32_t group;                  // codes per byte: 3 (64-entry rows) or 2 (16-entry rows)
    int32_t channels;               // output channels of a block
    int32_t lanes;                  // positions of a vector
    int32_t row_bytes;              // distance of two table rows
};

constexpr int32_t kLookupThresholds = 3;    // of the fast epilogue; absent ones are 65535, which no sum reaches

struct Lookup {
    Planes planes;                  // of bytes
    int32_t steps, blocks, vectors, byte_planes;
    bool fast;                      // kThreshold with at most 4 levels, compared as uint16
    int64_t tap;                    // int32 [steps], offset of the input
    int64_t row;                    // uint16 [blocks][steps][channels], offset of the table row
    int64_t first, flush;           // int32 [blocks]: index of the block's first flush point; int32: steps, the last is `steps`
    int64_t offset;                 // int32 [blocks * channels]: acc = sum + offset
    int64_t threshold;              // uint16 [blocks * channels][kLookupThresholds]: code = count(sum >= threshold) ^ flip
    int64_t flip;                   // uint8 [blocks * channels]
    int64_t span;                   // OutputSpan [4 * vectors], of lanes / 4 positions each
    int64_t table;                  // copy of the requantization table, padded as in dense.h
    int64_t tree;                   // threshold_trees of dense.h
    int64_t total;
};

template <class T>
static inline const T* lookup_part(const Lookup& l, int64_t offset) {
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(&l) + offset);
}

// True if codes and weights have at most 2 bits, the layer is not grouped, all sums fit uint16, and it has at least so many
// output positions.
bool lookup_fits(const Conv2d&, int32_t least_positions);

size_t lookup_bytes(const Conv2d&, const LookupShape&);
void lookup_prepare(const Conv2d&, const LookupShape&, void* prepared);

// The table: entry [weights][index], each a packed group, lowest channel in the lowest bits; weights as w + 2.
constexpr int32_t lookup_entry(int32_t group, int32_t weights, int32_t index) {
    int32_t sum = 0;
    for (int32_t i = 0; i < group; ++i) {
        const int32_t w = (weights >> (2 * i) & 3) - 2, q = index >> (2 * i) & 3;
        sum += w * q - (w < 0 ? 3 * w : 0);
    }
    return sum;
}

// Scratch: byte planes as packed (pixel after pixel, kernels write them), then in padded form where the layer needs it.
struct LookupScratch {
    int64_t packed_stride, packed_bytes, total;
};

LookupScratch lookup_scratch(const Conv2d&, const Planes& planes, int32_t group);

// Brings the packed planes [first, last), where there are so many, into padded form; and where the kernel reads.
void place_planes(const Conv2d&, const Lookup&, int32_t group, int32_t first, int32_t last, uint8_t* scratch);
const uint8_t* placed_planes(const Conv2d&, const Lookup&, int32_t group, const void* scratch);

// The byte form of planes_of: tensors are never read in place, planes keep a distance of whole vectors, and of what
// fill_byte_plane writes past their end.
Planes byte_planes_of(const Conv2d&);

}  // namespace edgenas
