// Bytes of one plane, rearranged: pads it, splits it into phases or lays out the taps of each pixel. Every byte plane of a layer
// is rearranged alike, so the way is worked out once, as moves that a byte permutation of two vectors does (moves_avx512.h).
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "planes.h"

namespace edgenas {

constexpr int32_t kMoveBytes = 64;          // written by one move at most
constexpr int32_t kMoveWindow = 128;        // bytes that one move chooses from
constexpr uint8_t kMoveOutside = 0x80;

// Destination bytes to .. to + count - 1: byte from + index[i] of the source, or the byte outside the image.
struct Move {
    int32_t from, to;
    uint64_t written;                       // bit i: byte to + i; the low `count` bits
    uint8_t index[kMoveBytes];              // 0 .. 127 or kMoveOutside
};

// Moves in prepared memory: this header, then so many of them.
struct MoveList {
    int64_t count;
    const Move* first() const { return reinterpret_cast<const Move*>(this + 1); }
};

size_t move_list_bytes(const std::vector<Move>&);
void store_moves(const std::vector<Move>&, void* to);

// Appends the moves that bring source bytes[i] (-1: outside) to destination byte to + i.
void append_moves(const std::vector<int32_t>& bytes, int32_t to, std::vector<Move>& moves);

// From the image to the padded form of planes.h.
std::vector<Move> padding_moves(const Planes&);

}  // namespace edgenas
