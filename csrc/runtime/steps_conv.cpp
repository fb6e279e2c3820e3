// Steps of the layers with weights.
#include <algorithm>
#include <array>
#include <type_traits>

#include "../kernels/conv2d/kernel.h"
#include "../kernels/conv2d_f32/kernel.h"
#include "../kernels/linear/kernel.h"
#include "steps.h"

namespace edgenas {
namespace {

template <typename Conv>
int64_t multiply_adds(const Conv& c) {
    return int64_t{c.h_out} * c.w_out * c.c_out * (c.c_in / c.groups) * c.kernel * c.kernel;
}

// The two phases of a kernel table row. y: the output, null where that is the start of scratch; the row's own scratch is at `skip`.
template <typename Conv, typename Row>
void append_kernel(std::vector<Phase>& phases, const Row& row, const Conv& conv, const void* prepared, const Tensor& x, const Tensor* y,
                   size_t skip) {
    using In = std::conditional_t<std::is_same_v<Row, Variant>, uint8_t, float>;
    using Out = std::conditional_t<std::is_same_v<Row, Variant>, void, float>;
    if (row.scratch_bytes(conv) > 0)                // else there is nowhere to pack to
        phases.push_back([=, &row, &x](std::byte* arena, std::byte* scratch, Share share) {
            row.pack(conv, prepared, read<In>(arena, x), scratch + skip, share);
        });
    phases.push_back([=, &row, &x](std::byte* arena, std::byte* scratch, Share share) {
        auto* out = static_cast<Out*>(static_cast<void*>(y != nullptr ? arena + y->offset : scratch));
        row.compute(conv, prepared, read<In>(arena, x), out, scratch + skip, share);
    });
}

// A step around a kernel table row: conv2d and conv2d_f32.
template <typename Conv, typename Row>
Step tabled(const Instruction& i, const Conv& conv, std::span<const Row> rows, std::string_view wish, const Tensor& x, const Tensor& y) {
    const Row& row = choose(rows, wish, [&](const Row& r) { return r.supports(conv); });
    const auto prepared = std::make_shared<Buffer>(affordable(i, row.prepared_bytes(conv)));
    row.prepare(conv, prepared->data());
    Step step{&i, row.name, prepared->size(), affordable(i, row.scratch_bytes(conv)), multiply_adds(conv), {}, prepared};
    append_kernel(step.phases, row, conv, prepared->data(), x, &y, 0);
    return step;
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

// The four taps as 1x1 convolutions of the fastest kernel, each into scratch and from there to every second pixel of y.
// Codes in C4 and floats are both planes of 4-byte pixels, so one loop spreads either.
template <typename Conv, typename Row>
Step transposed(const Instruction& i, std::span<const Row> rows, std::string_view wish, const Tensor& x, const Tensor& y,
                const std::array<Conv, 4>& taps, Buffer weights) {
    const Row& row = choose(rows, wish, [&](const Row& r) { return std::all_of(taps.begin(), taps.end(), r.supports); });
    const size_t plane = static_cast<size_t>(y.bytes / 4 + 63) / 64 * 64;
    Step step{&i, row.name, weights.size(), 0, 4 * multiply_adds(taps[0]), {}, nullptr};
    std::vector<Buffer> prepared;
    for (size_t t = 0; t < 4; ++t) {                // what a kernel prepares may depend on the weights
        prepared.emplace_back(affordable(i, row.prepared_bytes(taps[t])));
        row.prepare(taps[t], prepared.back().data());
        step.prepared_bytes += prepared.back().size();
        step.scratch_bytes = std::max(step.scratch_bytes, affordable(i, plane + row.scratch_bytes(taps[t])));
        append_kernel(step.phases, row, taps[t], prepared.back().data(), x, nullptr, plane);
        step.phases.push_back([=, &x, &y](std::byte* arena, std::byte* scratch, Share share) {
            const auto rows_in = static_cast<int32_t>(y.bytes / 4 / (2 * y.w));
            const int64_t first = begin_of(share, rows_in), last = end_of(share, rows_in);
            const auto* from = reinterpret_cast<const uint32_t*>(scratch) + first * x.w;
            auto* to = write<uint32_t>(arena, y) + (2 * first + static_cast<int64_t>(t / 2)) * y.w + static_cast<int64_t>(t % 2);
            for (int64_t r = first; r < last; ++r, from += x.w, to += 2 * y.w)
                for (int64_t k = 0; k < x.w; ++k) to[2 * k] = from[k];
        });
    }
    prepared.push_back(std::move(weights));         // the reference kernels read them there
    step.keeps = std::make_shared<std::vector<Buffer>>(std::move(prepared));
    return step;
}

}  // namespace

Step conv2d_step(const Instruction& i, const Making& m, const Tensor& x, const Tensor& y) {
    const int32_t kernel = i.attrs[0], stride = i.attrs[1], pad = i.attrs[2], groups = i.attrs[3];
    if (x.f32) {
        const float* w = array<float>(i, 0).data();
        const Conv2dF32 conv{x.c, x.h, x.w, y.c, kernel, stride, pad, groups, y.h, y.w, w, bias_or_null(i), i.activation};
        return tabled(i, conv, conv2d_f32_variants(), m.wish, x, y);
    }
    const uint8_t* w = array<uint8_t>(i, 0).data();
    const Requant requant = requant_of(i, y);
    const Conv2d conv{x.c, x.h, x.w, y.c, kernel, stride, pad, groups, y.h, y.w, i.wbits, x.bits, x.zero_point, w, requant};
    return tabled(i, conv, conv2d_variants(), m.wish, x, y);
}

Step conv_transpose2d_step(const Instruction& i, const Making& m, const Tensor& x, const Tensor& y) {
    const int64_t terms = x.c;
    if (x.f32) {
        Buffer weights(affordable(i, static_cast<size_t>(16 * terms * y.c)));
        auto* w = reinterpret_cast<float*>(weights.data());
        for (int64_t k = 0; k < 4 * terms * y.c; ++k) w[k % 4 * terms * y.c + k / 4] = array<float>(i, 0)[static_cast<size_t>(k)];
        std::array<Conv2dF32, 4> taps;
        for (int64_t t = 0; t < 4; ++t)
            taps[static_cast<size_t>(t)] = {x.c, x.h, x.w, y.c, 1, 1, 0, 1, x.h, x.w, w + t * terms * y.c, bias_or_null(i), i.activation};
        return transposed(i, conv2d_f32_variants(), m.wish, x, y, taps, std::move(weights));
    }
    // Each tap's weights, packed with the bits they have in the file.
    const int64_t row_bytes = weight_row_bytes(4 * terms, i.wbits), tap_bytes = weight_row_bytes(terms, i.wbits) * y.c;
    Buffer weights(affordable(i, static_cast<size_t>(4 * tap_bytes)));
    auto* packed = reinterpret_cast<uint8_t*>(weights.data());
    std::array<Conv2d, 4> taps;
    for (int64_t t = 0; t < 4; ++t) {
        uint8_t* tap = packed + t * tap_bytes;
        for (int64_t co = 0; co < y.c; ++co)
            for (int64_t ci = 0; ci < terms; ++ci)
                pack_weight(tap + co * (tap_bytes / y.c), ci, i.wbits,
                            unpack_weight(array<uint8_t>(i, 0).data() + co * row_bytes, 4 * ci + t, i.wbits));
        taps[static_cast<size_t>(t)] = {x.c, x.h, x.w, y.c, 1, 1, 0, 1, x.h, x.w, i.wbits, x.bits, x.zero_point, tap, requant_of(i, y)};
    }
    return transposed(i, conv2d_variants(), m.wish, x, y, taps, std::move(weights));
}

Step linear_step(const Instruction& i, const Tensor& x, const Tensor& y) {
    const int64_t work = x.elements() * y.c;
    if (x.f32) {
        const float *w = array<float>(i, 0).data(), *b = bias_or_null(i);
        return in_one_phase(i, work, [=, &i, &x, &y](std::byte* a, Share share) {
            linear_f32(x.elements(), y.c, w, b, i.activation, read<float>(a, x), write<float>(a, y), share);
        });
    }
    const Linear layer{x.c, x.pixels(), y.c, i.wbits, x.zero_point, array<uint8_t>(i, 0).data(), requant_of(i, y)};
    const auto prepared = std::make_shared<Buffer>(affordable(i, linear_prepared_bytes(layer)));
    linear_prepare(layer, prepared->data());
    Step step = in_one_phase(i, work, [=, &x, &y, from = prepared->data()](std::byte* a, Share share) {
        linear(layer, from, read<uint8_t>(a, x), a + y.offset, share);
    });
    step.prepared_bytes = prepared->size(), step.keeps = prepared;
    return step;
}

}  // namespace edgenas
