// The part of one phase of a kernel that one worker does. Internal linkage: ISA files compile their own copies.
#pragma once
#include <cstdint>

namespace edgenas {

// Worker `index` of `count`; alone {0, 1}.
struct Share {
    int32_t index, count;
};

// Of n equal pieces of work a worker does [begin_of, end_of), possibly none.
static inline int32_t begin_of(Share s, int32_t n) { return static_cast<int32_t>(static_cast<int64_t>(n) * s.index / s.count); }
static inline int32_t end_of(Share s, int32_t n) { return begin_of({s.index + 1, s.count}, n); }

// A worker's rectangle of the grid vectors of positions x blocks of output channels.
struct GridPart {
    int32_t vector, vectors_end, block, blocks_end;
};

// Over whole tiles of `tile` vectors where every share gets one, so that each reads mostly its own piece of the input;
// else along the axis that divides more evenly, blocks first: large weights are better read by one worker each.
static inline GridPart part_of(Share s, int32_t vectors, int32_t blocks, int32_t tile, bool large_weights) {
    const int32_t tiles = (vectors + tile - 1) / tile;
    const bool many = !large_weights && tiles >= s.count;
    const int64_t most_tiles = (tiles + s.count - 1) / s.count, most_blocks = (blocks + s.count - 1) / s.count;
    const bool blocks_uneven = most_blocks * tiles > most_tiles * blocks;
    if (!many && !blocks_uneven) return {0, vectors, begin_of(s, blocks), end_of(s, blocks)};
    const int32_t end = end_of(s, tiles) * tile;
    return {begin_of(s, tiles) * tile, end < vectors ? end : vectors, 0, blocks};
}

// Both phases of a kernel (conv2d/kernel.h) by one worker.
template <class Row, class Conv, class In, class Out>
static inline void run_alone(const Row& row, const Conv& conv, const void* prepared, const In* x, Out* y, void* scratch) {
    row.pack(conv, prepared, x, scratch, {0, 1});
    row.compute(conv, prepared, x, y, scratch, {0, 1});
}

}  // namespace edgenas
