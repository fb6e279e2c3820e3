#include "lookup_swap.h"

#include <algorithm>
#include <cstring>

namespace edgenas {
namespace {

constexpr int64_t aligned(int64_t n) { return (n + 63) / 64 * 64; }

struct Parts {
    std::vector<uint8_t> weights, starts, flips, outside;
    std::vector<int32_t> flushes;
    std::vector<uint16_t> thresholds;
    std::vector<Move> moves;
};

// Tile after tile, the pixels that a plane's taps meet.
std::vector<Move> tile_moves(const Conv2d& c, const Swap& s) {
    std::vector<Move> moves;
    for (int32_t t = 0; t < s.tiles; ++t) {
        std::vector<int32_t> bytes(static_cast<size_t>(s.taps * kSwapPixels), -1);
        for (int32_t tap = 0; tap < s.taps; ++tap)
            for (int32_t i = 0; i < s.pixels; ++i) {
                const int32_t pixel = t * s.pixels + i;
                const int32_t y = pixel / c.w_out * c.stride + tap / c.kernel - c.pad;
                const int32_t x = pixel % c.w_out * c.stride + tap % c.kernel - c.pad;
                if (pixel < c.h_out * c.w_out && y >= 0 && y < c.h && x >= 0 && x < c.w)
                    bytes[static_cast<size_t>(tap * kSwapPixels + i)] = y * c.w + x;
            }
        append_moves(bytes, t * s.steps * kSwapPixels, moves);
    }
    return moves;
}

// value(channel, i) of n steps or runs, as [group][i][channels of the group].
template <class Value>
std::vector<uint8_t> grouped(int32_t vectors, size_t n, Value value) {
    std::vector<uint8_t> bytes;
    for (int32_t g = 0; g < swap_groups(vectors); ++g)
        for (size_t i = 0; i < n; ++i)
            for (int32_t co = swap_first(vectors, g) * kSwapLanes; co < swap_first(vectors, g + 1) * kSwapLanes; ++co)
                bytes.push_back(static_cast<uint8_t>(value(static_cast<size_t>(co), i)));
    return bytes;
}

// How far the sum of a channel can fall between flush points.
int32_t fall(const LookupRows& rows, int32_t index_bits, int32_t code_bits, const std::vector<int32_t>& flushes, size_t run) {
    int32_t fall = 0;
    for (int32_t s = run == 0 ? 0 : flushes[run - 1]; s < flushes[run]; ++s)
        fall += lookup_reach(index_bits, code_bits, rows.weights[static_cast<size_t>(s)]).negative;
    return fall;
}

std::vector<uint16_t> thresholds(const Conv2d& c, const std::vector<LookupRows>& rows) {
    std::vector<uint16_t> thresholds;
    for (int32_t first = 0; first < static_cast<int32_t>(rows.size()); first += kSwapLanes)
        for (int32_t k = 0; k < kLookupThresholds; ++k)
            for (int32_t i = 0; i < kSwapLanes; ++i) {
                const int32_t co = first + i % (kSwapLanes / 2) * 2 + i / (kSwapLanes / 2);
                const bool present = co < c.c_out && k < c.requant.levels - 1;
                const int64_t at = present ? lookup_bound(c, co, k, rows[static_cast<size_t>(co)].offset) : 65535;
                thresholds.push_back(static_cast<uint16_t>(std::clamp<int64_t>(at, 0, 65535)));
            }
    return thresholds;
}

Swap shape_of(const Conv2d& c, int32_t index_bits) {
    Swap s{};
    s.code_bits = lookup_code_bits(c);
    s.byte_planes = lookup_byte_planes(index_bits, s.code_bits, c.c_in);
    s.taps = c.kernel * c.kernel;
    s.steps = s.byte_planes * s.taps;
    s.vectors = (c.c_out + kSwapLanes - 1) / kSwapLanes;
    s.pixels = swap_pixels(c.h_out * c.w_out);
    s.tiles = (c.h_out * c.w_out + s.pixels - 1) / s.pixels;
    return s;
}

Parts build(const Conv2d& c, int32_t index_bits, Swap& s) {
    std::vector<LookupRows> rows;
    for (int32_t co = 0; co < s.vectors * kSwapLanes; ++co) rows.push_back(lookup_rows(c, index_bits, co));
    Parts parts;
    parts.weights = grouped(s.vectors, static_cast<size_t>(s.steps), [&](size_t co, size_t i) { return rows[co].weights[i]; });
    parts.flushes = lookup_flushes(rows, index_bits, s.code_bits);
    parts.starts = grouped(s.vectors, parts.flushes.size(),
                           [&](size_t co, size_t i) { return fall(rows[co], index_bits, s.code_bits, parts.flushes, i); });
    s.runs = static_cast<int32_t>(parts.flushes.size());
    parts.thresholds = thresholds(c, rows);
    for (int32_t co = 0; co < s.vectors * kSwapLanes; ++co)
        parts.flips.push_back(static_cast<uint8_t>(co < c.c_out && c.requant.sign[co] < 0 ? c.requant.levels - 1 : 0));
    parts.outside = lookup_outside(c, index_bits);
    parts.moves = tile_moves(c, s);
    return parts;
}

void place_parts(Swap& s, const Parts& parts) {
    int64_t at = aligned(sizeof(Swap));
    const auto place = [&at](int64_t& offset, size_t bytes) { offset = at, at = aligned(at + static_cast<int64_t>(bytes)); };
    place(s.weights, parts.weights.size());
    place(s.flush, sizeof(int32_t) * parts.flushes.size());
    place(s.start, parts.starts.size());
    place(s.threshold, sizeof(uint16_t) * parts.thresholds.size());
    place(s.flip, parts.flips.size());
    place(s.outside, parts.outside.size());
    place(s.moves, move_list_bytes(parts.moves));
    s.total = at;
}

template <class T>
void put(char* base, int64_t offset, const std::vector<T>& values) {
    std::memcpy(base + offset, values.data(), sizeof(T) * values.size());
}

}  // namespace

size_t swap_bytes(const Conv2d& c, int32_t index_bits) {
    Swap s = shape_of(c, index_bits);
    place_parts(s, build(c, index_bits, s));
    return static_cast<size_t>(s.total);
}

void swap_prepare(const Conv2d& c, int32_t index_bits, void* prepared) {
    Swap s = shape_of(c, index_bits);
    const Parts parts = build(c, index_bits, s);
    place_parts(s, parts);
    char* base = static_cast<char*>(prepared);
    std::memcpy(base, &s, sizeof(s));
    put(base, s.weights, parts.weights);
    put(base, s.flush, parts.flushes);
    put(base, s.start, parts.starts);
    put(base, s.threshold, parts.thresholds);
    put(base, s.flip, parts.flips);
    put(base, s.outside, parts.outside);
    store_moves(parts.moves, base + s.moves);
}

}  // namespace edgenas
