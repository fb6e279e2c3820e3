#include "lookup.h"

#include <algorithm>
#include <climits>
#include <cstring>
#include <vector>

#include "dense.h"

namespace edgenas {
namespace {

constexpr int64_t aligned(int64_t n) { return (n + 63) / 64 * 64; }

int32_t stored_weight(int32_t code_bits, int32_t w) { return code_bits == 1 ? (w + 1) / 2 : w + 2; }

// The weight of bits that hold no channel, as stored: 0, or +1 where there is no 0.
int32_t absent_weight(int32_t code_bits) { return code_bits == 1 ? 1 : 2; }

struct Parts {
    std::vector<int32_t> taps, first, flushes, offsets, trees;
    std::vector<uint16_t> rows, thresholds;
    std::vector<uint8_t> flips, outside;
    std::vector<RunStep> steps;
    std::vector<RunSegment> segments;
    std::vector<ByteLevels> levels;
    std::vector<SumReach> reaches;
    std::vector<LookupCompare> compares;
    bool bytes = true;                      // all of `compares` are exact
};

// The packed weights of every step of one output channel, and acc - sum.
struct ChannelRows {
    std::vector<int32_t> weights;
    int32_t offset = 0;
};

ChannelRows channel_rows(const Conv2d& c, const LookupShape& shape, int32_t co) {
    const int32_t bits = lookup_code_bits(c), taps = c.kernel * c.kernel, top = (1 << bits) - 1;
    int32_t absent = 0;
    for (int32_t bit = 0; bit < shape.index_bits; bit += bits) absent |= absent_weight(bits) << bit;
    ChannelRows r{std::vector<int32_t>(static_cast<size_t>(lookup_byte_planes(shape.index_bits, bits, c.c_in) * taps), absent), 0};
    if (co >= c.c_out) return r;
    const uint8_t* row = c.weights + co * weight_row_bytes(static_cast<int64_t>(c.c_in) * taps, c.wbits);
    for (int32_t ci = 0; ci < c.c_in; ++ci) {
        const LookupSlot slot = lookup_slot(shape.index_bits, bits, c.c_in, ci);
        for (int32_t t = 0; t < taps; ++t) {
            const int32_t w = unpack_weight(row, static_cast<int64_t>(ci) * taps + t, c.wbits);
            r.weights[static_cast<size_t>(slot.plane * taps + t)] ^= (stored_weight(bits, w) ^ absent_weight(bits)) << slot.bit;
            r.offset += (w < 0 ? top * w : 0) - c.zero_point * w;
        }
    }
    return r;
}

int32_t largest_entry(int32_t index_bits, int32_t code_bits, int32_t weights) {
    const int32_t top = (1 << code_bits) - 1;
    int32_t sum = 0;
    for (int32_t bit = 0; bit < index_bits; bit += code_bits) sum += top * std::abs(lookup_weight(code_bits, weights >> bit & top));
    return sum;
}

// Steps before which byte sums of any channel of the block could pass 255, whatever the codes are.
void append_flushes(const std::vector<ChannelRows>& block, int32_t index_bits, int32_t code_bits, int32_t steps,
                    std::vector<int32_t>& flushes) {
    std::vector<int32_t> sum(block.size());
    for (int32_t s = 0; s < steps; ++s) {
        const auto entry = [&](size_t q) { return largest_entry(index_bits, code_bits, block[q].weights[static_cast<size_t>(s)]); };
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

// The byte that each byte plane has outside the image: the zero point in every code of a channel.
std::vector<uint8_t> outside_bytes(const Conv2d& c, int32_t index_bits) {
    const int32_t bits = lookup_code_bits(c);
    std::vector<uint8_t> outside(static_cast<size_t>(lookup_byte_planes(index_bits, bits, c.c_in)));
    for (int32_t ci = 0; ci < c.c_in; ++ci) {
        const LookupSlot slot = lookup_slot(index_bits, bits, c.c_in, ci);
        outside[static_cast<size_t>(slot.plane)] |= static_cast<uint8_t>(c.zero_point << slot.bit);
    }
    return outside;
}

// Threshold k of channel co as a bound of the unsigned sum: its code counts sums >= bound, or for sign -1 the others.
int64_t sum_bound(const Conv2d& c, int32_t co, int32_t k, int32_t offset) {
    const int64_t t = c.requant.thresholds[static_cast<int64_t>(co) * (c.requant.levels - 1) + k];
    return c.requant.sign[co] < 0 ? -t + 1 - offset : t - offset;
}

// For sign -1 the code is levels - 1 - count, which is count ^ (levels - 1), since the number of levels is a power of two.
void append_thresholds(const Conv2d& c, int32_t co, int32_t offset, Parts& parts) {
    const Requant& r = c.requant;
    const bool present = co < c.c_out;
    parts.flips.push_back(present && r.sign[co] < 0 ? static_cast<uint8_t>(r.levels - 1) : 0);
    for (int32_t k = 0; k < kLookupThresholds; ++k) {
        const int64_t at = present && k < r.levels - 1 ? sum_bound(c, co, k, offset) : 65535;
        parts.thresholds.push_back(static_cast<uint16_t>(std::clamp<int64_t>(at, 0, 65535)));
    }
}

// `largest` sums of the channel are possible. Bounds that every sum reaches go into `start`, those that none reaches are 255.
void append_compare(const Conv2d& c, int32_t co, const ChannelRows& rows, int32_t largest, Parts& parts) {
    LookupCompare compare{0, 0, 0, {255, 255, 255}};
    int64_t bounds[kLookupThresholds], low = 0, high = 0;
    int32_t count = 0;
    if (co < c.c_out) {
        const bool negative = c.requant.sign[co] < 0;
        compare.step = static_cast<uint8_t>(negative ? -1 : 1);
        compare.start = static_cast<uint8_t>(negative ? c.requant.levels - 1 : 0);
        for (int32_t k = 0; k < c.requant.levels - 1; ++k) {
            const int64_t bound = sum_bound(c, co, k, rows.offset);
            if (bound <= 0) compare.start = static_cast<uint8_t>(compare.start + compare.step);
            if (bound <= 0 || bound > largest) continue;
            low = count == 0 ? bound : std::min(low, bound), high = std::max(high, bound);
            bounds[count++] = bound;
        }
    }
    if (count > 0) {
        compare.base = static_cast<uint16_t>(low - 1);
        parts.bytes = parts.bytes && high - low < 255 && largest - compare.base < 32768;        // one signed pack clips to bytes
    }
    for (int32_t k = 0; k < count; ++k) compare.above[k] = static_cast<uint8_t>(bounds[k] - low);
    parts.compares.push_back(compare);
}

void append_levels(const std::vector<StepRange>& ranges, bool bytes, Parts& parts) {
    parts.reaches.push_back(bytes ? SumReach::kBytes : SumReach::kNear);
    for (size_t q = 0; q < kRunChannels; ++q) {
        int32_t largest = 0;
        for (const StepRange& r : ranges) largest += r[q];
        const uint16_t* thresholds = parts.thresholds.data() + parts.thresholds.size() - (kRunChannels - q) * kLookupThresholds;
        ByteLevels levels{};
        const uint8_t flip = parts.flips[parts.flips.size() - kRunChannels + q];
        if (!byte_levels(thresholds, largest, flip, bytes, levels)) parts.reaches.back() = SumReach::kFar;
        parts.levels.push_back(levels);
    }
}

void append_runs(const std::vector<ChannelRows>& block, const LookupShape& shape, int32_t bits, bool fast, Parts& parts) {
    std::vector<StepRange> ranges(parts.taps.size());
    for (size_t s = 0; s < ranges.size(); ++s)
        for (size_t q = 0; q < kRunChannels; ++q)
            ranges[s][q] = static_cast<uint8_t>(largest_entry(shape.index_bits, bits, block[q].weights[s]));
    const RunOrder order = order_runs(ranges);
    for (const int32_t i : order.steps) {
        const auto s = static_cast<size_t>(i);
        RunStep step{parts.taps[s], {}};
        for (size_t p = 0; p < kRunChannels / 2; ++p) {
            const int32_t pair = block[2 * p].weights[s] | block[2 * p + 1].weights[s] << shape.index_bits;
            step.row[p] = static_cast<uint16_t>(pair * shape.row_bytes);
        }
        parts.steps.push_back(step);
    }
    parts.segments.insert(parts.segments.end(), order.segments.begin(), order.segments.end());
    if (fast) append_levels(ranges, order.bytes, parts);
}

void append_rows(const std::vector<ChannelRows>& block, const LookupShape& shape, int32_t bits, Parts& parts) {
    for (size_t s = 0; s < parts.taps.size(); ++s)
        for (const ChannelRows& r : block) parts.rows.push_back(static_cast<uint16_t>(r.weights[s] * shape.row_bytes));
    append_flushes(block, shape.index_bits, bits, static_cast<int32_t>(parts.taps.size()), parts.flushes);
}

Parts build(const Conv2d& c, const LookupShape& shape, const Planes& planes, bool fast) {
    Parts parts;
    const int32_t bits = lookup_code_bits(c), area = c.kernel * c.kernel;
    const int32_t steps = lookup_byte_planes(shape.index_bits, bits, c.c_in) * area;
    for (int32_t s = 0; s < steps; ++s)
        parts.taps.push_back(s / area * planes.size + tap_offset(planes, s % area / c.kernel, s % area % c.kernel));
    for (int32_t first = 0; first < c.c_out; first += shape.channels) {
        std::vector<ChannelRows> block;
        for (int32_t q = 0; q < shape.channels; ++q) {
            block.push_back(channel_rows(c, shape, first + q));
            parts.offsets.push_back(block.back().offset);
            if (!fast) continue;
            int32_t largest = 0;
            for (const int32_t w : block.back().weights) largest += largest_entry(shape.index_bits, bits, w);
            append_thresholds(c, first + q, block.back().offset, parts);
            if (!shape.runs) append_compare(c, first + q, block.back(), largest, parts);
        }
        parts.first.push_back(static_cast<int32_t>(shape.runs ? parts.segments.size() : parts.flushes.size()));
        if (shape.runs) append_runs(block, shape, bits, fast, parts);
        else append_rows(block, shape, bits, parts);
    }
    parts.first.push_back(static_cast<int32_t>(shape.runs ? parts.segments.size() : parts.flushes.size()));
    parts.outside = outside_bytes(c, shape.index_bits);
    parts.trees = threshold_trees(c, static_cast<int32_t>(parts.offsets.size()));
    return parts;
}

bool fast_epilogue(const Conv2d& c) { return c.requant.kind == Epilogue::kThreshold && c.requant.levels - 1 <= kLookupThresholds; }

Lookup header_of(const Conv2d& c, const LookupShape& shape, const Planes& planes, const Parts& parts) {
    Lookup l{};
    l.planes = planes;
    l.steps = static_cast<int32_t>(parts.taps.size());
    l.blocks = static_cast<int32_t>(parts.first.size()) - 1;
    l.vectors = (planes.positions + shape.lanes - 1) / shape.lanes;
    l.index_bits = shape.index_bits;
    l.code_bits = lookup_code_bits(c);
    l.byte_planes = static_cast<int32_t>(parts.outside.size());
    l.fast = fast_epilogue(c);
    l.bytes = l.fast && parts.bytes;
    int64_t at = aligned(sizeof(Lookup));
    const auto place = [&at](int64_t& offset, size_t bytes) { offset = at, at = aligned(at + static_cast<int64_t>(bytes)); };
    place(l.tap, sizeof(int32_t) * parts.taps.size());
    place(l.row, sizeof(uint16_t) * parts.rows.size());
    place(l.first, sizeof(int32_t) * parts.first.size());
    place(l.flush, sizeof(int32_t) * parts.flushes.size());
    place(l.step, sizeof(RunStep) * parts.steps.size());
    place(l.segment, sizeof(RunSegment) * parts.segments.size());
    place(l.offset, sizeof(int32_t) * parts.offsets.size());
    place(l.threshold, sizeof(uint16_t) * parts.thresholds.size());
    place(l.flip, parts.flips.size());
    place(l.level, sizeof(ByteLevels) * parts.levels.size());
    place(l.reach, parts.reaches.size());
    place(l.compare, sizeof(LookupCompare) * parts.compares.size());
    place(l.outside, parts.outside.size());
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

// No sum may reach 65535, which stands for "never" among the thresholds.
bool lookup_fits(const Conv2d& c, int32_t least_positions) {
    const int64_t weights = static_cast<int64_t>(c.c_in) * c.kernel * c.kernel;
    const int32_t largest = ((1 << lookup_code_bits(c)) - 1) * (c.wbits == 1 ? 1 : 2);
    return c.wbits <= 2 && c.abits <= 2 && c.groups == 1 && weights * largest < 65535 && planes_of(c).positions >= least_positions;
}

Planes byte_planes_of(const Conv2d& c) {
    Planes p = planes_of(c);
    p.phase_size = (p.phase_size + 63) / 64 * 64;
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
    put(base, l.step, parts.steps);
    put(base, l.segment, parts.segments);
    put(base, l.offset, parts.offsets);
    put(base, l.threshold, parts.thresholds);
    put(base, l.flip, parts.flips);
    put(base, l.level, parts.levels);
    put(base, l.reach, parts.reaches);
    put(base, l.compare, parts.compares);
    put(base, l.outside, parts.outside);
    put(base, l.tree, parts.trees);
    output_spans(planes, shape.lanes / 4, reinterpret_cast<OutputSpan*>(base + l.span));
    if (c.requant.kind == Epilogue::kTable) std::memcpy(base + l.table, c.requant.table, static_cast<size_t>(c.requant.table_size));
}

}  // namespace edgenas
