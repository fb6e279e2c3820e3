#include "steps.h"

#include <algorithm>
#include <stdexcept>

#include "../kernels/conv2d/kernel.h"
#include "../kernels/conv2d_f32/kernel.h"

namespace edgenas {
namespace {

using edge::Op;

constexpr size_t kMaxWork = size_t{1} << 30;        // bytes of one instruction's prepared or scratch memory

Step make_step(const Instruction& i, const Making& m) {
    std::vector<const Tensor*> in;
    for (const uint32_t t : i.inputs) in.push_back(&m.plan.tensors[t]);
    const Tensor &x = *in[0], &y = m.plan.tensors[i.output];
    switch (i.op) {
        case Op::kConv2d: return conv2d_step(i, m, x, y);
        case Op::kConvTranspose2d: return conv_transpose2d_step(i, m, x, y);
        case Op::kLinear: return linear_step(i, x, y);
        case Op::kAdd:
        case Op::kMul: return pair_step(i, m, x, *in[1], y);
        case Op::kConcat: return concat_step(i, m, y);
        case Op::kSlice: return slice_step(i, m, x, y);
        case Op::kUpsample: return upsample_step(i, m, x, y);
        case Op::kMaxpool: return maxpool_step(i, m, x, y);
        case Op::kGlobalAvgpool: return avgpool_step(i, m, x, y);
        case Op::kRequantize:
        case Op::kQuantize:
        case Op::kDequantize: return codes_step(i, m, x, y);
        case Op::kDecode: return decode_step(i, m, in, y);
        default: return floats_step(i, m, in, y);
    }
}

template <typename Row>
std::vector<std::string> names(std::span<const Row> rows) {
    std::vector<std::string> found;
    for (const Row& row : rows)
        if (runs_here(row)) found.emplace_back(row.name);
    return found;
}

}  // namespace

size_t affordable(const Instruction& i, size_t bytes) {
    if (bytes > kMaxWork)
        fail(i, "it needs " + std::to_string(bytes) + " bytes of working memory, the limit is " + std::to_string(kMaxWork));
    return bytes;
}

Requant requant_of(const Instruction& i, const Tensor& y) {
    Requant r{};
    if (i.epilogue == edge::EpilogueCode::kNone) return r;
    r.kind = static_cast<Epilogue>(static_cast<int>(i.epilogue) - 1);
    r.shift = i.shift, r.lo = i.lo, r.hi = i.hi, r.levels = 1 << std::min(y.bits, 8);
    if (r.kind == Epilogue::kFloat) {
        r.scale = array<float>(i, 1).data(), r.offset = array<float>(i, 2).data();
    } else if (r.kind == Epilogue::kThreshold) {
        r.thresholds = array<int32_t>(i, 1).data(), r.sign = array<int8_t>(i, 2).data();
    } else {
        r.multiplier = array<int32_t>(i, 1).data(), r.bias = array<int64_t>(i, 2).data();
        r.table = array<uint8_t>(i, 3).data(), r.table_size = static_cast<int32_t>(i.data[3].size());
    }
    return r;
}

std::vector<Step> make_steps(const Plan& plan, const Options& options) {
    const size_t count = plan.instructions.size();
    if (!options.variants.empty() && options.variants.size() != count)
        throw ArtifactError("plan: " + std::to_string(count) + " instructions, but " + std::to_string(options.variants.size()) +
                            " variants");
    std::vector<Step> steps;
    for (size_t k = 0; k < count; ++k) {
        const bool own = !options.variants.empty() && !options.variants[k].empty();
        const std::string_view wish = own ? std::string_view(options.variants[k]) : options.variant;
        const Glue& glue = choose(glue_variants(), wish, [](const Glue&) { return true; });
        steps.push_back(make_step(plan.instructions[k], {plan, wish, glue, options.threads}));
    }
    return steps;
}

std::vector<std::string> variants(std::string_view op) {
    if (op == "conv2d" || op == "conv_transpose2d") return names(conv2d_variants());
    if (op == "conv2d_f32") return names(conv2d_f32_variants());
    for (const auto other : {"linear", "softmax", "matmul", "layernorm"})
        if (op == other) return {"reference"};
    for (const auto* known : kOpNames)
        if (op == known) return names(glue_variants());
    throw std::invalid_argument("no operator '" + std::string(op) + "' has kernel variants");
}

}  // namespace edgenas
