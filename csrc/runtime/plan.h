// A plan in memory: what parse() makes of a file and the executor runs. It points into the file's bytes; tables are its own.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "../formats/edge.h"
#include "../kernels/activation.h"
#include "../kernels/requant.h"

namespace edgenas {

// A file that cannot run: names the part, what was found and what would work.
struct ArtifactError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Tensor {
    std::string_view name;
    bool f32;                       // planar [C][H][W] floats, else codes in C4
    int32_t bits, c, h, w, zero_point;
    float scale;
    int64_t offset, bytes;          // in the arena; bytes include the padding lanes

    int64_t pixels() const { return int64_t{h} * w; }
    int64_t elements() const { return c * pixels(); }
    int64_t end() const { return offset + bytes; }
};

struct Instruction {
    edge::Op op;
    edge::EpilogueCode epilogue;
    Activation activation;
    int32_t wbits;
    std::string_view name;
    std::span<const uint32_t> inputs;
    uint32_t output;
    int32_t attrs[4];
    std::span<const std::byte> data[4];     // empty where absent
    int32_t shift, lo, hi;
};

struct Plan {
    Plan() = default;
    Plan(Plan&&) = default;
    Plan(const Plan&) = delete;             // instructions point into `tables`

    std::vector<Tensor> tensors;
    std::vector<Instruction> instructions;
    std::span<const uint32_t> inputs, outputs;
    std::string_view metadata;
    int64_t arena_bytes = 0;
    std::map<uint32_t, std::vector<std::byte>> tables;      // of epilogues, unpacked, by data section
};

// Limits of a plan; nas/runtime/verify.py holds plans to the same.
constexpr int64_t kMaxTensors = 4096, kMaxInstructions = 4096, kMaxInputs = 64, kMaxDim = 65535;
constexpr int64_t kMaxBytes = int64_t{1} << 28, kMaxTable = 4096, kMaxTerms = 65536, kMaxName = 255;

constexpr const char* kOpNames[] = {
    "conv2d", "conv_transpose2d", "linear", "add", "mul", "concat", "slice", "upsample", "maxpool", "global_avgpool",
    "requantize", "quantize", "dequantize", "activation", "softmax", "matmul", "layernorm", "decode"};
static_assert(std::size(kOpNames) == static_cast<size_t>(edge::Op::kCount));

// The structure of the file: header, checksum, section table, records, names. `file` is 8-byte aligned and outlives the plan.
Plan parse(std::span<const std::byte> file);

// Every rule of nas/runtime/plan.py: shapes, sizes of arrays, ranges of values, then the dataflow. Throws ArtifactError.
void validate(const Plan& plan);

// Each value is produced before it is read and intact until its last reader; part of validate().
void validate_dataflow(const Plan& plan);

// Arena offset where channels from `channel` on start inside `whole`; -1 where a group of four is cut.
int64_t alias_offset(const Tensor& whole, int64_t channel);

// CRC-32 (IEEE 802.3, as zlib's), of the bytes after the checksum field.
uint32_t crc32(std::span<const std::byte> bytes);

[[noreturn]] void fail(const Instruction& i, const std::string& message);

// The array in data slot k as T; parse() has aligned it, validate() has checked its size.
template <typename T>
std::span<const T> array(const Instruction& i, int k) {
    return {reinterpret_cast<const T*>(i.data[k].data()), i.data[k].size() / sizeof(T)};
}

}  // namespace edgenas
