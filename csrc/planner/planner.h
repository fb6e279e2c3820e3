// The arena planner: which activations share memory, and where each of them lies. It stands alone: hwmodels plans with it before there
// is an artifact, for every candidate of a search. The rules are in hwmodels/layout.py (sharing) and memory.py (placement).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace edgenas::planner {

enum class Kind : int64_t { kOther, kInput, kConcat, kSlice, kFlatten, kInPlace, kHost };

// An operator and the tensor that it gives; both are known by their position. Bytes are of the arena.
struct Node {
    Kind kind = Kind::kOther;
    bool is_codes = false;  // a byte a channel in groups of four channels; else floats, one channel a group
    int64_t plane = 0;      // bytes of one channel of the tensor
    int64_t channels = 0;
    int64_t first = 0;  // of a slice: its first channel in its input
    std::vector<int32_t> inputs;
};

// Bytes low .. high of a block hold a tensor at the steps birth .. death, both included; step -1 is before any.
struct Part {
    int64_t low, high, birth, death;
};
using Block = std::vector<Part>;  // tensors that move together

// Bytes of an operator's inputs, of its output, and those that our runtime moves, weights left out: all of both, but what only rearranges
// channels reads and writes only the pieces that it copies.
using Traffic = std::array<int64_t, 3>;

struct Layout {
    std::vector<int32_t> home;      // of each tensor: the one after which its block is named; -1 where it lies outside the arena
    std::vector<int64_t> at;        // bytes after the start of `home`, which may lie before or after it
    std::vector<Part> lives;        // 0 .. bytes of each tensor, birth, death
    std::vector<std::vector<int32_t>> aliases;  // of each node: the inputs whose memory it shares
    std::vector<Traffic> traffic;               // of each node
};

// `outputs` of the graph stand to the end.
Layout share(std::span<const Node> nodes, std::span<const int32_t> outputs);

// Aligned starts at which no two live parts overlap, and the most bytes alive at any step, below which no placement can go.
struct Placement {
    std::vector<int64_t> starts;
    int64_t bound;
};

Placement place(std::span<const Block> blocks, int64_t alignment);

// The offset of every tensor (-1 outside the arena), the bytes that all of them take, and the bound.
struct Arena {
    std::vector<int64_t> offsets;
    int64_t peak, bound;
};

Arena arena(const Layout& layout, int64_t alignment);

}  // namespace edgenas::planner
