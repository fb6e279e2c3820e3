// From an instruction to a step: which kernel, what it prepares, and the phases of a run. One function for each operator.
#pragma once
#include <memory>
#include <string_view>
#include <vector>

#include "../kernels/glue/kernel.h"
#include "cpu.h"
#include "executor.h"

namespace edgenas {

// What a step is made from, beside its instruction.
struct Making {
    const Plan& plan;
    std::string_view wish;          // the row to prefer; empty means the fastest
    const Glue& glue;
    int32_t threads;
};

// steps_conv.cpp
Step conv2d_step(const Instruction&, const Making&, const Tensor& x, const Tensor& y);
Step conv_transpose2d_step(const Instruction&, const Making&, const Tensor& x, const Tensor& y);
Step linear_step(const Instruction&, const Tensor& x, const Tensor& y);

// steps_glue.cpp
Step pair_step(const Instruction&, const Making&, const Tensor& a, const Tensor& b, const Tensor& y);
Step concat_step(const Instruction&, const Making&, const Tensor& y);
Step slice_step(const Instruction&, const Making&, const Tensor& x, const Tensor& y);
Step upsample_step(const Instruction&, const Making&, const Tensor& x, const Tensor& y);
Step maxpool_step(const Instruction&, const Making&, const Tensor& x, const Tensor& y);
Step avgpool_step(const Instruction&, const Making&, const Tensor& x, const Tensor& y);
Step codes_step(const Instruction&, const Making&, const Tensor& x, const Tensor& y);       // requantize, quantize, dequantize
Step floats_step(const Instruction&, const Making&, const std::vector<const Tensor*>& in, const Tensor& y);
Step decode_step(const Instruction&, const Making&, const std::vector<const Tensor*>& in, const Tensor& y);

// Glue operators move bytes: about as much work as so many multiply-adds each, in the measure of Step::work.
constexpr int64_t kWorkOfByte = 16;

template <typename T>
const T* read(std::byte* arena, const Tensor& t) {
    return reinterpret_cast<const T*>(arena + t.offset);
}

template <typename T>
T* write(std::byte* arena, const Tensor& t) {
    return reinterpret_cast<T*>(arena + t.offset);
}

// A step of one phase of a reference kernel without scratch, run(arena, share).
template <typename Run>
Step in_one_phase(const Instruction& i, int64_t work, Run run) {
    return {&i, "reference", 0, 0, work, {[=](std::byte* arena, std::byte*, Share share) { run(arena, share); }}, nullptr};
}

// Fails where bytes pass the limit of one instruction's prepared or scratch memory.
size_t affordable(const Instruction&, size_t bytes);

// The arrays of the file itself; null where absent.
Requant requant_of(const Instruction&, const Tensor& y);

template <typename Row>
bool runs_here(const Row& row) {
    return (row.needs & cpu::features()) == row.needs;
}

// The row called `wish` where it fits, else the first that fits; the last row of a table fits always.
template <typename Row, typename Fits>
const Row& choose(std::span<const Row> rows, std::string_view wish, Fits fits) {
    for (const Row& row : rows)
        if (row.name == wish && runs_here(row) && fits(row)) return row;
    for (const Row& row : rows)
        if (runs_here(row) && fits(row)) return row;
    return rows.back();
}

}  // namespace edgenas
