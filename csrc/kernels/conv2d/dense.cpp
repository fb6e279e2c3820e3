#include "dense.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace edgenas {
namespace {

constexpr int64_t aligned(int64_t n) { return (n + 63) / 64 * 64; }

// One block, unpacked.
struct Unpacked {
    int32_t plane, steps;
    std::vector<int8_t> weights;            // [steps][channels][4]
    std::vector<int32_t> sums, sizes;       // [channels], sum of the weights and of their absolute values
};

Unpacked unpack_block(const Conv2d& c, const DenseShape& shape, int32_t b) {
    const int32_t in = c.c_in / c.groups, out = c.c_out / c.groups, taps = c.kernel * c.kernel;
    const int32_t begin = b * shape.channels, end = std::min(begin + shape.channels, c.c_out);
    const int32_t first_plane = begin / out * in / 4, last_plane = (((end - 1) / out + 1) * in + 3) / 4;
    const std::vector<int32_t> zeros(static_cast<size_t>(shape.channels));
    Unpacked u{first_plane, (last_plane - first_plane) * taps, {}, zeros, zeros};
    u.weights.resize(static_cast<size_t>(u.steps) * shape.channels * 4);
    const int64_t row = weight_row_bytes(static_cast<int64_t>(in) * taps, c.wbits);
    for (int32_t co = begin; co < end; ++co)
        for (int32_t i = 0; i < in; ++i)
            for (int32_t t = 0; t < taps; ++t) {
                const int32_t channel = co / out * in + i;
                const int64_t step = static_cast<int64_t>(channel / 4 - first_plane) * taps + t;
                const int32_t w = unpack_weight(c.weights + co * row, static_cast<int64_t>(i) * taps + t, c.wbits);
                u.weights[static_cast<size_t>((step * shape.channels + co - begin) * 4 + channel % 4)] = static_cast<int8_t>(w);
                u.sums[static_cast<size_t>(co - begin)] += w;
                u.sizes[static_cast<size_t>(co - begin)] += std::abs(w);
            }
    return u;
}

// The largest sum and the smallest one that a pair of weights can add, in units of the largest code.
struct PairRange {
    int32_t up, down;
};

PairRange pair_range(const int8_t* w) {
    return {std::max<int32_t>(w[0], 0) + std::max<int32_t>(w[1], 0), std::max(-w[0], 0) + std::max(-w[1], 0)};
}

int32_t pair_limit(const Conv2d& c) { return 32767 / ((1 << c.abits) - 1); }

// Steps after which int16 sums have to be widened: before any sum of any channel of the block could leave int16, whatever the
// codes are. range(w) is what a sum can grow by in one step, `together` weights belong to one sum. Empty if even one step does
// not fit.
template <class Range>
std::vector<int32_t> flush_points(const Unpacked& u, int32_t channels, int32_t limit, int32_t together, Range range) {
    std::vector<PairRange> sum(static_cast<size_t>(channels * 4 / together));
    std::vector<int32_t> points;
    for (int32_t s = 0; s < u.steps; ++s) {
        const int8_t* w = u.weights.data() + static_cast<int64_t>(s) * channels * 4;
        bool overflow = false;
        for (size_t p = 0; p < sum.size(); ++p) {
            const PairRange r = range(w + static_cast<size_t>(together) * p);
            if (r.up > limit || r.down > limit) return {};
            overflow = overflow || sum[p].up + r.up > limit || sum[p].down + r.down > limit;
        }
        if (overflow) {
            points.push_back(s);
            std::fill(sum.begin(), sum.end(), PairRange{0, 0});
        }
        for (size_t p = 0; p < sum.size(); ++p) {
            const PairRange r = range(w + static_cast<size_t>(together) * p);
            sum[p].up += r.up, sum[p].down += r.down;
        }
    }
    points.push_back(u.steps);
    return points;
}

bool flips(const Conv2d& c, const DenseShape& shape) { return shape.signed_codes && c.abits == 8; }

std::vector<int32_t> flush_points(const Conv2d& c, const DenseShape& shape, const Unpacked& u) {
    if (shape.saturating) return flush_points(u, shape.channels, pair_limit(c), 2, pair_range);
    if (!shape.single_sums) return {};
    if (flips(c, shape))                    // codes -128 .. 127: either sign of weight goes either way
        return flush_points(u, shape.channels, 32767 / 128, 1, [](const int8_t* w) { return PairRange{std::abs(*w), std::abs(*w)}; });
    return flush_points(u, shape.channels, 32767 / ((1 << c.abits) - 1), 1,
                        [](const int8_t* w) { return PairRange{std::max<int32_t>(*w, 0), std::max(-*w, 0)}; });
}

// Halves the pairs that could saturate and returns the other halves of channel q.
std::vector<DenseExtra> split_pairs(Unpacked& u, int32_t channels, int32_t q, int32_t limit, const int32_t* taps) {
    std::vector<DenseExtra> extras;
    for (int32_t s = 0; s < u.steps; ++s) {
        int8_t* w = u.weights.data() + (static_cast<int64_t>(s) * channels + q) * 4;
        int8_t rest[4] = {0, 0, 0, 0};
        bool split = false;
        for (int32_t p = 0; p < 4; p += 2) {
            const PairRange r = pair_range(w + p);
            if (r.up <= limit && r.down <= limit) continue;
            split = true;
            for (int32_t i = p; i < p + 2; ++i) {           // |half| <= 64, so both halves of a pair fit 128 * 255 < 2^15
                rest[i] = static_cast<int8_t>(w[i] / 2);
                w[i] = static_cast<int8_t>(w[i] - rest[i]);
            }
        }
        if (!split) continue;
        DenseExtra extra{taps[s], 0};
        std::memcpy(&extra.weights, rest, 4);
        extras.push_back(extra);
    }
    return extras;
}

// Everything of one layer before it is laid out in the buffer.
struct Parts {
    std::vector<int32_t> taps, starts, sizes, trees, flushes, multipliers;
    std::vector<int64_t> biases;
    int32_t shift = 0;
    std::vector<DenseBlock> blocks;
    std::vector<DenseExtra> extras;
    std::vector<FloatScale> scales;
    std::vector<int8_t> weights;
    bool scaled = true;                     // all channels so far have a FloatScale
};

std::vector<int32_t> tap_list(const Conv2d& c, const Planes& p, int32_t steps) {
    std::vector<int32_t> taps(static_cast<size_t>(steps));
    const int32_t area = c.kernel * c.kernel;
    for (int32_t s = 0; s < steps; ++s)
        taps[static_cast<size_t>(s)] = 4 * (s / area * p.size + tap_offset(p, s % area / c.kernel, s % area % c.kernel));
    return taps;
}

// A flush costs about as much as two narrow steps save, so short runs are not worth it.
constexpr int32_t kShortestRun = 4;

// Those of the channels of one block from `first` on, as far as they exist.
bool append_scales(const Conv2d& c, const Unpacked& u, int32_t first, std::vector<FloatScale>& scales) {
    bool proven = c.requant.kind == Epilogue::kLinear || c.requant.kind == Epilogue::kTable;
    for (size_t q = 0; q < u.sizes.size(); ++q) {
        const int32_t co = first + static_cast<int32_t>(q);
        FloatScale scale{0, 0};
        const int64_t largest = static_cast<int64_t>(u.sizes[q]) * ((1 << c.abits) - 1);
        if (proven && co < c.c_out) proven = float_scale(c.requant, co, -c.zero_point * u.sums[q], largest, scale);
        scales.push_back(scale);
    }
    return proven;
}

bool worth_narrow(const std::vector<std::vector<int32_t>>& points, const std::vector<Unpacked>& blocks) {
    int64_t steps = 0, flushes = 0;
    for (size_t b = 0; b < blocks.size(); ++b) {
        if (points[b].empty()) return false;
        steps += blocks[b].steps, flushes += static_cast<int64_t>(points[b].size());
    }
    return steps >= kShortestRun * flushes || flushes == static_cast<int64_t>(blocks.size());
}

// The multipliers and biases, shifted left so that the shift becomes 32, if no product can then leave 64 bits.
void scale_multipliers(const Conv2d& c, Parts& parts) {
    const Requant& r = c.requant;
    if (r.kind != Epilogue::kLinear && r.kind != Epilogue::kTable) return;
    parts.multipliers.assign(r.multiplier, r.multiplier + c.c_out);
    parts.biases.assign(r.bias, r.bias + c.c_out);
    parts.shift = r.shift;
    if (r.shift >= 32) return;
    const int64_t factor = int64_t{1} << (32 - r.shift), largest_code = std::max(c.zero_point, (1 << c.abits) - 1 - c.zero_point);
    for (int32_t i = 0; i < c.c_out; ++i) {
        const int64_t multiplier = std::abs(static_cast<int64_t>(r.multiplier[i])), limit = INT64_MAX / factor;
        const int64_t bias = r.bias[i] < 0 ? -(r.bias[i] + 1) : r.bias[i];
        if (multiplier > INT32_MAX / factor || bias >= limit) return;
        if (multiplier != 0 && parts.sizes[static_cast<size_t>(i)] * largest_code > (limit - 1 - bias) / multiplier) return;
    }
    parts.shift = 32;
    for (int32_t& m : parts.multipliers) m = static_cast<int32_t>(m * factor);
    for (int64_t& b : parts.biases) b *= factor;
}

Parts build(const Conv2d& c, const DenseShape& shape, const Planes& planes, bool& narrow) {
    Parts parts;
    std::vector<Unpacked> unpacked;
    std::vector<std::vector<int32_t>> points;
    int32_t longest = 0;
    for (int32_t b = 0; b * shape.channels < c.c_out; ++b) {
        unpacked.push_back(unpack_block(c, shape, b));
        longest = std::max(longest, unpacked.back().steps);
        points.push_back(flush_points(c, shape, unpacked.back()));
    }
    narrow = shape.single_sums || (shape.saturating && worth_narrow(points, unpacked));
    const int32_t zero = c.zero_point - (flips(c, shape) ? 128 : 0);
    parts.taps = tap_list(c, planes, longest);
    for (size_t b = 0; b < unpacked.size(); ++b) {
        Unpacked& u = unpacked[b];
        DenseBlock block{u.plane, u.steps, static_cast<int64_t>(parts.weights.size()), static_cast<int32_t>(parts.flushes.size()), {}};
        if (narrow) parts.flushes.insert(parts.flushes.end(), points[b].begin(), points[b].end());
        for (int32_t q = 0; q < shape.channels; ++q) {
            if (shape.saturating) {
                block.extra[q] = static_cast<int32_t>(parts.extras.size());
                std::vector<DenseExtra> extras;
                if (!narrow) extras = split_pairs(u, shape.channels, q, pair_limit(c), parts.taps.data());
                parts.extras.insert(parts.extras.end(), extras.begin(), extras.end());
                block.extra[q + 1] = static_cast<int32_t>(parts.extras.size());
            }
            parts.sizes.push_back(u.sizes[static_cast<size_t>(q)]);
            parts.starts.push_back(-zero * u.sums[static_cast<size_t>(q)]);
        }
        if (shape.saturating && parts.scaled) parts.scaled = append_scales(c, u, static_cast<int32_t>(b) * shape.channels, parts.scales);
        parts.weights.insert(parts.weights.end(), u.weights.begin(), u.weights.end());
        parts.blocks.push_back(block);
    }
    scale_multipliers(c, parts);
    if (shape.saturating && parts.scaled) std::fill(parts.starts.begin(), parts.starts.end(), 0);
    if (shape.saturating) parts.trees = threshold_trees(c, static_cast<int32_t>(parts.starts.size()));
    return parts;
}

int64_t table_bytes(const Requant& r) {
    return r.kind == Epilogue::kTable ? (r.table_size + kTableBlock - 1) / kTableBlock * kTableBlock : 0;
}

Dense header_of(const Conv2d& c, const DenseShape& shape, const Planes& planes, const Parts& parts) {
    Dense d{};
    d.planes = planes;
    d.vectors = (planes.positions + shape.lanes - 1) / shape.lanes;
    d.blocks = static_cast<int32_t>(parts.blocks.size());
    int64_t at = aligned(sizeof(Dense));
    const auto place = [&at](int64_t& offset, size_t bytes) { offset = at, at = aligned(at + static_cast<int64_t>(bytes)); };
    d.shift = parts.shift;
    place(d.multiplier, sizeof(int32_t) * parts.multipliers.size());
    place(d.bias, sizeof(int64_t) * parts.biases.size());
    place(d.block, sizeof(DenseBlock) * parts.blocks.size());
    place(d.tap, sizeof(int32_t) * parts.taps.size());
    place(d.start, sizeof(int32_t) * parts.starts.size());
    place(d.span, sizeof(OutputSpan) * static_cast<size_t>(d.vectors));
    place(d.table, static_cast<size_t>(table_bytes(c.requant)));
    place(d.tree, sizeof(int32_t) * parts.trees.size());
    place(d.scale, sizeof(FloatScale) * parts.scales.size());
    place(d.flush, sizeof(int32_t) * parts.flushes.size());
    place(d.extra, sizeof(DenseExtra) * parts.extras.size());
    place(d.weights, parts.weights.size());
    d.total = at;
    return d;
}

template <class T>
void put(char* base, int64_t offset, const std::vector<T>& values) {
    if (!values.empty()) std::memcpy(base + offset, values.data(), sizeof(T) * values.size());
}

}  // namespace

