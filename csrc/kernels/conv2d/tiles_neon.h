// The walk of the int8-style NEON kernels over tiles. Internal linkage: only files compiled for NEON may include it.
#pragma once
#include "dense.h"
#include "finish_neon.h"

namespace edgenas {
namespace {

// Vectors of 4 positions of the tile at `vector`: full tiles, but 2 + 2 rather than 3 + 1. A partial last vector of a tensor used
// in place goes alone, so that only this one is loaded lane by lane.
inline int32_t tile_vectors(const Dense& d, int32_t vector, int32_t end, int32_t most) {
    const bool alone = end == d.vectors && !d.planes.copied && d.planes.positions % 4 != 0;
    const int32_t left = end - vector - (alone ? 1 : 0);
    if (left <= 0) return 1;
    return left == most + 1 && most > 2 ? most - 1 : left < most ? left : most;
}

// run(block, first vector, vectors) for every tile of this share; large weights are read once, block by block.
template <class Run>
inline void for_tiles(const Dense& d, Share share, int32_t most, Run run) {
    const GridPart part = part_of(share, d.vectors, d.blocks, most, large_weights(d));
    if (large_weights(d)) {
        for (int32_t b = part.block; b < part.blocks_end; ++b)
            for (int32_t v = part.vector, n; v < part.vectors_end; v += n) run(b, v, n = tile_vectors(d, v, part.vectors_end, most));
    } else {
        for (int32_t v = part.vector, n; v < part.vectors_end; v += n) {
            n = tile_vectors(d, v, part.vectors_end, most);
            for (int32_t b = part.block; b < part.blocks_end; ++b) run(b, v, n);
        }
    }
}

}  // namespace
}  // namespace edgenas
