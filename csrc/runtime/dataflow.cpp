#include "plan.h"

namespace edgenas {
namespace {

using edge::Op;

constexpr int64_t kUnborn = INT64_MAX;

// First step at which a tensor holds its value (-1 for inputs) and the last that reads it.
struct Life {
    int64_t born = kUnborn, last = -1;
};

struct Range {
    int64_t start, stop;
};

bool overlap(const Range& a, const Tensor& t) { return a.start < t.end() && t.offset < a.stop; }

// Bytes that hold channels start..stop of `whole`, groups of four taken whole.
Range channel_range(const Tensor& whole, int64_t start, int64_t stop) {
    if (whole.f32) return {whole.offset + 4 * start * whole.pixels(), whole.offset + 4 * stop * whole.pixels()};
    return {whole.offset + start / 4 * 4 * whole.pixels(), whole.offset + (stop + 3) / 4 * 4 * whole.pixels()};
}

// A concat or slice whose input already lies in place writes nothing there.
std::vector<Range> writes(const Plan& plan, const Instruction& i) {
    const Tensor& y = plan.tensors[i.output];
    if (i.op == Op::kSlice && y.offset == alias_offset(plan.tensors[i.inputs[0]], i.attrs[0])) return {};
    if (i.op != Op::kConcat) return {{y.offset, y.end()}};
    std::vector<Range> copied;
    int64_t channel = 0;
    for (const uint32_t t : i.inputs) {
        const Tensor& x = plan.tensors[t];
        if (x.offset != alias_offset(y, channel)) copied.push_back(channel_range(y, channel, channel + x.c));
        channel += x.c;
    }
    return copied;
}

bool may_be_in_place(const Instruction& i, const Tensor& x, const Tensor& y) {
    const bool elementwise = i.op == Op::kAdd || i.op == Op::kMul || i.op == Op::kRequantize || i.op == Op::kActivation;
    return elementwise && x.offset == y.offset && x.f32 == y.f32 && x.c == y.c && x.h == y.h && x.w == y.w;
}

std::vector<Life> lives(const Plan& plan) {
    std::vector<Life> life(plan.tensors.size());
    const auto end = static_cast<int64_t>(plan.instructions.size());
    for (const uint32_t t : plan.inputs) {
        if (t >= life.size() || life[t].born != kUnborn)
            throw ArtifactError("plan: input " + std::to_string(t) + " is not a tensor or named twice");
        life[t].born = -1;
    }
    for (int64_t step = 0; step < end; ++step) {
        const Instruction& i = plan.instructions[static_cast<size_t>(step)];
        if (i.op == Op::kDecode && step != end - 1) fail(i, "it is not the last instruction");
        for (const uint32_t t : i.inputs) {
            if (life[t].born == kUnborn) fail(i, "it reads '" + std::string(plan.tensors[t].name) + "', which nothing has produced");
            life[t].last = step;
        }
        if (life[i.output].born != kUnborn) fail(i, "it writes '" + std::string(plan.tensors[i.output].name) + "' a second time");
        life[i.output].born = step;
    }
    for (const uint32_t t : plan.outputs) {
        if (t >= life.size() || life[t].born == kUnborn)
            throw ArtifactError("plan: output " + std::to_string(t) + " is produced by nothing");
        if (life[t].born >= 0 && plan.instructions[static_cast<size_t>(life[t].born)].op == Op::kDecode)
            throw ArtifactError("plan: its outputs are the raw maps, not what a decode makes of them");
        life[t].last = end;
    }
    for (size_t t = 0; t < life.size(); ++t)
        if (life[t].born == kUnborn) throw ArtifactError("tensor '" + std::string(plan.tensors[t].name) + "': produced by nothing");
    return life;
}

}  // namespace

int64_t alias_offset(const Tensor& whole, int64_t channel) {
    if (whole.f32) return whole.offset + 4 * channel * whole.pixels();
    return channel % 4 == 0 ? whole.offset + channel * whole.pixels() : -1;
}

void validate_dataflow(const Plan& plan) {
    if (plan.inputs.empty() || plan.outputs.empty()) throw ArtifactError("plan: it needs an input and an output");
    const std::vector<Life> life = lives(plan);
    for (const uint32_t a : plan.inputs)
        for (const uint32_t b : plan.inputs)
            if (a != b && overlap({plan.tensors[a].offset, plan.tensors[a].end()}, plan.tensors[b]))
                throw ArtifactError("plan: inputs '" + std::string(plan.tensors[a].name) + "' and '" + std::string(plan.tensors[b].name) +
                                    "' overlap");
    for (size_t s = 0; s < plan.instructions.size(); ++s) {
        const Instruction& i = plan.instructions[s];
        const auto step = static_cast<int64_t>(s);
        const Tensor& y = plan.tensors[i.output];
        for (const Range& range : writes(plan, i))
            for (size_t t = 0; t < plan.tensors.size(); ++t) {
                const Tensor& x = plan.tensors[t];
                if (life[t].born >= step || life[t].last < step || !overlap(range, x)) continue;
                bool reads = false;
                for (const uint32_t in : i.inputs) reads |= in == t;
                if (!(reads && life[t].last == step && may_be_in_place(i, x, y)))
                    fail(i, "writing '" + std::string(y.name) + "' destroys '" + std::string(x.name) + "', which is read later");
            }
    }
}

}  // namespace edgenas
