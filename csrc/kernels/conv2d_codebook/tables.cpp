#include "tables.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>
#include <vector>

#include "../conv2d/dense.h"
#include "../conv2d/lookup.h"

namespace edgenas {
namespace {

constexpr int32_t kEntries = 16;
constexpr int32_t kByteTop = 255, kWordTop = 65535;

int32_t group_of(const Conv2d& c) { return c.abits <= 2 ? 2 : 1; }
int32_t index_planes_of(const Conv2d& c) { return (c.c_in + group_of(c) - 1) / group_of(c); }

// Rows by number: weights w0 and w1 at w0 + n w1 of n levels; w1 = n where the group ends at w0; the last row is of no weight at all.
struct Rows {
    int32_t levels, group;
    std::vector<int32_t> entries, least;    // [rows][kEntries], less their smallest; [rows]
    int32_t top = 0;                        // largest entry

    int32_t count() const { return (group == 2 ? levels * (levels + 1) : levels) + 1; }
    int32_t none() const { return count() - 1; }
    int32_t number(int32_t w0, int32_t w1) const { return w0 + (group == 2 ? levels * w1 : 0); }
};

int32_t product_sum(const CodebookConv2d& b, const Rows& rows, int32_t number, int32_t index) {
    if (number == rows.none()) return 0;
    const int32_t mask = (1 << b.conv.abits) - 1, w1 = number / rows.levels;
    int32_t sum = b.weight_levels[number % rows.levels] * b.activation_levels[index & mask];
    if (rows.group == 2 && w1 < rows.levels) sum += b.weight_levels[w1] * b.activation_levels[index >> b.conv.abits];
    return sum;
}

Rows rows_of(const CodebookConv2d& b) {
    Rows rows{1 << b.conv.wbits, group_of(b.conv), {}, {}};
    const int32_t used = 1 << (rows.group * b.conv.abits);
    for (int32_t number = 0; number < rows.count(); ++number) {
        int32_t sums[kEntries] = {};
        for (int32_t i = 0; i < used; ++i) sums[i] = product_sum(b, rows, number, i);
        rows.least.push_back(*std::min_element(sums, sums + used));
        for (int32_t i = 0; i < kEntries; ++i) rows.entries.push_back(i < used ? sums[i] - rows.least.back() : 0);
    }
    rows.top = *std::max_element(rows.entries.begin(), rows.entries.end());
    return rows;
}

// The row of every step of one output channel.
std::vector<int32_t> channel_rows(const CodebookConv2d& b, const Rows& rows, int32_t co) {
    const Conv2d& c = b.conv;
    const int32_t taps = c.kernel * c.kernel;
    std::vector<int32_t> found(static_cast<size_t>(index_planes_of(c) * taps), rows.none());
    if (co >= c.c_out) return found;
    const uint8_t* packed = c.weights + co * weight_row_bytes(static_cast<int64_t>(c.c_in) * taps, c.wbits);
    for (int32_t ci = 0; ci < c.c_in; ci += rows.group)
        for (int32_t t = 0; t < taps; ++t) {
            const int64_t at = static_cast<int64_t>(ci) * taps + t;
            const int32_t next = rows.group == 2 && ci + 1 < c.c_in ? unpack_code(packed, at + taps, c.wbits) : rows.levels;
            found[static_cast<size_t>(ci / rows.group * taps + t)] = rows.number(unpack_code(packed, at, c.wbits), next);
        }
    return found;
}

struct Parts {
    std::vector<uint8_t> entries;
    std::vector<int32_t> taps, first, flushes, trees;
    std::vector<uint16_t> rows;
    std::vector<uint32_t> offsets;
    int32_t parts = 1, shift = 8;
};

// Largest low and high part of every row.
std::vector<int32_t> append_entries(const Rows& rows, Parts& p) {
    std::vector<int32_t> top(static_cast<size_t>(2 * rows.count()));
    for (int32_t number = 0; number < rows.count(); ++number)
        for (int32_t part = 0; part < p.parts; ++part)
            for (int32_t i = 0; i < kCodebookRow; ++i) {
                const int32_t entry = rows.entries[static_cast<size_t>(number * kEntries + i % kEntries)];
                const int32_t value = part == 0 ? entry & ((1 << p.shift) - 1) : entry >> p.shift;
                p.entries.push_back(static_cast<uint8_t>(value));
                int32_t& largest = top[static_cast<size_t>(2 * number + part)];
                largest = std::max(largest, value);
            }
    return top;
}

// Flush points of a block, from the largest parts of the rows that its channels look up.
void append_flushes(const std::vector<std::vector<int32_t>>& block, const std::vector<int32_t>& top, Parts& p) {
    constexpr size_t kSums = 2 * kCodebookBlock;
    int32_t bytes[kSums] = {}, words[kSums] = {};
    const auto steps = static_cast<int32_t>(block[0].size());
    const auto part = [&](size_t k, int32_t s) { return top[static_cast<size_t>(2 * block[k / 2][static_cast<size_t>(s)]) + k % 2]; };
    for (int32_t s = 0; s < steps; ++s) {
        bool flush = false, deep = false;
        for (size_t k = 0; k < kSums; ++k) flush = flush || bytes[k] + part(k, s) > kByteTop;
        if (flush) {
            for (size_t k = 0; k < kSums; ++k) words[k] += std::exchange(bytes[k], 0);
            for (size_t k = 0; k < kSums; ++k) deep = deep || words[k] + kByteTop > kWordTop;
            if (deep) std::fill(words, words + kSums, 0);
            p.flushes.push_back(deep ? ~s : s);
        }
        for (size_t k = 0; k < kSums; ++k) bytes[k] += part(k, s);
    }
    p.flushes.push_back(~steps);
}

Parts build(const CodebookConv2d& b, const Planes& planes) {
    const Conv2d& c = b.conv;
    const Rows rows = rows_of(b);
    Parts p;
    if (rows.top > kByteTop) {
        p.parts = 2;
        p.shift = (std::bit_width(static_cast<uint32_t>(rows.top)) + 1) / 2;
    }
    const std::vector<int32_t> top = append_entries(rows, p);
    for (int32_t plane = 0; plane < index_planes_of(c); ++plane)
        for (int32_t t = 0; t < c.kernel * c.kernel; ++t)
            p.taps.push_back(plane * planes.size + tap_offset(planes, t / c.kernel, t % c.kernel));
    for (int32_t co = 0; co < c.c_out; co += kCodebookBlock) {
        std::vector<std::vector<int32_t>> block;
        for (int32_t q = 0; q < kCodebookBlock; ++q) {
            block.push_back(channel_rows(b, rows, co + q));
            uint32_t offset = 0;
            for (const int32_t number : block.back()) offset += static_cast<uint32_t>(rows.least[static_cast<size_t>(number)]);
            p.offsets.push_back(offset);
        }
        p.first.push_back(static_cast<int32_t>(p.flushes.size()));
        append_flushes(block, top, p);
        for (size_t s = 0; s < p.taps.size(); ++s)
            for (const auto& channel : block) p.rows.push_back(static_cast<uint16_t>(channel[s] * p.parts * kCodebookRow));
    }
    if (!b.sums) p.trees = threshold_trees(c, static_cast<int32_t>(p.offsets.size()));
    return p;
}

CodebookTables header_of(const CodebookConv2d& b, const Planes& planes, const Parts& p) {
    CodebookTables t{};
    t.planes = planes;
    t.group = group_of(b.conv), t.parts = p.parts, t.shift = p.shift;
    t.index_planes = index_planes_of(b.conv), t.steps = static_cast<int32_t>(p.taps.size());
    t.blocks = static_cast<int32_t>(p.first.size()), t.vectors = (planes.positions + kCodebookLanes - 1) / kCodebookLanes;
    int64_t at = sizeof(CodebookTables);
    const auto place = [&](int64_t& part, size_t bytes) {
        part = (at + 63) / 64 * 64;
        at = part + static_cast<int64_t>(bytes);
    };
    place(t.entry, p.entries.size());
    place(t.tap, sizeof(int32_t) * p.taps.size());
    place(t.row, sizeof(uint16_t) * p.rows.size());
    place(t.first, sizeof(int32_t) * p.first.size());
    place(t.flush, sizeof(int32_t) * p.flushes.size());
    place(t.offset, sizeof(uint32_t) * p.offsets.size());
    place(t.span, sizeof(OutputSpan) * static_cast<size_t>(4 * t.vectors));
    place(t.tree, sizeof(int32_t) * p.trees.size());
    t.total = at;
    return t;
}

template <class T>
void put(char* base, int64_t at, const std::vector<T>& values) {
    if (!values.empty()) std::memcpy(base + at, values.data(), sizeof(T) * values.size());
}

}  // namespace

bool codebook_fits_bytes(const CodebookConv2d& b) { return rows_of(b).top <= kByteTop; }

size_t codebook_bytes(const CodebookConv2d& b) {
    const Planes planes = byte_planes_of(b.conv);
    return static_cast<size_t>(header_of(b, planes, build(b, planes)).total);
}

void codebook_prepare(const CodebookConv2d& b, void* prepared) {
    const Planes planes = byte_planes_of(b.conv);
    const Parts p = build(b, planes);
    const CodebookTables t = header_of(b, planes, p);
    char* base = static_cast<char*>(prepared);
    std::memset(base, 0, static_cast<size_t>(t.total));
    std::memcpy(base, &t, sizeof(t));
    put(base, t.entry, p.entries);
    put(base, t.tap, p.taps);
    put(base, t.row, p.rows);
    put(base, t.first, p.first);
    put(base, t.flush, p.flushes);
    put(base, t.offset, p.offsets);
    put(base, t.tree, p.trees);
    output_spans(planes, kCodebookLanes / 4, reinterpret_cast<OutputSpan*>(base + t.span));
}

CodebookScratch codebook_scratch(const CodebookConv2d& b) {
    constexpr int64_t kReadPast = 31, kSlack = 256;         // by packing; by whole vectors behind the last plane
    const Planes planes = byte_planes_of(b.conv);
    const int64_t count = index_planes_of(b.conv);
    CodebookScratch s{};
    s.stride = planes.copied ? (static_cast<int64_t>(b.conv.h) * b.conv.w + kReadPast + 63) / 64 * 64 : planes.size;
    s.packed_bytes = count * s.stride + kSlack;
    s.total = s.packed_bytes + (planes.copied ? count * planes.size + kSlack : 0);
    return s;
}

}  // namespace edgenas
