#include "executor.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <new>

namespace edgenas {

Buffer::Buffer(size_t bytes)
    : memory_(static_cast<std::byte*>(::operator new(bytes + 2 * kSlack, std::align_val_t{kSlack}))), bytes_(bytes) {
    std::memset(memory_.get(), 0, bytes + 2 * kSlack);
}

namespace {

Buffer copy(std::span<const std::byte> bytes) {
    Buffer b(bytes.size());
    std::copy(bytes.begin(), bytes.end(), b.data());
    return b;
}

// Shares of each thread; 0 where one worker does the step.
int32_t shares_of(int64_t work, int32_t threads, int64_t split_from) {
    if (work <= 0 || work < split_from) return 0;
    return static_cast<int32_t>(std::clamp<int64_t>(work / threads / (kLeastShare * std::max<int64_t>(split_from, 1)), 1, kMostShares));
}

Plan validated(std::span<const std::byte> file) {
    Plan plan = parse(file);
    validate(plan);
    return plan;
}

}  // namespace

Executor::Executor(std::span<const std::byte> file, const Options& options)
    : file_(copy(file)), plan_(validated({file_.data(), file_.size()})), split_from_(options.split_from) {
    if (options.threads < 1 || options.threads > kMaxThreads)
        throw ArtifactError("threads is " + std::to_string(options.threads) + "; choose 1 to " + std::to_string(kMaxThreads));
    steps_ = make_steps(plan_, options);
    size_t scratch = 0;
    for (const Step& s : steps_) scratch = std::max(scratch, s.scratch_bytes);
    arena_ = Buffer(static_cast<size_t>(plan_.arena_bytes));
    scratch_ = Buffer(scratch);
    if (options.threads > 1) pool_ = std::make_unique<ThreadPool>(options.threads);
}

Memory Executor::memory() const {
    Memory m{static_cast<int64_t>(file_.size()), plan_.arena_bytes, static_cast<int64_t>(scratch_.size()), 0};
    for (const Step& s : steps_) m.prepared_bytes += static_cast<int64_t>(s.prepared_bytes);
    return m;
}

void Executor::run(const Step& step) const {
    std::byte *arena = arena_.data(), *scratch = scratch_.data();
    const int32_t each = pool_ != nullptr ? shares_of(step.work, pool_->threads(), split_from_) : 0;
    for (const Phase& phase : step.phases) {
        if (each > 0) pool_->run(each, [&](Share share) { phase(arena, scratch, share); });
        else phase(arena, scratch, {0, 1});
    }
}

void Executor::run(std::vector<double>* times_us) const {
    using Clock = std::chrono::steady_clock;
    for (const Step& s : steps_) {
        if (s.instruction->op == edge::Op::kDecode) continue;
        const auto start = times_us != nullptr ? Clock::now() : Clock::time_point{};
        run(s);
        if (times_us != nullptr) times_us->push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    }
}

bool Executor::has_decode() const { return !steps_.empty() && steps_.back().instruction->op == edge::Op::kDecode; }

void Executor::run_decode() const {
    if (!has_decode()) throw ArtifactError("plan: it ends in no decode, so it gives raw maps and no boxes");
    run(steps_.back());
}

Detections Executor::detect(float score_threshold, float iou_threshold, int64_t max_detections) const {
    run_decode();
    const Instruction& i = *steps_.back().instruction;
    const Tensor& y = plan_.tensors[i.output];
    return nms(reinterpret_cast<const float*>(at(i.output)), y.h, i.attrs[1], score_threshold, iou_threshold, max_detections);
}

}  // namespace edgenas
