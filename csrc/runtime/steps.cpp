#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>

#include "../kernels/attention/kernel.h"
#include "../kernels/conv2d/kernel.h"
#include "../kernels/conv2d_f32/kernel.h"
#include "../kernels/glue/kernel.h"
#include "../kernels/linear/kernel.h"
#include "cpu.h"
#include "executor.h"

namespace edgenas {
namespace {

using edge::EpilogueCode;
using edge::Op;

constexpr size_t kMaxWork = size_t{1} << 30;        // of one instruction's prepared or scratch bytes

template <typename T>
const T* read(std::byte* arena, const Tensor& t) {
    return reinterpret_cast<const T*>(arena + t.offset);
}

template <typename T>
T* write(std::byte* arena, const Tensor& t) {
    return reinterpret_cast<T*>(arena + t.offset);
}

// The file's own arrays; null where absent.
Requant requant_of(const Instruction& i, const Tensor& y) {
    Requant r{};
    if (i.epilogue == EpilogueCode::kNone) return r;
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

// A Requant for the glue kernels: every array has 4 * ceil(c / 4) entries; an array of one entry serves all channels.
class PaddedRequant {
  public:
    PaddedRequant(const Instruction& i, const Tensor& y) : requant_(requant_of(i, y)) {
        const size_t rows = (static_cast<size_t>(y.c) + 3) / 4 * 4;
        const int32_t top = requant_.levels - 1;
        if (requant_.kind == Epilogue::kFloat) {
            pad(array<float>(i, 1), 1, rows, scale_, requant_.scale);
            pad(array<float>(i, 2), 1, rows, offset_, requant_.offset);
        } else if (requant_.kind == Epilogue::kThreshold) {
            pad(array<int32_t>(i, 1), static_cast<size_t>(top), rows, numbers_, requant_.thresholds);
            pad(array<int8_t>(i, 2), 1, rows, sign_, requant_.sign);
        } else {
            pad(array<int32_t>(i, 1), 1, rows, numbers_, requant_.multiplier);
            pad(array<int64_t>(i, 2), 1, rows, bias_, requant_.bias);
        }
    }
    PaddedRequant(const PaddedRequant&) = delete;
    const Requant& operator*() const { return requant_; }

  private:
    template <typename T>
    static void pad(std::span<const T> from, size_t width, size_t rows, std::vector<T>& to, const T*& pointer) {
        to.assign(rows * width, T{0});
        if (from.size() == width)
            for (size_t k = 0; k < rows; ++k) std::copy(from.begin(), from.end(), to.begin() + static_cast<std::ptrdiff_t>(k * width));
        else
            std::copy(from.begin(), from.end(), to.begin());
        pointer = to.data();
    }

    Requant requant_;
    std::vector<int32_t> numbers_;
    std::vector<int64_t> bias_;
    std::vector<int8_t> sign_;
    std::vector<float> scale_, offset_;
};

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

size_t affordable(const Instruction& i, size_t bytes) {
    if (bytes > kMaxWork)
        fail(i, "it needs " + std::to_string(bytes) + " bytes of working memory, the limit is " + std::to_string(kMaxWork));
    return bytes;
}

// The padding lanes of the last group, for operators that write channel by channel.
void clear_padding(std::byte* arena, const Tensor& t) {
    if (t.f32 || t.c % 4 == 0) return;
    auto* group = write<uint8_t>(arena, t) + t.c / 4 * 4 * t.pixels();
    for (int64_t k = 0; k < t.pixels(); ++k)
        for (int32_t lane = t.c % 4; lane < 4; ++lane) group[k * 4 + lane] = 0;
}

// A step around a kernel table row with prepare and scratch: conv2d and conv2d_f32.
template <typename Conv, typename Row>
Step tabled(const Instruction& i, const Conv& conv, std::span<const Row> rows, std::string_view wish, const Tensor& x, const Tensor& y) {
    const Row& row = choose(rows, wish, [&](const Row& r) { return r.supports(conv); });
    auto prepared = std::make_shared<Buffer>(affordable(i, row.prepared_bytes(conv)));
    row.prepare(conv, prepared->data());
    using In = std::conditional_t<std::is_same_v<Row, Variant>, uint8_t, float>;
    using Out = std::conditional_t<std::is_same_v<Row, Variant>, void, float>;
    return {&i, row.name, prepared->size(), affordable(i, row.scratch_bytes(conv)),
            [=, &row, &x, &y](std::byte* arena, std::byte* scratch) {
                auto* out = static_cast<Out*>(static_cast<void*>(arena + y.offset));
                run_alone(row, conv, prepared->data(), read<In>(arena, x), out, scratch);
            }};
}

const float* bias_or_null(const Instruction& i) { return i.data[1].empty() ? nullptr : array<float>(i, 1).data(); }

// The inverse of unpack_weight for rows that start as zeros.
void pack_weight(uint8_t* row, int64_t k, int32_t bits, int32_t w) {
    const auto u = static_cast<uint32_t>(bits == 8 ? w & 0xFF : bits == 1 ? (w + 1) / 2 : w + (1 << (bits - 1)));
    const int64_t at = k * bits;
    const uint32_t placed = u << (at & 7);
    row[at >> 3] |= static_cast<uint8_t>(placed);
    if ((at & 7) + bits > 8) row[(at >> 3) + 1] |= static_cast<uint8_t>(placed >> 8);
}

Step conv2d_step(const Instruction& i, const Tensor& x, const Tensor& y, std::string_view wish) {
    const int32_t kernel = i.attrs[0], stride = i.attrs[1], pad = i.attrs[2], groups = i.attrs[3];
    if (x.f32) {
        const float* w = array<float>(i, 0).data();
        const Conv2dF32 conv{x.c, x.h, x.w, y.c, kernel, stride, pad, groups, y.h, y.w, w, bias_or_null(i), i.activation};
        return tabled(i, conv, conv2d_f32_variants(), wish, x, y);
    }
    const uint8_t* w = array<uint8_t>(i, 0).data();
    const Requant requant = requant_of(i, y);
    const Conv2d conv{x.c, x.h, x.w, y.c, kernel, stride, pad, groups, y.h, y.w, i.wbits, x.bits, x.zero_point, w, requant};
    return tabled(i, conv, conv2d_variants(), wish, x, y);
}

// The four taps as 1x1 convolutions of the fastest kernel, each into scratch and from there to every second pixel of y.
// Codes in C4 and floats are both planes of 4-byte pixels, so one loop spreads either.
template <typename Conv, typename Row>
Step transposed(const Instruction& i, std::span<const Row> rows, std::string_view wish, const Tensor& x, const Tensor& y,
                std::array<Conv, 4> taps, std::shared_ptr<Buffer> weights) {
    const Row& row = choose(rows, wish, [&](const Row& r) { return std::all_of(taps.begin(), taps.end(), r.supports); });
    const size_t plane = static_cast<size_t>(y.bytes / 4 + 63) / 64 * 64;
    auto prepared = std::make_shared<std::vector<Buffer>>();
    size_t bytes = weights->size(), scratch_bytes = 0;
    for (const Conv& tap : taps) {                  // what a kernel prepares may depend on the weights
        prepared->emplace_back(affordable(i, row.prepared_bytes(tap)));
        row.prepare(tap, prepared->back().data());
        bytes += prepared->back().size();
        scratch_bytes = std::max(scratch_bytes, row.scratch_bytes(tap));
    }
    return {&i, row.name, bytes, affordable(i, plane + scratch_bytes), [=, &row, &x, &y](std::byte* arena, std::byte* scratch) {
                static_cast<void>(weights);         // the reference kernels read them there
                for (size_t t = 0; t < 4; ++t) {
                    using In = std::conditional_t<std::is_same_v<Row, Variant>, uint8_t, float>;
                    using Out = std::conditional_t<std::is_same_v<Row, Variant>, void, float>;
                    run_alone(row, taps[t], (*prepared)[t].data(), read<In>(arena, x), static_cast<Out*>(static_cast<void*>(scratch)),
                              scratch + plane);
                    const auto* from = reinterpret_cast<const uint32_t*>(scratch);
                    auto* to = write<uint32_t>(arena, y) + static_cast<int64_t>(t / 2) * y.w + static_cast<int64_t>(t % 2);
                    for (int64_t r = 0; r < y.bytes / 4 / (2 * y.w); ++r, from += x.w, to += 2 * y.w)
                        for (int64_t k = 0; k < x.w; ++k) to[2 * k] = from[k];
                }
            }};
}

Step conv_transpose2d_step(const Instruction& i, const Tensor& x, const Tensor& y, std::string_view wish) {
    const int64_t terms = x.c;
    if (x.f32) {
        auto weights = std::make_shared<Buffer>(affordable(i, static_cast<size_t>(16 * terms * y.c)));
        auto* w = reinterpret_cast<float*>(weights->data());
        for (int64_t k = 0; k < 4 * terms * y.c; ++k) w[k % 4 * terms * y.c + k / 4] = array<float>(i, 0)[static_cast<size_t>(k)];
        std::array<Conv2dF32, 4> taps;
        for (int64_t t = 0; t < 4; ++t)
            taps[static_cast<size_t>(t)] = {x.c, x.h, x.w, y.c, 1, 1, 0, 1, x.h, x.w, w + t * terms * y.c, bias_or_null(i), i.activation};
        return transposed(i, conv2d_f32_variants(), wish, x, y, taps, weights);
    }
    // Each tap's weights, packed with the bits they have in the file.
    const int64_t row_bytes = weight_row_bytes(4 * terms, i.wbits), tap_bytes = weight_row_bytes(terms, i.wbits) * y.c;
    auto weights = std::make_shared<Buffer>(affordable(i, static_cast<size_t>(4 * tap_bytes)));
    auto* packed = reinterpret_cast<uint8_t*>(weights->data());
    std::array<Conv2d, 4> taps;
    for (int64_t t = 0; t < 4; ++t) {
        uint8_t* tap = packed + t * tap_bytes;
        for (int64_t co = 0; co < y.c; ++co)
            for (int64_t ci = 0; ci < terms; ++ci)
                pack_weight(tap + co * (tap_bytes / y.c), ci, i.wbits,
                            unpack_weight(array<uint8_t>(i, 0).data() + co * row_bytes, 4 * ci + t, i.wbits));
        taps[static_cast<size_t>(t)] = {x.c, x.h, x.w, y.c, 1, 1, 0, 1, x.h, x.w, i.wbits, x.bits, x.zero_point, tap, requant_of(i, y)};
    }
    return transposed(i, conv2d_variants(), wish, x, y, taps, weights);
}

Step linear_step(const Instruction& i, const Tensor& x, const Tensor& y) {
    if (x.f32) {
        const float *w = array<float>(i, 0).data(), *b = bias_or_null(i);
        return {&i, "reference", 0, 0, [=, &i, &x, &y](std::byte* a, std::byte*) {
                    linear_f32(x.elements(), y.c, w, b, i.activation, read<float>(a, x), write<float>(a, y));
                }};
    }
    const Linear layer{x.c, x.pixels(), y.c, i.wbits, x.zero_point, array<uint8_t>(i, 0).data(), requant_of(i, y)};
    auto prepared = std::make_shared<Buffer>(affordable(i, linear_prepared_bytes(layer)));
    linear_prepare(layer, prepared->data());
    return {&i, "reference", prepared->size(), 0,
            [=, &x, &y](std::byte* a, std::byte*) { linear(layer, prepared->data(), read<uint8_t>(a, x), a + y.offset); }};
}

Step pair_step(const Instruction& i, const Glue& glue, const Tensor& a, const Tensor& b, const Tensor& y) {
    const bool broadcast = b.pixels() == 1 && a.pixels() != 1;
    if (a.f32) {
        const auto kernel = i.op == Op::kAdd ? glue.add_f32 : glue.mul_f32;
        return {&i, glue.name, 0, 0, [=, &a, &b, &y](std::byte* m, std::byte*) {
                    kernel(a.c, a.pixels(), broadcast, read<float>(m, a), read<float>(m, b), write<float>(m, y));
                }};
    }
    const auto kernel = i.op == Op::kAdd ? glue.add : glue.mul;
    auto requant = std::make_shared<PaddedRequant>(i, y);
    const Pair pair{a.c, a.pixels(), broadcast, i.attrs[0], i.attrs[1], a.zero_point, b.zero_point, **requant};
    return {&i, glue.name, 0, 0, [=, &a, &b, &y](std::byte* m, std::byte*) {
                static_cast<void>(requant);         // keeps the arrays of pair.requant alive
                kernel(pair, read<uint8_t>(m, a), read<uint8_t>(m, b), m + y.offset);
            }};
}

// One tensor moved channel by channel into another; nothing where it lies there already.
void move_channels(const Glue& glue, std::byte* arena, const Tensor& x, const Tensor& y, int32_t x_start, int32_t y_start, int32_t count) {
    if (x.f32)
        std::memcpy(write<float>(arena, y) + y_start * y.pixels(), read<float>(arena, x) + x_start * x.pixels(),
                    static_cast<size_t>(4 * count * x.pixels()));
    else
        glue.copy_channels({x_start, y_start, count, x.pixels()}, read<uint8_t>(arena, x), write<uint8_t>(arena, y));
}

Step concat_step(const Instruction& i, const Glue& glue, const Plan& plan, const Tensor& y) {
    struct Piece {
        const Tensor* x;
        int32_t start;
    };
    std::vector<Piece> copied;
    int32_t channel = 0;
    bool last_copied = false;
    for (const uint32_t t : i.inputs) {
        const Tensor& x = plan.tensors[t];
        last_copied = x.offset != alias_offset(y, channel);
        if (last_copied) copied.push_back({&x, channel});
        channel += x.c;
    }
    return {&i, glue.name, 0, 0, [=, &glue, &y](std::byte* arena, std::byte*) {
                for (const Piece& p : copied) move_channels(glue, arena, *p.x, y, 0, p.start, p.x->c);
                if (last_copied) clear_padding(arena, y);
            }};
}

Step slice_step(const Instruction& i, const Glue& glue, const Tensor& x, const Tensor& y) {
    const int32_t start = i.attrs[0];
    if (y.offset == alias_offset(x, start)) return {&i, glue.name, 0, 0, [](std::byte*, std::byte*) {}};
    return {&i, glue.name, 0, 0, [=, &glue, &x, &y](std::byte* arena, std::byte*) {
                move_channels(glue, arena, x, y, start, 0, y.c);
                clear_padding(arena, y);
            }};
}

Step upsample_step(const Instruction& i, const Glue& glue, const Tensor& x, const Tensor& y) {
    const int32_t factor = i.attrs[0];
    return {&i, glue.name, 0, 0, [=, &glue, &x, &y](std::byte* a, std::byte*) {
                if (x.f32)
                    glue.upsample_f32(x.c, x.h, x.w, factor, read<float>(a, x), write<float>(a, y));
                else
                    glue.upsample(x.c, x.h, x.w, factor, read<uint8_t>(a, x), write<uint8_t>(a, y));
            }};
}

Step maxpool_step(const Instruction& i, const Glue& glue, const Tensor& x, const Tensor& y) {
    const Pool pool{x.c, x.h, x.w, i.attrs[0], i.attrs[1], i.attrs[2], y.h, y.w};
    const auto scratch = static_cast<size_t>(maxpool_scratch_bytes(x.w, pool.pad));
    return {&i, glue.name, 0, affordable(i, scratch), [=, &glue, &x, &y](std::byte* a, std::byte* s) {
                if (x.f32)
                    glue.maxpool_f32(pool, read<float>(a, x), write<float>(a, y), s);
                else
                    glue.maxpool(pool, read<uint8_t>(a, x), write<uint8_t>(a, y), s);
            }};
}

Step avgpool_step(const Instruction& i, const Glue& glue, const Tensor& x, const Tensor& y) {
    if (x.f32)
        return {&i, glue.name, 0, 0, [=, &glue, &x, &y](std::byte* a, std::byte*) {
                    glue.global_avgpool_f32(x.c, x.pixels(), read<float>(a, x), write<float>(a, y));
                }};
    auto requant = std::make_shared<PaddedRequant>(i, y);
    return {&i, glue.name, 0, 0, [=, &glue, &x, &y](std::byte* a, std::byte*) {
                glue.global_avgpool(x.c, x.pixels(), x.zero_point, **requant, read<uint8_t>(a, x), a + y.offset);
            }};
}

Step codes_step(const Instruction& i, const Glue& glue, const Tensor& x, const Tensor& y) {
    if (i.op == Op::kQuantize) {
        const Scale s{y.c, y.pixels(), y.scale, y.zero_point, (1 << y.bits) - 1};
        return {&i, glue.name, 0, 0, [=, &glue, &x, &y](std::byte* a, std::byte*) {
                    glue.quantize(s, read<float>(a, x), write<uint8_t>(a, y));
                    clear_padding(a, y);
                }};
    }
    if (i.op == Op::kDequantize) {
        const Scale s{x.c, x.pixels(), x.scale, x.zero_point, (1 << x.bits) - 1};
        return {&i, glue.name, 0, 0,
                [=, &glue, &x, &y](std::byte* a, std::byte*) { glue.dequantize(s, read<uint8_t>(a, x), write<float>(a, y)); }};
    }
    if (i.epilogue == EpilogueCode::kNone) {
        const uint8_t* table = array<uint8_t>(i, 0).data();
        return {&i, glue.name, 0, 0,
                [=, &glue, &x, &y](std::byte* a, std::byte*) { glue.lookup(x.bytes, table, read<uint8_t>(a, x), write<uint8_t>(a, y)); }};
    }
    auto requant = std::make_shared<PaddedRequant>(i, y);
    return {&i, glue.name, 0, 0, [=, &glue, &x, &y](std::byte* a, std::byte*) {
                glue.requantize(x.c, x.pixels(), x.zero_point, **requant, read<uint8_t>(a, x), a + y.offset);
            }};
}

Axis axis_of(const Tensor& t, int32_t axis) {
    const int64_t d[3] = {t.c, t.h, t.w};
    return {axis == 0 ? 1 : axis == 1 ? d[0] : d[0] * d[1], d[axis], axis == 2 ? 1 : axis == 1 ? d[2] : d[1] * d[2]};
}

Step floats_step(const Instruction& i, const Glue& glue, const std::vector<const Tensor*>& in, const Tensor& y) {
    const Tensor& x = *in[0];
    if (i.op == Op::kActivation)
        return {&i, glue.name, 0, 0, [=, &i, &glue, &x, &y](std::byte* a, std::byte*) {
                    glue.activation_f32(i.activation, x.elements(), read<float>(a, x), write<float>(a, y));
                }};
    if (i.op == Op::kMatmul) {
        const Tensor& b = *in[1];
        const Matmul m{x.c, x.h, x.w, y.w, i.attrs[0] == 1};
        return {&i, "reference", 0, 0,
                [=, &x, &b, &y](std::byte* a, std::byte*) { matmul(m, read<float>(a, x), read<float>(a, b), write<float>(a, y)); }};
    }
    const Axis axis = axis_of(x, i.attrs[0]);
    if (i.op == Op::kSoftmax)
        return {&i, "reference", 0, 0, [=, &x, &y](std::byte* a, std::byte*) { softmax(axis, read<float>(a, x), write<float>(a, y)); }};
    float eps;
    std::memcpy(&eps, &i.attrs[1], sizeof eps);
    const float *gamma = array<float>(i, 0).data(), *beta = array<float>(i, 1).data();
    return {&i, "reference", 0, 0,
            [=, &x, &y](std::byte* a, std::byte*) { layernorm(axis, eps, gamma, beta, read<float>(a, x), write<float>(a, y)); }};
}

Step decode_step(const Instruction& i, const Glue& glue, const std::vector<const Tensor*>& in, const Tensor& y) {
    return {&i, glue.name, 0, 0, [=, &i, &glue, &y](std::byte* arena, std::byte*) {
                float* out = write<float>(arena, y);
                for (size_t k = 0; k < in.size(); k += 2) {
                    const Tensor &box = *in[k], &cls = *in[k + 1];
                    const auto stride = static_cast<int32_t>(array<uint32_t>(i, 0)[k / 2]);
                    glue.decode_level({read<float>(arena, box), read<float>(arena, cls), box.pixels(), box.w, stride}, i.attrs[0],
                                      i.attrs[1], y.h, out);
                    out += box.pixels();
                }
            }};
}

Step make_step(const Plan& plan, const Instruction& i, std::string_view wish) {
    const Glue& glue = choose(glue_variants(), wish, [](const Glue&) { return true; });
    std::vector<const Tensor*> in;
    for (const uint32_t t : i.inputs) in.push_back(&plan.tensors[t]);
    const Tensor &x = *in[0], &y = plan.tensors[i.output];
    switch (i.op) {
        case Op::kConv2d: return conv2d_step(i, x, y, wish);
        case Op::kConvTranspose2d: return conv_transpose2d_step(i, x, y, wish);
        case Op::kLinear: return linear_step(i, x, y);
        case Op::kAdd:
        case Op::kMul: return pair_step(i, glue, x, *in[1], y);
        case Op::kConcat: return concat_step(i, glue, plan, y);
        case Op::kSlice: return slice_step(i, glue, x, y);
        case Op::kUpsample: return upsample_step(i, glue, x, y);
        case Op::kMaxpool: return maxpool_step(i, glue, x, y);
        case Op::kGlobalAvgpool: return avgpool_step(i, glue, x, y);
        case Op::kRequantize:
        case Op::kQuantize:
        case Op::kDequantize: return codes_step(i, glue, x, y);
        case Op::kDecode: return decode_step(i, glue, in, y);
        default: return floats_step(i, glue, in, y);
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

std::vector<Step> make_steps(const Plan& plan, std::string_view variant) {
    std::vector<Step> steps;
    for (const Instruction& i : plan.instructions) steps.push_back(make_step(plan, i, variant));
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
