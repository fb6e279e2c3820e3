// Integer 2-D convolution, batch 1: unsigned activation codes x signed weight codes, exact int32 sums, one epilogue.
//
//   x  codes in C4: [ceil(c_in / 4)][h][w][4], uint8; the channels that pad the last group hold any value <= 2^abits - 1
//   y  codes in C4: [ceil(c_out / 4)][h_out][w_out][4], uint8, padding channels written 0;
//      with Epilogue::kFloat instead planar float [c_out][h_out][w_out]
//   Outside the image the input code is zero_point (real 0).
//
// Weights as the file holds them (writer: nas/compiler/pack.py): one row per output channel, each row c_in/groups x k x k
// codes in that order, rows start at a byte:
//   wbits 2, 3, 4   u = w + 2^(wbits-1), bit-packed, first code in the lowest bits (3-bit codes may straddle two bytes)
//   wbits 1         u = (w + 1) / 2, bit-packed
//   wbits 8         w itself as int8
//
// The caller (plan validator) guarantees: all sizes >= 1, groups divides c_in and c_out, stride 1 or 2, pad < kernel,
// h_out = (h + 2 pad - kernel) / stride + 1 >= 1 and the same for w_out, wbits in {1,2,3,4,8}, abits 1..8,
// 0 <= zero_point < 2^abits, (c_in / groups) * kernel^2 <= 65536 so that sums fit int32, and tensors below 2^31 bytes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "../requant.h"
#include "../share.h"

namespace edgenas {

struct Conv2d {
    int32_t c_in, h, w;
    int32_t c_out, kernel, stride, pad, groups;
    int32_t h_out, w_out;
    int32_t wbits, abits, zero_point;
    const uint8_t* weights;
    Requant requant;                // its arrays stay alive as long as the prepared kernel
};

// One implementation. prepared and scratch are 64-byte aligned buffers of the stated sizes; prepared is written once at load,
// scratch has no content between calls. x and y need no alignment beyond 4 bytes, and no byte outside them is touched.
//
// A run is two phases: pack brings x into the form the kernel reads, in scratch; compute writes y. Each is called once for every
// share (share.h) of one count; all shares of pack end before one of compute begins. Shares of a phase may run at the same time,
// so none writes a byte that another one reads or writes in that phase. y is the same for every count.
struct Variant {
    const char* name;
    uint32_t needs;                 // cpu::features() bits
    bool (*supports)(const Conv2d&);
    size_t (*prepared_bytes)(const Conv2d&);
    void (*prepare)(const Conv2d&, void* prepared);
    size_t (*scratch_bytes)(const Conv2d&);
    void (*pack)(const Conv2d&, const void* prepared, const uint8_t* x, void* scratch, Share);
    void (*compute)(const Conv2d&, const void* prepared, const uint8_t* x, void* y, const void* scratch, Share);
};

// Fastest first; the first row this CPU can run (needs is a subset of cpu::features()) and that supports the shape is used.
// The last row is "reference", which runs anywhere and supports everything.
std::span<const Variant> conv2d_variants();

// Bytes of one output channel's packed weights.
constexpr int64_t weight_row_bytes(int64_t codes, int32_t wbits) { return (codes * wbits + 7) / 8; }

// The signed weight number i of a packed row.
static inline int32_t unpack_weight(const uint8_t* row, int64_t i, int32_t wbits) {
    if (wbits == 8) return static_cast<int8_t>(row[i]);
    const int64_t bit = i * wbits;
    const int32_t in_byte = static_cast<int32_t>(bit & 7);
    uint32_t u = row[bit >> 3];
    if (in_byte + wbits > 8) u |= static_cast<uint32_t>(row[(bit >> 3) + 1]) << 8;
    const int32_t code = static_cast<int32_t>((u >> in_byte) & ((1u << wbits) - 1));
    return wbits == 1 ? 2 * code - 1 : code - (1 << (wbits - 1));
}

}  // namespace edgenas
