// What the fuzzer and the replayer do with one file: give it the size and checksum it claims, load it, and run it if it is tiny.
#pragma once
#include <cstring>
#include <vector>

#include "../runtime/executor.h"

namespace edgenas::fuzz {

constexpr int64_t kMaxArena = 1 << 20, kMaxWork = 1 << 22;

// Multiply-adds of a validated plan, roughly.
inline int64_t work(const Plan& plan) {
    int64_t sum = 0;
    for (const Instruction& i : plan.instructions) {
        const Tensor &x = plan.tensors[i.inputs[0]], &y = plan.tensors[i.output];
        const int64_t window = i.op == edge::Op::kConv2d || i.op == edge::Op::kMaxpool ? int64_t{i.attrs[0]} * i.attrs[0] : 1;
        const bool dense = i.op == edge::Op::kLinear || i.op == edge::Op::kMatmul;
        sum += y.elements() * window * (dense ? x.elements() : x.c) + x.elements();
    }
    return sum;
}

// Bytes 16 .. 20 hold the size, 12 .. 16 the checksum of what follows: without this, mutations would stop at either.
inline void seal(std::vector<std::byte>& file) {
    if (file.size() < sizeof(edge::Header)) return;
    const auto size = static_cast<uint32_t>(file.size());
    std::memcpy(file.data() + 16, &size, sizeof size);
    const uint32_t checksum = crc32(std::span(file).subspan(16));
    std::memcpy(file.data() + 12, &checksum, sizeof checksum);
}

// True where the file was accepted. Inputs get a pattern of valid codes or small floats.
inline bool load_and_run(const std::vector<std::byte>& file, const Options& options) {
    try {
        std::vector<uint64_t> aligned(file.size() / 8 + 1);
        if (!file.empty()) std::memcpy(aligned.data(), file.data(), file.size());
        const Plan plan = parse({reinterpret_cast<const std::byte*>(aligned.data()), file.size()});
        validate(plan);
        if (plan.arena_bytes > kMaxArena || work(plan) > kMaxWork) return true;
        const Executor executor(file, options);
        for (const uint32_t id : plan.inputs) {
            const Tensor& t = plan.tensors[id];
            for (int64_t k = 0; k < t.bytes; ++k) executor.at(id)[k] = static_cast<std::byte>(t.f32 ? 0 : (k * 37) & ((1 << t.bits) - 1));
        }
        executor.run();
        if (executor.has_decode()) executor.detect(0.1f, 0.5f, 20);
        return true;
    } catch (const ArtifactError&) {
        return false;
    }
}

}  // namespace edgenas::fuzz
