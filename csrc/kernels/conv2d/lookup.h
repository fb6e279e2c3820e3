// Layers of at most 2-bit weights and codes, prepared for the table lookup kernels (lookup_avx512.cpp, lookup_avx2.cpp).
//
// Codes of several input channels at one pixel share a byte: the index. The weights that meet them select one row of a small
// table whose entry `index` is their dot product, raised by a constant so that it is never negative. One byte shuffle per (row,
// vector of pixels) then does several multiply-adds in every byte lane: 3 (2-bit codes) or 6 (1-bit) with 64-entry rows, 2 or 4
// with 16-entry rows.
// Sums are bytes; how far they can grow is known from the weights, so they are widened to uint16 only at flush points.
//
// Built for the portable CPU (lookup.cpp), read by the ISA files. One buffer, offsets in bytes from its start:
//   Lookup header | taps | rows | first flush of each block | flushes | steps | segments | offsets | thresholds | flips | levels |
//   reaches | compares | outside | spans | table | trees
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernel.h"
#include "lookup_runs.h"
#include "planes.h"

namespace edgenas {

struct LookupShape {
    int32_t index_bits;             // bits of a byte that hold codes: 6 (64-entry rows) or 4 (16-entry rows)
    int32_t channels;               // output channels of a block
    int32_t lanes;                  // positions of a vector
    int32_t row_bytes;              // distance of two table rows
    bool runs;                      // steps as lookup_runs.h orders them, instead of taps, rows and flushes
};

// Bits of a code in the index: 1 where weights and codes both have 1, else 2 (1-bit weights are then -1 and 1 among -2 .. 1).
constexpr int32_t lookup_code_bits(const Conv2d& c) { return c.wbits == 1 && c.abits == 1 ? 1 : 2; }

// Byte planes. C4 planes are taken `group` = index_bits / code_bits at a time, and byte i of the result holds code i of each of
// them, the first in the lowest bits. So packing is a shift and an or, and then the four bytes go to four byte planes. The group
// that is left over has bits to spare (`used` of index_bits per byte), and is folded into as few byte planes as it needs:
//   1 plane    4 used <= index_bits         the codes of byte i lie above those of the bytes before
//   2 planes   2 used <= index_bits         those of byte 2 above those of byte 0, those of byte 3 above those of byte 1
//   3 planes   used <= 3 spare              those of byte 3 are spread over what the others have to spare
// Bits that hold no channel are 0, as is their share of the padding; their weights are 0, or +1 where there is no 0.
constexpr int32_t lookup_fold(int32_t index_bits, int32_t used) {
    return 4 * used <= index_bits ? 1 : 2 * used <= index_bits ? 2 : used <= 3 * (index_bits - used) ? 3 : 4;
}

struct LookupSlot {
    int32_t plane, bit;             // byte plane, lowest bit of the code in its byte
};

constexpr LookupSlot lookup_slot(int32_t index_bits, int32_t code_bits, int32_t c_in, int32_t channel) {
    const int32_t c4 = (c_in + 3) / 4, group = index_bits / code_bits, first = channel / 4 / group * group;
    const int32_t used = code_bits * (c4 - first < group ? c4 - first : group), spare = index_bits - used;
    const int32_t i = channel % 4, bit = (channel / 4 - first) * code_bits, plane = first / group * 4;
    switch (lookup_fold(index_bits, used)) {
        case 1: return {plane, i * used + bit};
        case 2: return {plane + i % 2, i / 2 * used + bit};
        case 3: return i < 3 ? LookupSlot{plane + i, bit} : LookupSlot{plane + bit / spare, used + bit % spare};
        default: return {plane + i, bit};
    }
}

constexpr int32_t lookup_byte_planes(int32_t index_bits, int32_t code_bits, int32_t c_in) {
    const int32_t c4 = (c_in + 3) / 4, group = index_bits / code_bits, left = c4 % group;
    return c4 / group * 4 + (left == 0 ? 0 : lookup_fold(index_bits, left * code_bits));
}

// The bits of a 32-bit lane (one pixel) that hold codes of a group's C4 planes, before folding; `channels` of them exist.
constexpr uint32_t lookup_live_bits(int32_t code_bits, int32_t channels) {
    uint32_t live = 0;
    for (int32_t c = 0; c < channels; ++c) live |= ((1u << code_bits) - 1) << (c % 4 * 8 + c / 4 * code_bits);
    return live;
}

// The table: entry [weights][index], each a packed group; weights as they are stored with so many bits (kernel.h).
constexpr int32_t lookup_weight(int32_t code_bits, int32_t stored) { return code_bits == 1 ? 2 * stored - 1 : stored - 2; }

constexpr int32_t lookup_entry(int32_t index_bits, int32_t code_bits, int32_t weights, int32_t index) {
    const int32_t top = (1 << code_bits) - 1;
    int32_t sum = 0;
    for (int32_t bit = 0; bit < index_bits; bit += code_bits) {
        const int32_t w = lookup_weight(code_bits, weights >> bit & top), q = index >> bit & top;
        sum += w * q - (w < 0 ? top * w : 0);
    }
    return sum;
}

constexpr int32_t kLookupThresholds = 3;    // of the fast epilogue; absent ones are 65535, which no sum reaches

// The same thresholds as bytes, of one channel: code = start + step * count(min(max(sum - base, 0), 255) > above), modulo 256.
struct LookupCompare {
    uint16_t base;
    uint8_t start, step, above[kLookupThresholds];
};

struct Lookup {
    Planes planes;                  // of bytes
    int32_t index_bits, code_bits;
    int32_t steps, blocks, vectors, byte_planes;
    bool fast;                      // kThreshold with at most 4 levels, compared as uint16
    bool bytes;                     // fast, and the thresholds of every channel are close enough for LookupCompare
    int64_t tap;                    // int32 [steps], offset of the input
    int64_t row;                    // uint16 [blocks][steps][channels], offset of the table row
    int64_t first, flush;           // int32 [blocks + 1]: index of the block's first flush point; int32: steps, the last is `steps`
    int64_t step, segment;          // runs: RunStep [blocks][steps]; RunSegment, `first` is the index of a block's first one
    int64_t offset;                 // int32 [blocks * channels]: acc = sum + offset
    int64_t threshold;              // uint16 [blocks * channels][kLookupThresholds]: code = count(sum >= threshold) ^ flip
    int64_t flip;                   // uint8 [blocks * channels]
    int64_t level;                  // runs: ByteLevels [blocks * channels]
    int64_t reach;                  // runs: SumReach [blocks]
    int64_t compare;                // LookupCompare [blocks * channels]
    int64_t outside;                // uint8 [byte_planes], the byte outside the image
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

// The byte form of planes_of: tensors are never read in place, and planes keep a distance of whole vectors.
Planes byte_planes_of(const Conv2d&);

}  // namespace edgenas
