#include "moves.h"

#include <algorithm>
#include <cstring>

namespace edgenas {
namespace {

// The pixel at element (phase y, phase x, row, column) of the padded form, or -1.
int32_t padded_pixel(const Planes& p, int32_t py, int32_t px, int32_t row, int32_t column) {
    const int32_t y = p.stride * row + py - p.pad, x = p.stride * column + px - p.pad;
    return y >= 0 && y < p.h && x >= 0 && x < p.w ? y * p.w + x : -1;
}

}  // namespace

size_t move_list_bytes(const std::vector<Move>& moves) { return sizeof(MoveList) + sizeof(Move) * moves.size(); }

void store_moves(const std::vector<Move>& moves, void* to) {
    const MoveList list{static_cast<int64_t>(moves.size())};
    std::memcpy(to, &list, sizeof(list));
    std::memcpy(static_cast<char*>(to) + sizeof(list), moves.data(), sizeof(Move) * moves.size());
}

void append_moves(const std::vector<int32_t>& bytes, int32_t to, std::vector<Move>& moves) {
    for (size_t first = 0; first < bytes.size();) {
        int32_t lowest = INT32_MAX, highest = -1;
        size_t end = first;
        for (; end < bytes.size() && end < first + kMoveBytes; ++end) {
            if (bytes[end] < 0) continue;
            const int32_t low = std::min(lowest, bytes[end]), high = std::max(highest, bytes[end]);
            if (high - low >= kMoveWindow) break;
            lowest = low, highest = high;
        }
        Move m{highest < 0 ? 0 : lowest, to + static_cast<int32_t>(first), ~0ull >> (kMoveBytes - (end - first)), {}};
        std::fill_n(m.index, kMoveBytes, kMoveOutside);
        for (size_t i = first; i < end; ++i)
            if (bytes[i] >= 0) m.index[i - first] = static_cast<uint8_t>(bytes[i] - m.from);
        moves.push_back(m);
        first = end;
    }
}

std::vector<Move> padding_moves(const Planes& p) {
    std::vector<int32_t> bytes(static_cast<size_t>(p.size), -1);
    for (int32_t py = 0; py < p.phases; ++py)
        for (int32_t px = 0; px < p.phases; ++px)
            for (int32_t i = 0; i < p.phase_size; ++i) {
                const int32_t at = (py * p.phases + px) * p.phase_size + i;
                bytes[static_cast<size_t>(at)] = padded_pixel(p, py, px, i / p.row, i % p.row);
            }
    std::vector<Move> moves;
    append_moves(bytes, 0, moves);
    return moves;
}

}  // namespace edgenas
