// Convolution of codes that stand for levels of any spacing: the product table of DeepGEMM (Ganji et al. 2023, arXiv:2304.09049).
//
//   sum[co][p] = sum over taps of weight_levels[weight code] * activation_levels[activation code], exact int32
//
// Layouts of x, y and the packed weights are those of conv2d/kernel.h; a stored weight u is the code itself. Codes have 1 to 4
// bits on both sides, codebooks hold int8 levels in any order. Outside the image the input code is conv.zero_point, whatever its
// level is: every tap counts. No zero need be among the levels.
//
// The caller guarantees what conv2d/kernel.h says, but for wbits and abits in 1..4 and (c_in / groups) * kernel^2 <= kMaxCodebookTerms,
// with which no sum passes int32.
#pragma once
#include "../conv2d/kernel.h"

namespace edgenas {

constexpr int64_t kMaxCodebookTerms = 131071;       // 131071 * 128 * 128 < 2^31

struct CodebookConv2d {
    Conv2d conv;
    const int8_t* weight_levels;                    // [2^wbits]
    const int8_t* activation_levels;                // [2^abits]
    bool sums;                                      // y is the sums themselves, int32 [c_out][h_out][w_out]; requant is not read
};

// As Variant in conv2d/kernel.h.
struct CodebookVariant {
    const char* name;
    uint32_t needs;
    bool (*supports)(const CodebookConv2d&);
    size_t (*prepared_bytes)(const CodebookConv2d&);
    void (*prepare)(const CodebookConv2d&, void* prepared);
    size_t (*scratch_bytes)(const CodebookConv2d&);
    void (*pack)(const CodebookConv2d&, const void* prepared, const uint8_t* x, void* scratch, Share);
    void (*compute)(const CodebookConv2d&, const void* prepared, const uint8_t* x, void* y, const void* scratch, Share);
};

// Fastest first; the last row is "reference", which runs anywhere and supports everything.
std::span<const CodebookVariant> conv2d_codebook_variants();

// The code of weight i of a packed row, 0 .. 2^wbits - 1.
static inline int32_t unpack_code(const uint8_t* row, int64_t i, int32_t wbits) {
    const int32_t w = unpack_weight(row, i, wbits);
    return wbits == 1 ? (w + 1) / 2 : w + (1 << (wbits - 1));
}

}  // namespace edgenas
