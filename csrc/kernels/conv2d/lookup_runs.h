// The steps of a lookup layer in the order in which the AVX2 kernel takes them.
//
// A table entry fits half a byte, so one row of 16 bytes holds the entries of two output channels, the second one's in the high
// halves: one shuffle looks both up. What consecutive steps find may be added as bytes as long as neither half passes 15: that is a
// run. After each run the halves are separated and added to byte sums, which are widened before they could pass 255. How large
// entries get is known from the weights; steps may come in any order, so steps with small entries are combined with those that
// leave them room, and the runs of a block are sorted by length. A segment is runs of one length, with one loop for each length.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

namespace edgenas {

constexpr int32_t kRunChannels = 4;         // of a block: two pairs
constexpr int32_t kLongestRun = 4;

struct RunStep {
    int32_t tap;                            // offset of the input
    uint16_t row[kRunChannels / 2];         // offsets of the table rows of both pairs
};

struct RunSegment {
    int16_t length;                         // steps of a run
    bool widen;                             // after it; always true for the last one
    int32_t runs;
};

// The largest entry of each channel at one step.
using StepRange = std::array<uint8_t, kRunChannels>;

struct RunOrder {
    std::vector<int32_t> steps;             // permutation
    std::vector<RunSegment> segments;
    bool bytes;                             // the sums of all steps are bytes
};

RunOrder order_runs(const std::vector<StepRange>& ranges);

// Thresholds of one channel as byte comparisons: code = (base + count(x > above)) ^ flip, where x is sum - middle, saturated to
// int8. Every number is repeated to fill 32 bits, which AVX2 loads into all lanes at no cost.
struct ByteLevels {
    uint32_t middle;                        // int16 twice, the others are bytes four times
    uint32_t above[3];
    uint32_t base, flip;
};

// What is known of a block's sums.
enum class SumReach : uint8_t {
    kFar,                                   // thresholds are compared as 16 bits
    kNear,                                  // all channels have ByteLevels
    kBytes,                                 // and the sums are bytes themselves, never widened
};

// thresholds: three, of sums from 0 to `largest`. bytes: the sums are bytes, and middle has to be 128. Returns false if they lie
// too far apart.
bool byte_levels(const uint16_t* thresholds, int32_t largest, uint8_t flip, bool bytes, ByteLevels& levels);

}  // namespace edgenas
