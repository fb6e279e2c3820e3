// Layers with codebooks, prepared for table lookup (avx2.cpp).
//
// The index of a lookup is a byte of `group` activation codes (2 where they have at most 2 bits, else 1) of consecutive channels at one
// pixel. The weight codes that meet them select a row of 16 entries, the sum of their products less the smallest entry of the row: never
// negative, and the row's smallest entries are added up in the offset of the output channel. Where an entry can pass 255 it is stored
// in two parts, entry = low + high * 2^shift, of which each is looked up and added up by itself.
//
// How far sums can grow is known from the rows, whatever the codes are: byte sums are widened to uint16 at flush points, and these to
// uint32 at deep ones. All of it wraps at 2^32 at most, where the int32 result is still right.
//
// Built for the portable CPU (tables.cpp), one buffer, offsets in bytes from its start:
//   CodebookTables header | rows of entries | taps | row numbers | first flush of each block | flushes | offsets | spans | trees
#pragma once
#include "../conv2d/planes.h"
#include "kernel.h"

namespace edgenas {

constexpr int32_t kCodebookBlock = 4;       // output channels of a block
constexpr int32_t kCodebookLanes = 32;      // positions of a vector
constexpr int32_t kCodebookRow = 32;        // bytes of one part of a row: 16 entries twice, for lookups within 128-bit halves

struct CodebookTables {
    Planes planes;                  // of index bytes
    int32_t group, parts, shift;    // codes of an index, parts of an entry (1 or 2), bits of the low part
    int32_t index_planes, steps, blocks, vectors;
    int64_t entry;                  // uint8 [rows][parts][kCodebookRow]
    int64_t tap;                    // int32 [steps], offset of the input
    int64_t row;                    // uint16 [blocks][steps][kCodebookBlock], byte offset of the row
    int64_t first, flush;           // int32 [blocks]: index of the block's first flush; int32: steps, ~steps where it is deep
    int64_t offset;                 // uint32 [blocks * kCodebookBlock]
    int64_t span;                   // OutputSpan [4 * vectors], of 8 positions each
    int64_t tree;                   // threshold_trees of conv2d/dense.h
    int64_t total;
};

template <class T>
static inline const T* codebook_part(const CodebookTables& t, int64_t offset) {
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(&t) + offset);
}

// Whether entries fit a byte. Else the lookup is slower than an int8 convolution of the levels (int8.cpp).
bool codebook_fits_bytes(const CodebookConv2d&);

size_t codebook_bytes(const CodebookConv2d&);
void codebook_prepare(const CodebookConv2d&, void* prepared);

// Scratch: index planes pixel after pixel, then in padded form where the layer needs it.
struct CodebookScratch {
    int64_t stride, packed_bytes, total;
};

CodebookScratch codebook_scratch(const CodebookConv2d&);

}  // namespace edgenas
