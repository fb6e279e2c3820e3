#include <algorithm>

#include "planner.h"

namespace edgenas::planner {
namespace {

constexpr int64_t kGroup = 4;  // channels of one group of codes

// Bytes first .. first + count of what `producer` computes. A tensor holds a sequence of them.
struct Segment {
    int32_t producer;
    int64_t first, count;
    bool operator==(const Segment&) const = default;
};
using Held = std::vector<Segment>;

// Bytes start .. start + count of a sequence; neighbours that continue each other become one.
Held part(const Held& held, int64_t start, int64_t count) {
    Held out;
    int64_t at = 0;
    for (const Segment& s : held) {
        const int64_t low = std::max(start, at), high = std::min(start + count, at + s.count), first = s.first + low - at;
        at += s.count;
        if (low >= high) continue;
        if (!out.empty() && out.back().producer == s.producer && out.back().first + out.back().count == first)
            out.back().count += high - low;
        else
            out.push_back({s.producer, first, high - low});
    }
    return out;
}

// The tensors of a graph in blocks: each alone at first, then joined wherever the rule of sharing allows it.
class Blocks {
  public:
    Blocks(std::span<const Node> nodes, std::span<const int32_t> outputs)
        : nodes_(nodes), members_(nodes.size()), held_(nodes.size()) {
        find_lives(outputs);
        for (size_t i = 0; i < nodes.size(); ++i) {
            const bool in_arena = nodes[i].kind != Kind::kHost;
            layout_.home.push_back(in_arena ? static_cast<int32_t>(i) : -1);
            if (in_arena) members_[i] = {static_cast<int32_t>(i)};
        }
        layout_.at.resize(nodes.size());
        layout_.aliases.resize(nodes.size());
    }

    Layout joined() && {
        for (int32_t i = 0; i < count(); ++i) {
            if (node(i).kind == Kind::kConcat) take_in(i);
            if (node(i).kind == Kind::kSlice || node(i).kind == Kind::kFlatten) view(i);
        }
        for (int32_t i = 0; i < count(); ++i)
            if (node(i).kind == Kind::kInPlace) overwrite(i);
        for (int32_t i = 0; i < count(); ++i) layout_.traffic.push_back(traffic(i));
        return std::move(layout_);
    }

  private:
    static int64_t bytes(const Node& n) {
        return (n.is_codes ? (n.channels + kGroup - 1) / kGroup * kGroup : n.channels) * n.plane;
    }

    void find_lives(std::span<const int32_t> outputs) {
        std::vector<Part>& lives = layout_.lives;
        for (int32_t i = 0; i < count(); ++i) {
            const Node& n = node(i);
            const int64_t size = n.kind == Kind::kFlatten ? life(n.inputs[0]).high : bytes(n);  // its input under another name
            lives.push_back({0, size, n.kind == Kind::kInput ? -1 : i, i});
            for (const int32_t x : n.inputs) lives[index(x)].death = n.kind == Kind::kHost ? count() : std::max<int64_t>(life(x).death, i);
        }
        for (const int32_t x : outputs) lives[index(x)].death = count();
    }

    void view(int32_t i) {
        const Node& n = node(i);
        const int32_t x = n.inputs[0];
        if (n.kind == Kind::kSlice && !begins_group(n, n.first, x)) return;
        const int64_t start = n.kind == Kind::kSlice ? n.first * n.plane : 0;
        held_[index(i)] = part(held(x), start, life(i).high);
        if (join(i, x, start)) layout_.aliases[index(i)] = {x};
    }

    // Take in every input that can lie in its piece; those of one block (the two slices of a C2f) come together.
    void take_in(int32_t i) {
        const Node& n = node(i);
        std::vector<std::pair<int32_t, int64_t>> pieces;
        int64_t channel = 0;
        for (const int32_t x : n.inputs) {
            const int64_t end = channel + node(x).channels;
            const bool whole = begins_group(n, channel, x) && (end % kGroup == 0 || end == n.channels || !node(x).is_codes);
            if (whole && std::count(n.inputs.begin(), n.inputs.end(), x) == 1) pieces.emplace_back(x, channel * n.plane);
            channel = end;
        }
        std::vector<int32_t>& shared = layout_.aliases[index(i)];
        for (const auto& [x, start] : pieces) {
            if (std::find(shared.begin(), shared.end(), x) != shared.end()) continue;
            std::vector<int32_t> together;
            const Held before = held_[index(i)];
            for (const auto& [y, s] : pieces)
                if (home(y) == home(x) && at(y) == at(x) + s - start) {
                    take_piece(i, y, s);
                    together.push_back(y);
                }
            if (join(x, i, start))
                shared.insert(shared.end(), together.begin(), together.end());
            else
                held_[index(i)] = before;
        }
    }

