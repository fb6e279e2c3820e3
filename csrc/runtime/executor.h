// Runs a validated plan: each instruction becomes a step once, at load; a run walks the steps over one arena.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../kernels/share.h"
#include "detect.h"
#include "plan.h"
#include "pool.h"

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

// Part of a step; the shares of one phase may run at the same time, in any order.
using Phase = std::function<void(std::byte* arena, std::byte* scratch, Share)>;

// One instruction ready to run.
struct Step {
    const Instruction* instruction;
    std::string variant;            // row of the kernel table
    size_t prepared_bytes, scratch_bytes;
    int64_t work;                   // about how many multiply-adds it is worth; 0 where nothing is to be done
    std::vector<Phase> phases;
    std::shared_ptr<const void> keeps;      // what the phases point to
};

// Work below which a step stays on one worker. Measured with two threads on YOLOv8n at 320 pixels, fp32, w8a8, w4a4 and w2a2:
// thresholds up to 2^17 give the same time, 2^20 costs 1 to 4 percent, 2^23 up to 15. Starting a phase takes 0.2 us; what counts more
// is that a piece of a tensor stays in the cache of the core that wrote it.
constexpr int64_t kSplitFrom = 1 << 17;

// Larger steps have several shares for each thread, so that one that the system interrupts or whose core is slower does fewer. Measured
// with two threads on AVX2, W2A2 and W1A1 layers of 116 and 236 million multiply-adds, against one share each: the same time to 2 percent
// (5 on 128-128 k3@28, which has 13 tiles), and half of it where one core is stopped for 15 us of every 40.
constexpr int64_t kLeastShare = 16;             // times the least work of a step that threads share
constexpr int32_t kMostShares = 4;

struct Options {
    std::string variant;                    // row to prefer in every table that has it; empty means the fastest
    std::vector<std::string> variants;      // the same for each instruction, where not empty
    int32_t threads = 1;
    int64_t split_from = kSplitFrom;        // the least work of a step that threads share
};

// Steps of a validated plan.
std::vector<Step> make_steps(const Plan& plan, const Options&);

// Rows of an operator's table that this CPU can run, fastest first.
std::vector<std::string> variants(std::string_view op);

class Executor {
  public:
    // Copies, parses, validates and prepares; throws ArtifactError.
    explicit Executor(std::span<const std::byte> file, const Options& = {});
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
    void run(const Step&) const;

    Buffer file_;
    Plan plan_;
    Buffer arena_, scratch_;
    std::vector<Step> steps_;
    int64_t split_from_;
    std::unique_ptr<ThreadPool> pool_;            // null where one thread does everything
};

}  // namespace edgenas
