#include "lookup.h"

#include <algorithm>
#include <climits>
#include <cstring>
#include <vector>

#include "dense.h"

namespace edgenas {
namespace {

constexpr int64_t aligned(int64_t n) { return (n + 63) / 64 * 64; }
constexpr int32_t kZeroWeight = 2;          // as stored: w + 2

struct Parts {
    std::vector<int32_t> taps, first, flushes, offsets, trees;
    std::vector<uint16_t> rows, thresholds;
    std::vector<uint8_t> flips;
};

// The packed weights of every step of one output channel, and acc - sum.
struct ChannelRows {
    std::vector<int32_t> weights;
    int32_t offset = 0;
};

ChannelRows channel_rows(const Conv2d& c, const LookupShape& shape, int32_t co) {
    const int32_t taps = c.kernel * c.kernel, planes = (c.c_in + shape.group - 1) / shape.group;
    int32_t zeros = 0;
    for (int32_t i = 0; i < shape.group; ++i) zeros |= kZeroWeight << (2 * i);
    ChannelRows r{std::vector<int32_t>(static_cast<size_t>(planes * taps), zeros), 0};
    if (co >= c.c_out) return r;
    const uint8_t* row = c.weights + co * weight_row_bytes(static_cast<int64_t>(c.c_in) * taps, c.wbits);
    for (int32_t ci = 0; ci < c.c_in; ++ci)
        for (int32_t t = 0; t < taps; ++t) {
            const int32_t w = unpack_weight(row, static_cast<int64_t>(ci) * taps + t, c.wbits);
            r.weights[static_cast<size_t>(ci / shape.group * taps + t)] ^= ((w + 2) ^ kZeroWeight) << (ci % shape.group * 2);
            r.offset += (w < 0 ? 3 * w : 0) - c.zero_point * w;
        }
    return r;
}

int32_t largest_entry(int32_t group, int32_t weights) {
    int32_t sum = 0;
    for (int32_t i = 0; i < group; ++i) sum += 3 * std::abs((weights >> (2 * i) & 3) - 2);
    return sum;
}

// Steps before which byte sums of any channel of the block could pass 255, whatever the codes are.
void append_flushes(const std::vector<ChannelRows>& block, int32_t group, int32_t steps, std::vector<int32_t>& flushes) {
    std::vector<int32_t> sum(block.size());
    for (int32_t s = 0; s < steps; ++s) {
        const auto entry = [&](size_t q) { return largest_entry(group, block[q].weights[static_cast<size_t>(s)]); };
        bool overflow = false;
        for (size_t q = 0; q < block.size(); ++q) overflow = overflow || sum[q] + entry(q) > 255;
        if (overflow) {
            flushes.push_back(s);
            std::fill(sum.begin(), sum.end(), 0);
        }
        for (size_t q = 0; q < block.size(); ++q) sum[q] += entry(q);
    }
    flushes.push_back(steps);
}

// sign * (sum + offset) >= t as a comparison of the unsigned sum. For sign -1 the comparison is the negated one, and since the
// number of levels is a power of two, levels - 1 - count is count ^ (levels - 1).
void append_thresholds(const Conv2d& c, int32_t co, int32_t offset, Parts& parts) {
    const Requant& r = c.requant;
    const bool present = co < c.c_out;
    parts.flips.push_back(present && r.sign[co] < 0 ? static_cast<uint8_t>(r.levels - 1) : 0);
    for (int32_t k = 0; k < kLookupThresholds; ++k) {
        int64_t at = 65535;
        if (present && k < r.levels - 1) {
            const int64_t t = r.thresholds[static_cast<int64_t>(co) * (r.levels - 1) + k];
            at = r.sign[co] < 0 ? -t + 1 - offset : t - offset;
        }
        parts.thresholds.push_back(static_cast<uint16_t>(std::clamp<int64_t>(at, 0, 65535)));
    }
}

Parts build(const Conv2d& c, const LookupShape& shape, const Planes& planes, bool fast) {
    Parts parts;
    const int32_t area = c.kernel * c.kernel, steps = (c.c_in + shape.group - 1) / shape.group * area;
    for (int32_t s = 0; s < steps; ++s)
        parts.taps.push_back(s / area * planes.size + tap_offset(planes, s % area / c.kernel, s % area % c.kernel));
    for (int32_t first = 0; first < c.c_out; first += shape.channels) {
        std::vector<ChannelRows> block;
        for (int32_t q = 0; q < shape.channels; ++q) {
            block.push_back(channel_rows(c, shape, first + q));
            parts.offsets.push_back(block.back().offset);
            if (fast) append_thresholds(c, first + q, block.back().offset, parts);
        }
        for (int32_t s = 0; s < steps; ++s)
            for (const ChannelRows& r : block)
                parts.rows.push_back(static_cast<uint16_t>(r.weights[static_cast<size_t>(s)] * shape.row_bytes));
        parts.first.push_back(static_cast<int32_t>(parts.flushes.size()));
        append_flushes(block, shape.group, steps, parts.flushes);
    }
    parts.trees = threshold_trees(c, static_cast<int32_t>(parts.offsets.size()));
    return parts;
}

bool fast_epilogue(const Conv2d& c) { return c.requant.kind == Epilogue::kThreshold && c.requant.levels - 1 <= kLookupThresholds; }

Lookup header_of(const Conv2d& c, const LookupShape& shape, const Planes& planes, const Parts& parts) {
    Lookup l{};
    l.planes = planes;
    l.steps = static_cast<int32_t>(parts.taps.size());
    l.blocks = static_cast<int32_t>(parts.first.size());
    l.vectors = (planes.positions + shape.lanes - 1) / shape.lanes;
    l.byte_planes = (c.c_in + shape.group - 1) / shape.group;
    l.fast = fast_epilogue(c);
    int64_t at = aligned(sizeof(Lookup));
    const auto place = [&at](int64_t& offset, size_t bytes) { offset = at, at = aligned(at + static_cast<int64_t>(bytes)); };
    place(l.tap, sizeof(int32_t) * parts.taps.size());
    place(l.row, sizeof(uint16_t) * parts.rows.size());
    place(l.first, sizeof(int32_t) * parts.first.size());
    place(l.flush, sizeof(int32_t) * parts.flushes.size());
    place(l.offset, sizeof(int32_t) * parts.offsets.size());
    place(l.threshold, sizeof(uint16_t) * parts.thresholds.size());
    place(l.flip, parts.flips.size());
    place(l.span, sizeof(OutputSpan) * 4 * static_cast<size_t>(l.vectors));
    place(l.table, c.requant.kind == Epilogue::kTable ? static_cast<size_t>(c.requant.table_size + kTableBlock) : 0);
    place(l.tree, sizeof(int32_t) * parts.trees.size());
    l.total = at;
    return l;
}

template <class T>
void put(char* base, int64_t offset, const std::vector<T>& values) {
    if (!values.empty()) std::memcpy(base + offset, values.data(), sizeof(T) * values.size());
}

}  // namespace

// The largest sum is 6 per weight, and 65535 has to stay out of reach.
bool lookup_fits(const Conv2d& c, int32_t least_positions) {
    const int64_t weights = static_cast<int64_t>(c.c_in) * c.kernel * c.kernel;
    return c.wbits <= 2 && c.abits <= 2 && c.groups == 1 && weights * 6 < 65535 && planes_of(c).positions >= least_positions;
}

Planes byte_planes_of(const Conv2d& c) {
    Planes p = planes_of(c);
    constexpr int32_t kWrittenPast = 15;
    p.phase_size = (p.phase_size + (p.copied ? kWrittenPast : 0) + 63) / 64 * 64;
    p.size = p.phases * p.phases * p.phase_size;
    return p;
}

size_t lookup_bytes(const Conv2d& c, const LookupShape& shape) {
    const Planes planes = byte_planes_of(c);
    return static_cast<size_t>(header_of(c, shape, planes, build(c, shape, planes, fast_epilogue(c))).total);
}

void lookup_prepare(const Conv2d& c, const LookupShape& shape, void* prepared) {
    const Planes planes = byte_planes_of(c);
    const Parts parts = build(c, shape, planes, fast_epilogue(c));
    const Lookup l = header_of(c, shape, planes, parts);
    char* base = static_cast<char*>(prepared);
    std::memset(base, 0, static_cast<size_t>(l.total));
    std::memcpy(base, &l, sizeof(l));
    put(base, l.tap, parts.taps);
    put(base, l.row, parts.rows);
    put(base, l.first, parts.first);
    put(base, l.flush, parts.flushes);
    put(base, l.offset, parts.offsets);
    put(base, l.threshold, parts.thresholds);
    put(base, l.flip, parts.flips);
    put(base, l.tree, parts.trees);
    output_spans(planes, shape.lanes / 4, reinterpret_cast<OutputSpan*>(base + l.span));
    if (c.requant.kind == Epilogue::kTable) std::memcpy(base + l.table, c.requant.table, static_cast<size_t>(c.requant.table_size));
}

LookupScratch lookup_scratch(const Conv2d& c, const Planes& planes, int32_t group) {
    constexpr int64_t kSlack = 256;         // whole vectors are stored and loaded past the last pixel
    LookupScratch s{};
    const int64_t byte_planes = (c.c_in + group - 1) / group;
    constexpr int64_t kReadPast = 31;       // by fill_byte_plane, so that it reads nothing of the next plane
    s.packed_stride = planes.copied ? aligned(static_cast<int64_t>(c.h) * c.w + kReadPast) : planes.size;
    // Kernels pack 12 (or 4) channels at once, into up to 3 planes more than there are.
    s.packed_bytes = (byte_planes + 3) * s.packed_stride + kSlack;
    s.total = s.packed_bytes + (planes.copied ? byte_planes * planes.size + kSlack : 0);
    return s;
}

void place_planes(const Conv2d& c, const Lookup& l, int32_t group, int32_t first, int32_t last, uint8_t* scratch) {
    if (!l.planes.copied) return;
    const LookupScratch s = lookup_scratch(c, l.planes, group);
    int32_t outside = 0;
    for (int32_t i = 0; i < group; ++i) outside |= c.zero_point << (2 * i);
    uint8_t* placed = scratch + s.packed_bytes;
    for (int64_t p = first; p < std::min(last, l.byte_planes); ++p)
        fill_byte_plane(l.planes, scratch + p * s.packed_stride, static_cast<uint8_t>(outside), placed + p * l.planes.size);
}

const uint8_t* placed_planes(const Conv2d& c, const Lookup& l, int32_t group, const void* scratch) {
    return static_cast<const uint8_t*>(scratch) + (l.planes.copied ? lookup_scratch(c, l.planes, group).packed_bytes : 0);
}

}  // namespace edgenas