    void overwrite(int32_t i) {
        for (const int32_t x : node(i).inputs) {
            const bool alike = life(x).high == life(i).high && node(x).is_codes == node(i).is_codes;
            if (alike && life(x).death == life(i).birth && join(i, x, 0, true)) {
                layout_.aliases[index(i)] = {x};
                return;
            }
        }
    }

    Traffic traffic(int32_t i) const {
        const Node& n = node(i);
        const std::vector<int32_t>& shared = layout_.aliases[index(i)];
        int64_t in = 0, copied = 0, out = life(i).high;
        for (const int32_t x : n.inputs) {
            in += life(x).high;
            if (std::find(shared.begin(), shared.end(), x) == shared.end()) copied += life(x).high;
        }
        if (n.kind == Kind::kConcat) return {in, out, 2 * copied};
        if (n.kind == Kind::kSlice || n.kind == Kind::kFlatten) return {in, out, shared.empty() ? 2 * out : 0};
        return {in, out, in + out};
    }

    // Does a channel of node or x start at a whole group in both? False too where the two are stored differently.
    bool begins_group(const Node& n, int64_t channel, int32_t x) const {
        return node(x).is_codes == n.is_codes && !(n.is_codes && channel % kGroup != 0);
    }

    // A concat holds x's own bytes from `start` on, once x lies in place there.
    void take_piece(int32_t concat, int32_t x, int64_t start) {
        const Held before = held(concat), own = held(x);
        const int64_t rest = start + life(x).high;
        Held& now = held_[index(concat)] = part(before, 0, start);
        now.insert(now.end(), own.begin(), own.end());
        const Held behind = part(before, rest, life(concat).high - rest);
        now.insert(now.end(), behind.begin(), behind.end());
    }

    // Lay `a` at `offset` bytes after the start of `b`, with everything that moves along; false where that is not allowed.
    bool join(int32_t a, int32_t b, int64_t offset, bool overwrites = false) {
        const int32_t block_a = home(a), block_b = home(b);
        const int64_t shift = at(b) + offset - at(a);
        if (block_a == block_b) return shift == 0;
        std::vector<int32_t>&moved = members_[index(block_a)], &there = members_[index(block_b)];
        for (const int32_t u : moved)
            for (const int32_t v : there)
                if (!(overwrites && u == a && v == b) && !may_share(u, v, at(u) + shift - at(v))) return false;
        for (const int32_t u : moved) {
            layout_.home[index(u)] = block_b;
            layout_.at[index(u)] += shift;
        }
        there.insert(there.end(), moved.begin(), moved.end());
        moved.clear();
        return true;
    }

    // May u begin so many bytes after v? Not where at some step the two hold different values in bytes that they would share.
    bool may_share(int32_t u, int32_t v, int64_t low) const {
        const Part &one = life(u), &other = life(v);
        const bool apart = one.birth > other.death || other.birth > one.death || low >= other.high || low <= -one.high;
        if (apart) return true;
        const int64_t first = std::max<int64_t>(low, 0), shared = std::min(low + one.high, other.high) - first;
        return part(held(u), first - low, shared) == part(held(v), first, shared);
    }

    Held held(int32_t i) const {
        return held_[index(i)].empty() ? Held{{i, 0, life(i).high}} : held_[index(i)];
    }

    static size_t index(int32_t i) { return static_cast<size_t>(i); }
    int32_t count() const { return static_cast<int32_t>(nodes_.size()); }
    const Node& node(int32_t i) const { return nodes_[index(i)]; }
    const Part& life(int32_t i) const { return layout_.lives[index(i)]; }
    int32_t home(int32_t i) const { return layout_.home[index(i)]; }
    int64_t at(int32_t i) const { return layout_.at[index(i)]; }

    std::span<const Node> nodes_;
    Layout layout_;
    std::vector<std::vector<int32_t>> members_;  // of the block named after each tensor
    std::vector<Held> held_;                     // of what others computed; empty where a tensor holds all its own
};

}  // namespace

Layout share(std::span<const Node> nodes, std::span<const int32_t> outputs) { return Blocks(nodes, outputs).joined(); }

}  // namespace edgenas::planner
