// Steps of the operators between the layers with weights. All but those of attention are divided into whole groups of four channels.
#include <algorithm>
#include <cstring>

#include "../kernels/attention/kernel.h"
#include "steps.h"

namespace edgenas {
namespace {

using edge::EpilogueCode;
using edge::Op;

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

    // As seen by a kernel that is given the channels from `first` on.
    Requant from(int32_t first) const {
        Requant r = requant_;
        if (r.kind == Epilogue::kFloat) r.scale += first, r.offset += first;
        else if (r.kind == Epilogue::kThreshold) r.thresholds += int64_t{first} * (r.levels - 1), r.sign += first;
        else r.multiplier += first, r.bias += first;
        return r;
    }

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

// The channels of a share: whole groups of four, so that the same bytes of codes and of floats belong to them.
struct Piece {
    int32_t first, count;
};

Piece piece_of(Share share, int32_t channels) {
    const int32_t groups = (channels + 3) / 4, first = 4 * begin_of(share, groups);
    return {first, std::max(0, std::min(4 * end_of(share, groups), channels) - first)};
}

template <typename T>
const T* read(std::byte* arena, const Tensor& t, Piece p) {
    return read<T>(arena, t) + p.first * t.pixels();
}

template <typename T>
T* write(std::byte* arena, const Tensor& t, Piece p) {
    return write<T>(arena, t) + p.first * t.pixels();
}

// The same for an output whose type an epilogue decides.
void* written(std::byte* arena, const Tensor& t, Piece p) { return arena + t.offset + p.first * t.pixels() * (t.f32 ? 4 : 1); }

// A step of one phase in which a worker does the channels of its share: run(arena, scratch, piece).
template <typename Run>
Step by_channels(const Instruction& i, const Glue& glue, const Tensor& x, const Tensor& y, Run run) {
    const auto phase = [=, c = x.c](std::byte* arena, std::byte* scratch, Share share) {
        const Piece p = piece_of(share, c);
        if (p.count > 0) run(arena, scratch, p, share);
    };
    return {&i, glue.name, 0, 0, kWorkOfByte * std::max(x.bytes, y.bytes), {phase}, nullptr};
}

// The padding lanes of the last group, for operators that write channel by channel.
void clear_padding(std::byte* arena, const Tensor& t) {
    if (t.f32 || t.c % 4 == 0) return;
    auto* group = write<uint8_t>(arena, t) + t.c / 4 * 4 * t.pixels();
    for (int64_t k = 0; k < t.pixels(); ++k)
        for (int32_t lane = t.c % 4; lane < 4; ++lane) group[k * 4 + lane] = 0;
}

// One tensor moved channel by channel into another.
void move_channels(const Glue& glue, std::byte* arena, const Tensor& x, const Tensor& y, int32_t x_start, int32_t y_start, int32_t count) {
    if (x.f32)
        std::memcpy(write<float>(arena, y, {y_start, 0}), read<float>(arena, x, {x_start, 0}), static_cast<size_t>(4 * count * x.pixels()));
    else
        glue.copy_channels({x_start, y_start, count, x.pixels()}, read<uint8_t>(arena, x), write<uint8_t>(arena, y));
}

}  // namespace

Step pair_step(const Instruction& i, const Making& m, const Tensor& a, const Tensor& b, const Tensor& y) {
    const bool broadcast = b.pixels() == 1 && a.pixels() != 1;
    if (a.f32) {
        const auto kernel = i.op == Op::kAdd ? m.glue.add_f32 : m.glue.mul_f32;
        return by_channels(i, m.glue, a, y, [=, &a, &b, &y](std::byte* arena, std::byte*, Piece p, Share) {
            kernel(p.count, a.pixels(), broadcast, read<float>(arena, a, p), read<float>(arena, b, p), write<float>(arena, y, p));
        });
    }
    const auto kernel = i.op == Op::kAdd ? m.glue.add : m.glue.mul;
    const auto requant = std::make_shared<PaddedRequant>(i, y);
    return by_channels(i, m.glue, a, y, [=, &i, &a, &b, &y](std::byte* arena, std::byte*, Piece p, Share) {
        const Pair pair{p.count, a.pixels(), broadcast, i.attrs[0], i.attrs[1], a.zero_point, b.zero_point, requant->from(p.first)};
        kernel(pair, read<uint8_t>(arena, a, p), read<uint8_t>(arena, b, p), written(arena, y, p));
    });
}

Step concat_step(const Instruction& i, const Making& m, const Tensor& y) {
    struct Part {
        const Tensor* x;
        int32_t start;
    };
    std::vector<Part> copied;               // the others lie in y already
    int32_t channel = 0;
    bool last_copied = false;
    for (const uint32_t t : i.inputs) {
        const Tensor& x = m.plan.tensors[t];
        last_copied = x.offset != alias_offset(y, channel);
        if (last_copied) copied.push_back({&x, channel});
        channel += x.c;
    }
    if (copied.empty()) return {&i, m.glue.name, 0, 0, 0, {}, nullptr};
    return by_channels(i, m.glue, y, y, [=, &glue = m.glue, &y](std::byte* arena, std::byte*, Piece piece, Share) {
        for (const Part& p : copied) {
            const int32_t first = std::max(piece.first, p.start), last = std::min(piece.first + piece.count, p.start + p.x->c);
            if (first < last) move_channels(glue, arena, *p.x, y, first - p.start, first, last - first);
        }
        if (last_copied && piece.first + piece.count == y.c) clear_padding(arena, y);
    });
}

Step slice_step(const Instruction& i, const Making& m, const Tensor& x, const Tensor& y) {
    const int32_t start = i.attrs[0];
    if (y.offset == alias_offset(x, start)) return {&i, m.glue.name, 0, 0, 0, {}, nullptr};
    return by_channels(i, m.glue, y, y, [=, &glue = m.glue, &x, &y](std::byte* arena, std::byte*, Piece p, Share) {
        move_channels(glue, arena, x, y, start + p.first, p.first, p.count);
        if (p.first + p.count == y.c) clear_padding(arena, y);
    });
}

Step upsample_step(const Instruction& i, const Making& m, const Tensor& x, const Tensor& y) {
    const int32_t factor = i.attrs[0];
    return by_channels(i, m.glue, x, y, [=, &glue = m.glue, &x, &y](std::byte* a, std::byte*, Piece p, Share) {
        if (x.f32) glue.upsample_f32(p.count, x.h, x.w, factor, read<float>(a, x, p), write<float>(a, y, p));
        else glue.upsample(p.count, x.h, x.w, factor, read<uint8_t>(a, x, p), write<uint8_t>(a, y, p));
    });
}

Step maxpool_step(const Instruction& i, const Making& m, const Tensor& x, const Tensor& y) {
    const auto scratch = (maxpool_scratch_bytes(x.w, i.attrs[2]) + 63) / 64 * 64;       // each share has its own
    Step step = by_channels(i, m.glue, x, y, [=, &i, &glue = m.glue, &x, &y](std::byte* a, std::byte* s, Piece p, Share share) {
        const Pool pool{p.count, x.h, x.w, i.attrs[0], i.attrs[1], i.attrs[2], y.h, y.w};
        s += share.index * scratch;
        if (x.f32) glue.maxpool_f32(pool, read<float>(a, x, p), write<float>(a, y, p), s);
        else glue.maxpool(pool, read<uint8_t>(a, x, p), write<uint8_t>(a, y, p), s);
    });
    step.scratch_bytes = affordable(i, static_cast<size_t>(scratch * kMostShares * m.threads));
    return step;
}

Step avgpool_step(const Instruction& i, const Making& m, const Tensor& x, const Tensor& y) {
    if (x.f32)
        return by_channels(i, m.glue, x, y, [=, &glue = m.glue, &x, &y](std::byte* a, std::byte*, Piece p, Share) {
            glue.global_avgpool_f32(p.count, x.pixels(), read<float>(a, x, p), write<float>(a, y, p));
        });
    const auto requant = std::make_shared<PaddedRequant>(i, y);
    return by_channels(i, m.glue, x, y, [=, &glue = m.glue, &x, &y](std::byte* a, std::byte*, Piece p, Share) {
        glue.global_avgpool(p.count, x.pixels(), x.zero_point, requant->from(p.first), read<uint8_t>(a, x, p), written(a, y, p));
    });
}

Step codes_step(const Instruction& i, const Making& m, const Tensor& x, const Tensor& y) {
    if (i.op == Op::kQuantize)
        return by_channels(i, m.glue, x, y, [=, &glue = m.glue, &x, &y](std::byte* a, std::byte*, Piece p, Share) {
            const Scale s{p.count, y.pixels(), y.scale, y.zero_point, (1 << y.bits) - 1};
            glue.quantize(s, read<float>(a, x, p), write<uint8_t>(a, y, p));
            if (p.first + p.count == y.c) clear_padding(a, y);
        });
    if (i.op == Op::kDequantize)
        return by_channels(i, m.glue, x, y, [=, &glue = m.glue, &x, &y](std::byte* a, std::byte*, Piece p, Share) {
            const Scale s{p.count, x.pixels(), x.scale, x.zero_point, (1 << x.bits) - 1};
            glue.dequantize(s, read<uint8_t>(a, x, p), write<float>(a, y, p));
        });
    if (i.epilogue == EpilogueCode::kNone) {
        const uint8_t* table = array<uint8_t>(i, 0).data();
        return by_channels(i, m.glue, x, y, [=, &glue = m.glue, &x, &y](std::byte* a, std::byte*, Piece p, Share) {
            const int64_t bytes = (p.count + 3) / 4 * 4 * x.pixels();
            glue.lookup(bytes, table, read<uint8_t>(a, x, p), write<uint8_t>(a, y, p));
        });
    }
    const auto requant = std::make_shared<PaddedRequant>(i, y);
    return by_channels(i, m.glue, x, y, [=, &glue = m.glue, &x, &y](std::byte* a, std::byte*, Piece p, Share) {
        glue.requantize(p.count, x.pixels(), x.zero_point, requant->from(p.first), read<uint8_t>(a, x, p), written(a, y, p));
    });
}

namespace {

Axis axis_of(const Tensor& t, int32_t axis) {
    const int64_t d[3] = {t.c, t.h, t.w};
    return {axis == 0 ? 1 : axis == 1 ? d[0] : d[0] * d[1], d[axis], axis == 2 ? 1 : axis == 1 ? d[2] : d[1] * d[2]};
}

}  // namespace

Step floats_step(const Instruction& i, const Making& m, const std::vector<const Tensor*>& in, const Tensor& y) {
    const Tensor& x = *in[0];
    if (i.op == Op::kActivation)
        return by_channels(i, m.glue, x, y, [=, &i, &glue = m.glue, &x, &y](std::byte* a, std::byte*, Piece p, Share) {
            glue.activation_f32(i.activation, p.count * x.pixels(), read<float>(a, x, p), write<float>(a, y, p));
        });
    if (i.op == Op::kMatmul) {
        const Tensor& b = *in[1];
        const Matmul product{x.c, x.h, x.w, y.w, i.attrs[0] == 1};
        return in_one_phase(i, x.elements() * y.w, [=, &x, &b, &y](std::byte* a, Share share) {
            matmul(product, read<float>(a, x), read<float>(a, b), write<float>(a, y), share);
        });
    }
    const Axis axis = axis_of(x, i.attrs[0]);
    if (i.op == Op::kSoftmax)
        return in_one_phase(i, kWorkOfByte * x.bytes, [=, &x, &y](std::byte* a, Share share) {
            softmax(axis, read<float>(a, x), write<float>(a, y), share);
        });
    float eps;
    std::memcpy(&eps, &i.attrs[1], sizeof eps);
    const float *gamma = array<float>(i, 0).data(), *beta = array<float>(i, 1).data();
    return in_one_phase(i, kWorkOfByte * x.bytes, [=, &x, &y](std::byte* a, Share share) {
        layernorm(axis, eps, gamma, beta, read<float>(a, x), write<float>(a, y), share);
    });
}

// Each level is divided by cells.
Step decode_step(const Instruction& i, const Making& m, const std::vector<const Tensor*>& in, const Tensor& y) {
    const auto phase = [=, &i, &glue = m.glue, &y](std::byte* arena, std::byte*, Share share) {
        float* out = write<float>(arena, y);
        for (size_t k = 0; k < in.size(); k += 2) {
            const Tensor &box = *in[k], &cls = *in[k + 1];
            const auto stride = static_cast<int32_t>(array<uint32_t>(i, 0)[k / 2]), cells = static_cast<int32_t>(box.pixels());
            const Level level{read<float>(arena, box), read<float>(arena, cls), cells, box.w, stride,
                              begin_of(share, cells), end_of(share, cells)};
            glue.decode_level(level, i.attrs[0], i.attrs[1], y.h, out);
            out += cells;
        }
    };
    return {&i, m.glue.name, 0, 0, kWorkOfByte * 4 * y.h * (4 * i.attrs[0] + i.attrs[1]), {phase}, nullptr};
}

}  // namespace edgenas
