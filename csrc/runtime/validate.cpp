#include <algorithm>
#include <cmath>
#include <cstring>

#include "../kernels/conv2d/kernel.h"
#include "plan.h"

namespace edgenas {
namespace {

using edge::EpilogueCode;
using edge::Op;

constexpr int64_t kInt32End = int64_t{1} << 31;

std::string text(int64_t v) { return std::to_string(v); }
std::string shape(const Tensor& t) { return text(t.c) + "x" + text(t.h) + "x" + text(t.w); }

void require(bool ok, const Instruction& i, const char* message) {
    if (!ok) fail(i, message);
}

int32_t attr(const Instruction& i, int k, int64_t low, int64_t high, const char* name) {
    if (i.attrs[k] < low || i.attrs[k] > high)
        fail(i, std::string(name) + "=" + text(i.attrs[k]) + " is outside " + text(low) + ".." + text(high));
    return i.attrs[k];
}

void expect(const Instruction& i, const Tensor& y, int64_t c, int64_t h, int64_t w) {
    if (y.c != c || y.h != h || y.w != w)
        fail(i, "output '" + std::string(y.name) + "' is " + shape(y) + ", the operator gives " + text(c) + "x" + text(h) + "x" + text(w));
}

template <typename T>
std::span<const T> sized(const Instruction& i, int k, int64_t count, const char* name) {
    if (i.data[k].size() != static_cast<size_t>(count) * sizeof(T))
        fail(i, std::string(name) + " has " + text(static_cast<int64_t>(i.data[k].size())) + " bytes, not " +
                    text(count * static_cast<int64_t>(sizeof(T))));
    return array<T>(i, k);
}

void finite(const Instruction& i, std::span<const float> values, const char* name) {
    for (const float v : values)
        if (!std::isfinite(v)) fail(i, std::string(name) + " holds a value that is not finite");
}

void check_tensor(const Tensor& t, int64_t arena_bytes) {
    const std::string where = "tensor '" + std::string(t.name) + "': ";
    if (t.c < 1 || t.h < 1 || t.w < 1) throw ArtifactError(where + "shape " + shape(t) + " has a zero");
    if (t.bytes > kMaxBytes) throw ArtifactError(where + text(t.bytes) + " bytes pass the limit of " + text(kMaxBytes));
    const bool bits_ok = t.f32 ? t.bits == 32 && t.zero_point == 0 : t.bits >= 1 && t.bits <= 8 && t.zero_point < 1 << t.bits;
    if (!bits_ok) throw ArtifactError(where + "bits " + text(t.bits) + " with zero point " + text(t.zero_point) + " do not suit its type");
    if (!std::isfinite(t.scale) || t.scale <= 0) throw ArtifactError(where + "scale is not a positive number");
    if (t.offset % 4 != 0) throw ArtifactError(where + "offset " + text(t.offset) + " is not a multiple of 4");
    if (t.end() > arena_bytes) throw ArtifactError(where + "it ends at byte " + text(t.end()) + " of an arena of " + text(arena_bytes));
}

// Arrays and ranges of an epilogue with n channels; broadcast allows arrays of one entry.
void check_requant(const Instruction& i, const Tensor& y, int64_t n, bool broadcast) {
    require(i.epilogue != EpilogueCode::kNone, i, "it has no epilogue");
    require((i.epilogue == EpilogueCode::kFloat) == y.f32, i, "its epilogue does not suit the type of its output");
    const size_t row = i.epilogue == EpilogueCode::kThreshold ? sizeof(int32_t) * ((1u << std::min(y.bits, 8)) - 1) : sizeof(int32_t);
    if (broadcast && i.data[1].size() == row) n = 1;
    const int32_t top = (1 << std::min(y.bits, 8)) - 1;
    if (i.epilogue == EpilogueCode::kFloat) {
        finite(i, sized<float>(i, 1, n, "scale"), "scale");
        finite(i, sized<float>(i, 2, n, "offset"), "offset");
    } else if (i.epilogue == EpilogueCode::kThreshold) {
        require(y.bits <= 4, i, "thresholds give at most 4 bits");
        const auto t = sized<int32_t>(i, 1, n * top, "thresholds");
        for (int64_t c = 0; c < n; ++c)
            require(std::is_sorted(t.begin() + c * top, t.begin() + (c + 1) * top), i, "thresholds are not ascending");
        for (const int8_t s : sized<int8_t>(i, 2, n, "sign")) require(s == 1 || s == -1, i, "a sign is neither -1 nor +1");
    } else {
        sized<int32_t>(i, 1, n, "multiplier");
        constexpr int64_t kBiasEnd = int64_t{1} << 62;
        for (const int64_t b : sized<int64_t>(i, 2, n, "bias")) require(b > -kBiasEnd && b < kBiasEnd, i, "a bias reaches 2^62");
        require(i.shift <= 62, i, "the shift passes 62");
        require(i.epilogue != EpilogueCode::kLinear || (i.lo <= i.hi && i.hi <= top), i,
                "the clip range does not fit the bits of the output");
        if (i.epilogue != EpilogueCode::kTable) return;
        const auto table = array<uint8_t>(i, 3);
        const size_t size = table.size();
        require(size >= 1 && size <= static_cast<size_t>(kMaxTable) && (size & (size - 1)) == 0, i,
                "the table's size is not a power of two up to 4096");
        require(*std::max_element(table.begin(), table.end()) <= top, i, "a table entry does not fit the bits of the output");
    }
}

// Weights of conv2d, conv_transpose2d and linear: `rows` outputs of `codes` each; `terms` products meet in one sum.
void check_weighted(const Instruction& i, const Tensor& x, const Tensor& y, int64_t rows, int64_t codes, int64_t terms) {
    if (x.f32) {
        require(y.f32 && i.epilogue == EpilogueCode::kNone, i, "an f32 input gives an f32 output without epilogue");
        finite(i, sized<float>(i, 0, rows * codes, "weights"), "weights");
        if (!i.data[1].empty()) finite(i, sized<float>(i, 1, rows, "bias"), "bias");
        return;
    }
    const int32_t b = i.wbits;
    require(b == 1 || b == 2 || b == 3 || b == 4 || b == 8, i, "weights have 1, 2, 3, 4 or 8 bits");
    const auto packed = sized<uint8_t>(i, 0, rows * weight_row_bytes(codes, b), "weights");
    if (b == 8) require(std::find(packed.begin(), packed.end(), 0x80) == packed.end(), i, "an 8-bit weight is -128");
    const int64_t reach = terms * (int64_t{1} << (b - 1)) * ((1 << x.bits) - 1);
    require(terms <= kMaxTerms && reach < kInt32End, i, "the accumulator can pass int32");
    check_requant(i, y, rows, false);
}

void check_window(const Instruction& i, const Tensor& x, const Tensor& y, int64_t max_stride, bool pool) {
    const int64_t k = attr(i, 0, 1, 31, "kernel"), s = attr(i, 1, 1, max_stride, "stride");
    const int64_t p = attr(i, 2, 0, pool ? k / 2 : k - 1, "padding");
    require(x.h + 2 * p >= k && x.w + 2 * p >= k, i, "the kernel is larger than the padded input");
    expect(i, y, y.c, (x.h + 2 * p - k) / s + 1, (x.w + 2 * p - k) / s + 1);
}

void check_conv2d(const Instruction& i, const Tensor& x, const Tensor& y) {
    check_window(i, x, y, 2, false);
    const int64_t groups = attr(i, 3, 1, kMaxDim, "groups");
    require(x.c % groups == 0 && y.c % groups == 0, i, "the groups do not divide the channels");
    const int64_t codes = x.c / groups * i.attrs[0] * i.attrs[0];
    check_weighted(i, x, y, y.c, codes, codes);
}

void check_pair(const Instruction& i, const Tensor& a, const Tensor& b, const Tensor& y) {
    expect(i, y, a.c, a.h, a.w);
    require(b.c == a.c && ((b.h == a.h && b.w == a.w) || b.pixels() == 1), i, "the shapes of its inputs do not pair");
    require(a.f32 == b.f32, i, "one input is f32, the other holds codes");
    if (a.f32) {
        require(y.f32 && i.epilogue == EpilogueCode::kNone, i, "f32 inputs give an f32 output without epilogue");
        return;
    }
    constexpr int64_t kTop = (1 << 22) - 1;
    if (i.op == Op::kAdd) attr(i, 0, -kTop, kTop, "multiplier_a"), attr(i, 1, -kTop, kTop, "multiplier_b");
    check_requant(i, y, y.c, true);
}

void check_same_codes(const Instruction& i, const Tensor& x, const Tensor& y) {
    require(x.f32 == y.f32 && x.bits == y.bits && x.zero_point == y.zero_point && x.scale == y.scale, i,
            "input and output differ in type, bits, scale or zero point");
}

void check_layout(const Instruction& i, const std::vector<const Tensor*>& in, const Tensor& y) {
    const Tensor& x = *in[0];
    int64_t channels = 0;
    for (const Tensor* t : in) {
        check_same_codes(i, *t, y);
        channels += t->c;
        require(i.op != Op::kConcat || (t->h == y.h && t->w == y.w), i, "its inputs differ in height or width");
    }
    if (i.op == Op::kConcat) expect(i, y, channels, x.h, x.w);
    if (i.op == Op::kUpsample) {
        const int64_t f = attr(i, 0, 1, 16, "factor");
        expect(i, y, x.c, x.h * f, x.w * f);
    }
    if (i.op == Op::kSlice) {
        const int64_t start = attr(i, 0, 0, x.c - 1, "start");
        expect(i, y, attr(i, 1, start + 1, x.c, "stop") - start, x.h, x.w);
    }
    if (i.op == Op::kMaxpool) {
        require(x.c == y.c, i, "it changes the number of channels");
        check_window(i, x, y, 16, true);
    }
}

void check_codes(const Instruction& i, const Tensor& x, const Tensor& y) {
    if (i.op == Op::kGlobalAvgpool) {
        expect(i, y, x.c, 1, 1);
        if (x.f32) {
            require(y.f32 && i.epilogue == EpilogueCode::kNone, i, "an f32 input gives an f32 output without epilogue");
            return;
        }
        require(x.pixels() * 255 < kInt32End, i, "the sum of its codes can pass int32");
        check_requant(i, y, y.c, true);
        return;
    }
    expect(i, y, x.c, x.h, x.w);
    if (i.op == Op::kQuantize) return require(x.f32 && !y.f32, i, "it takes f32 and gives codes");
    if (i.op == Op::kDequantize) return require(!x.f32 && y.f32, i, "it takes codes and gives f32");
    require(!x.f32, i, "it takes codes");
    if (i.epilogue != EpilogueCode::kNone) return check_requant(i, y, y.c, true);
    require(!y.f32, i, "a table gives codes");
    for (const uint8_t v : sized<uint8_t>(i, 0, 256, "table"))
        require(v >> y.bits == 0, i, "a table entry does not fit the bits of the output");
}

void check_floats(const Instruction& i, const std::vector<const Tensor*>& in, const Tensor& y) {
    for (const Tensor* t : in) require(t->f32, i, "an input is not f32");
    require(y.f32, i, "the output is not f32");
    const Tensor& x = *in[0];
    if (i.op == Op::kMatmul) {
        const Tensor& b = *in[1];
        const bool transposed = attr(i, 0, 0, 1, "transpose_b") == 1;
        require(b.c == x.c && (transposed ? b.w : b.h) == x.w, i, "the shapes of its inputs do not multiply");
        return expect(i, y, x.c, x.h, transposed ? b.h : b.w);
    }
    expect(i, y, x.c, x.h, x.w);
    if (i.op == Op::kActivation) return;
    const int32_t axis = attr(i, 0, 0, 2, "axis");
    if (i.op == Op::kSoftmax) return;
    float eps;
    std::memcpy(&eps, &i.attrs[1], sizeof eps);
    require(eps > 0 && eps < 1, i, "eps is outside 0..1");
    const int64_t n = axis == 0 ? x.c : axis == 1 ? x.h : x.w;
    finite(i, sized<float>(i, 0, n, "gamma"), "gamma");
    finite(i, sized<float>(i, 1, n, "beta"), "beta");
}

void check_decode(const Instruction& i, const std::vector<const Tensor*>& in, const Tensor& y) {
    const int64_t bins = attr(i, 0, 1, 64, "bins"), classes = attr(i, 1, 1, 4096, "classes");
    require(in.size() % 2 == 0 && y.f32, i, "it takes pairs of maps and gives f32");
    for (const uint32_t s : sized<uint32_t>(i, 0, static_cast<int64_t>(in.size()) / 2, "strides"))
        require(s >= 1 && s <= 1024, i, "a stride is outside 1..1024");
    int64_t anchors = 0;
    for (size_t k = 0; k < in.size(); k += 2) {
        const Tensor &box = *in[k], &cls = *in[k + 1];
        require(box.f32 && cls.f32 && box.c == 4 * bins && cls.c == classes, i, "its maps have other channels than 4 * bins and classes");
        require(box.h == cls.h && box.w == cls.w, i, "the two maps of a level differ in size");
        anchors += box.pixels();
    }
    expect(i, y, 4 + classes, anchors, 1);
}

void check_instruction(const Plan& plan, const Instruction& i) {
    std::vector<const Tensor*> in;
    for (const uint32_t t : i.inputs) {
        require(t < plan.tensors.size(), i, "an input is not a tensor");
        in.push_back(&plan.tensors[t]);
    }
    require(i.output < plan.tensors.size(), i, "the output is not a tensor");
    const Tensor &x = *in[0], &y = plan.tensors[i.output];
    const bool many = i.op == Op::kConcat || i.op == Op::kDecode;
    const size_t arity = i.op == Op::kAdd || i.op == Op::kMul || i.op == Op::kMatmul ? 2 : 1;
    require(many || in.size() == arity, i, "it has a wrong number of inputs");
    switch (i.op) {
        case Op::kConv2d: return check_conv2d(i, x, y);
        case Op::kConvTranspose2d:
            expect(i, y, y.c, 2 * int64_t{x.h}, 2 * int64_t{x.w});
            return check_weighted(i, x, y, y.c, 4 * int64_t{x.c}, x.c);
        case Op::kLinear:
            expect(i, y, y.c, 1, 1);
            return check_weighted(i, x, y, y.c, x.elements(), x.elements());
        case Op::kAdd:
        case Op::kMul: return check_pair(i, x, *in[1], y);
        case Op::kConcat:
        case Op::kSlice:
        case Op::kUpsample:
        case Op::kMaxpool: return check_layout(i, in, y);
        case Op::kGlobalAvgpool:
        case Op::kRequantize:
        case Op::kQuantize:
        case Op::kDequantize: return check_codes(i, x, y);
        case Op::kActivation:
        case Op::kSoftmax:
        case Op::kMatmul:
        case Op::kLayernorm: return check_floats(i, in, y);
        case Op::kDecode: return check_decode(i, in, y);
        case Op::kCount: break;
    }
    fail(i, "unknown operator");
}

}  // namespace

void fail(const Instruction& i, const std::string& message) {
    throw ArtifactError(std::string(kOpNames[static_cast<size_t>(i.op)]) + " '" + std::string(i.name) + "': " + message);
}

void validate(const Plan& plan) {
    for (const Tensor& t : plan.tensors) check_tensor(t, plan.arena_bytes);
    for (const Instruction& i : plan.instructions) check_instruction(plan, i);
    validate_dataflow(plan);
}

}  // namespace edgenas
