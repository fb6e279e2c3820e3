// Requantization: from the int32 sum of a convolution to an activation code or a float.
//
//   acc         = sum of w * (q - z), int32, exact
//   kLinear     code = clip((acc * multiplier[c] + bias[c]) >> shift, lo, hi)              int64, arithmetic shift (floor)
//   kTable      code = table[clip((acc * multiplier[c] + bias[c]) >> shift, 0, table_size - 1)]
//   kThreshold  code = number of k in 0 .. levels-2 with sign[c] * acc >= thresholds[c][k]
//   kFloat      y    = float(acc) * scale[c] + offset[c]                                   two roundings, never one FMA
//
// Limits, checked by the plan validator and relied upon by every kernel: 0 <= shift <= 62, 0 <= lo <= hi <= 255,
// 1 <= table_size <= 4096, 2 <= levels <= 16, sign[c] is -1 or +1, thresholds of a channel ascend,
// |acc * multiplier[c] + bias[c]| < 2^63. Only the arrays of the chosen kind are read.
// Compile every file that includes this with -ffp-contract=off, or kFloat loses a rounding on machines with FMA.
#pragma once
#include <cstdint>

namespace edgenas {

enum class Epilogue : uint8_t { kLinear, kTable, kThreshold, kFloat };

struct Requant {
    Epilogue kind;
    int32_t shift, lo, hi;          // kLinear; shift also for kTable
    const int32_t* multiplier;      // [c_out]
    const int64_t* bias;            // [c_out], rounding half and output zero point included
    const uint8_t* table;           // [table_size]
    int32_t table_size;             // a power of two
    const int32_t* thresholds;      // [c_out][levels - 1]
    int32_t levels;                 // 2^bits of the output codes
    const int8_t* sign;             // [c_out]
    const float* scale;             // [c_out]
    const float* offset;            // [c_out]
};

// The scalar definition. Internal linkage: files of different instruction sets each keep their own copy, so the linker
// never picks the AVX-512 body for a CPU without it.
static inline int64_t requant_scaled(const Requant& r, int32_t c, int32_t acc) {
    const int64_t product = static_cast<int64_t>(acc) * r.multiplier[c];
    return static_cast<int64_t>(static_cast<uint64_t>(product) + static_cast<uint64_t>(r.bias[c])) >> r.shift;
}

// The code of channel c; kind is not kFloat.
static inline uint8_t requant_code(const Requant& r, int32_t c, int32_t acc) {
    if (r.kind == Epilogue::kThreshold) {
        const int64_t signed_acc = r.sign[c] < 0 ? -static_cast<int64_t>(acc) : acc;
        const int32_t* t = r.thresholds + static_cast<int64_t>(c) * (r.levels - 1);
        int32_t code = 0;
        for (int32_t k = 0; k < r.levels - 1; ++k) code += signed_acc >= t[k];
        return static_cast<uint8_t>(code);
    }
    const int64_t v = requant_scaled(r, c, acc);
    const int64_t lo = r.kind == Epilogue::kTable ? 0 : r.lo;
    const int64_t hi = r.kind == Epilogue::kTable ? r.table_size - 1 : r.hi;
    const int64_t clipped = v < lo ? lo : v > hi ? hi : v;
    return r.kind == Epilogue::kTable ? r.table[clipped] : static_cast<uint8_t>(clipped);
}

// The float of channel c; kind is kFloat.
static inline float requant_float(const Requant& r, int32_t c, int32_t acc) {
    return static_cast<float>(acc) * r.scale[c] + r.offset[c];
}

}  // namespace edgenas
