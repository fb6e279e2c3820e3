// Runs a validated plan: each instruction becomes a step once, at load; a run walks the steps over one arena.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "detect.h"
#include "plan.h"

namespace edgenas {

// 64-byte aligned, zeroed bytes with 64 more on either side, which vector loads may read.
class Buffer {
  public:
    explicit Buffer(size_t bytes = 0);
    std::byte* data() const { return memory_.get() + kSlack; }
    size_t size() const { return bytes_; }

  private:
    static constexpr size_t kSlack = 64;
    struct Free {
        void operator()(std::byte* p) const { ::operator delete(p, std::align_val_t{kSlack}); }
    };
    std::unique_ptr<std::byte, Free> memory_;
    size_t bytes_;
};

struct Memory {
    int64_t file_bytes, arena_bytes, scratch_bytes, prepared_bytes;
};

// One instruction ready to run.
struct Step {
    const Instruction* instruction;
    std::string variant;            // row of the kernel table
    size_t prepared_bytes, scratch_bytes;
    std::function<void(std::byte* arena, std::byte* scratch)> run;
};

// Steps of a validated plan. `variant` names a row to prefer in every table that has it; empty means the fastest.
std::vector<Step> make_steps(const Plan& plan, std::string_view variant);

// Rows of an operator's table that this CPU can run, fastest first.
std::vector<std::string> variants(std::string_view op);

class Executor {
  public:
    // Copies, parses, validates and prepares; throws ArtifactError.
    explicit Executor(std::span<const std::byte> file, std::string_view variant = {});
    Executor(const Executor&) = delete;

    const Plan& plan() const { return plan_; }
    const std::vector<Step>& steps() const { return steps_; }
    Memory memory() const;
    std::byte* at(uint32_t tensor) const { return arena_.data() + plan_.tensors[tensor].offset; }

    // Everything but a final decode; times_us, where given, receives one duration for each instruction that ran.
    void run(std::vector<double>* times_us = nullptr) const;
    bool has_decode() const;
    void run_decode() const;
    Detections detect(float score_threshold, float iou_threshold, int64_t max_detections) const;    // after run()

  private:
    Buffer file_;
    Plan plan_;
    Buffer arena_, scratch_;
    std::vector<Step> steps_;
};

}  // namespace edgenas
