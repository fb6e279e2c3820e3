// The lookup kernels (lookup.h) with the roles exchanged, for images with few pixels: lanes are output channels, weights are the
// index, and the codes of a pixel select the row. So no lane is lost to short rows, and one row serves many channels.
//
// A table entry is the dot product itself, modulo 256: how far a channel's sum can fall between two flush points is known from
// its weights, and its byte sum starts there instead of at zero. Flush points are common to all channels.
//
// Built for the portable CPU (lookup_swap.cpp), read by the ISA files. Offsets in bytes from the start of the header.
#pragma once
#include "lookup.h"
#include "moves.h"

namespace edgenas {

constexpr int32_t kSwapLanes = 64;          // output channels of a vector
constexpr int32_t kSwapPixels = 8;          // bytes of a (tile, step); a tile has 7 or 8 pixels

struct Swap {
    int32_t code_bits, steps, byte_planes, taps, vectors, tiles, runs, pixels;  // pixels of a tile
    int64_t weights;                // uint8 [group of vectors][steps][vectors of it][64], packed weights
    int64_t flush;                  // int32, the last is `steps`
    int64_t start;                  // uint8 [group][flushes][vectors of it][64], what byte sums start from
    int64_t threshold;              // uint16 [vectors][kLookupThresholds][even, odd][32]: code = count(sum >= threshold) ^ flip
    int64_t flip;                   // uint8 [vectors][64]
    int64_t outside;                // uint8 [byte_planes]
    int64_t moves;                  // MoveList: a packed byte plane to [tile][steps][8], of the plane's taps
    int64_t total;
};

template <class T>
static inline const T* swap_part(const Swap& s, int64_t offset) {
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(&s) + offset);
}

// Vectors of channels that are computed together: at most 3, as evenly as possible. Group g is [first(g), first(g + 1)).
constexpr int32_t swap_groups(int32_t vectors) { return (vectors + 2) / 3; }
constexpr int32_t swap_first(int32_t vectors, int32_t g) { return vectors * g / swap_groups(vectors); }

// The entry for packed weights as the index; the row is a packed group of codes.
constexpr int32_t swap_entry(int32_t index_bits, int32_t code_bits, int32_t codes, int32_t weights) {
    const int32_t top = (1 << code_bits) - 1;
    int32_t sum = 0;
    for (int32_t bit = 0; bit < index_bits; bit += code_bits)
        sum += lookup_weight(code_bits, weights >> bit & top) * (codes >> bit & top);
    return sum;
}

// Pixels of a tile: 7 or 8, whichever computes fewer pixels that do not exist.
constexpr int32_t swap_pixels(int32_t pixels) { return (pixels + 6) / 7 * 7 < (pixels + 7) / 8 * 8 ? 7 : 8; }

size_t swap_bytes(const Conv2d&, int32_t index_bits);
void swap_prepare(const Conv2d&, int32_t index_bits, void* prepared);

}  // namespace edgenas