std::vector<int32_t> threshold_trees(const Conv2d& c, int32_t channels) {
    const Requant& r = c.requant;
    if (r.kind != Epilogue::kThreshold || r.levels <= 4) return {};
    std::vector<int32_t> trees(static_cast<size_t>(channels) * kTreeSize);
    for (int32_t co = 0; co < c.c_out; ++co)
        for (int32_t first = 1; first < r.levels; first *= 2)           // nodes first .. 2 first - 1 are one level of the tree
            for (int32_t i = 0; i < first; ++i) {
                const int32_t k = (2 * i + 1) * (r.levels / 2 / first) - 1;
                trees[static_cast<size_t>(co * kTreeSize + first + i)] = r.thresholds[static_cast<int64_t>(co) * (r.levels - 1) + k];
            }
    return trees;
}

size_t dense_bytes(const Conv2d& c, const DenseShape& shape) {
    const Planes planes = planes_of(c);
    bool narrow = false;
    const Parts parts = build(c, shape, planes, narrow);
    return static_cast<size_t>(header_of(c, shape, planes, parts).total);
}

void dense_prepare(const Conv2d& c, const DenseShape& shape, void* prepared) {
    const Planes planes = planes_of(c);
    bool narrow = false;
    const Parts parts = build(c, shape, planes, narrow);
    Dense d = header_of(c, shape, planes, parts);
    d.narrow = narrow;
    d.flip = flips(c, shape);
    d.scaled = shape.saturating && parts.scaled;
    char* base = static_cast<char*>(prepared);
    std::memset(base, 0, static_cast<size_t>(d.total));
    std::memcpy(base, &d, sizeof(d));
    put(base, d.multiplier, parts.multipliers);
    put(base, d.bias, parts.biases);
    put(base, d.block, parts.blocks);
    put(base, d.tap, parts.taps);
    put(base, d.start, parts.starts);
    put(base, d.tree, parts.trees);
    put(base, d.scale, parts.scales);
    put(base, d.flush, parts.flushes);
    put(base, d.extra, parts.extras);
    put(base, d.weights, parts.weights);
    output_spans(planes, shape.lanes, reinterpret_cast<OutputSpan*>(base + d.span));
    if (c.requant.kind == Epilogue::kTable) std::memcpy(base + d.table, c.requant.table, static_cast<size_t>(c.requant.table_size));
}

size_t input_bytes(const Conv2d& c) {
    const Planes p = planes_of(c);
    constexpr size_t kSlack = 64;           // the last vector of positions reads past the last one
    return p.copied ? static_cast<size_t>((c.c_in + 3) / 4) * static_cast<size_t>(p.size) * 4 + kSlack : 0;
}

void copy_input(const Conv2d& c, const Planes& p, const uint8_t* x, void* scratch, Share share) {
    if (!p.copied) return;
    const uint32_t outside = 0x01010101u * static_cast<uint32_t>(c.zero_point);
    uint32_t* to = static_cast<uint32_t*>(scratch);
    const uint32_t* from = reinterpret_cast<const uint32_t*>(x);
    const int64_t pixels = static_cast<int64_t>(c.h) * c.w;
    for (int32_t i = 0; i < (c.c_in + 3) / 4; ++i)
        fill_plane(p, from + i * pixels, outside, to + static_cast<int64_t>(i) * p.size, share);
}

}  // namespace edgenas
