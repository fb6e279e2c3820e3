#include <algorithm>
#include <numeric>

#include "planner.h"

namespace edgenas::planner {
namespace {

constexpr int kTries = 1000;     // orders tried at most; most nets need one
constexpr int64_t kClose = 1024;  // a peak above the bound by less than one part in so many is not searched further

struct Extent {
    int64_t size = 0, birth = INT64_MAX, death = INT64_MIN;
};

// start(this) - start(other) must not lie strictly between low and high, where live parts of both would overlap.
struct Apart {
    size_t other;
    int64_t low, high;
};

// The same numbers on every machine, unlike those of <random>'s distributions (the constants are Knuth's, MMIX).
class Dice {
  public:
    explicit Dice(uint64_t seed) : state_(seed) {}
    size_t below(size_t n) {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        return static_cast<size_t>(state_ >> 33) % n;
    }

  private:
    uint64_t state_;
};

Extent extent(const Block& block) {
    Extent e;
    for (const Part& p : block) e = {std::max(e.size, p.high), std::min(e.birth, p.birth), std::max(e.death, p.death)};
    return e;
}

// Bytes alive at each step, from step -1 on; bytes that several parts of a block hold count once.
std::vector<int64_t> live_bytes(std::span<const Block> blocks, std::span<const Extent> extents) {
    int64_t last = -1;
    for (const Extent& e : extents) last = std::max(last, e.death);
    std::vector<int64_t> change(static_cast<size_t>(last + 3));
    for (Block parts : blocks) {
        std::vector<int64_t> steps;
        for (const Part& p : parts) steps.insert(steps.end(), {p.birth, p.death + 1});
        std::sort(steps.begin(), steps.end());
        steps.erase(std::unique(steps.begin(), steps.end()), steps.end());
        std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.low < b.low; });
        int64_t before = 0;
        for (const int64_t step : steps) {
            int64_t now = 0, reach = 0;
            for (const Part& p : parts)
                if (p.birth <= step && step <= p.death && p.high > reach) {
                    now += p.high - std::max(p.low, reach);
                    reach = p.high;
                }
            change[static_cast<size_t>(step + 1)] += now - before;
            before = now;
        }
    }
    std::partial_sum(change.begin(), change.end(), change.begin());
    return change;
}

std::vector<std::vector<Apart>> apart(std::span<const Block> blocks, std::span<const Extent> extents) {
    std::vector<std::vector<Apart>> found(blocks.size());
    for (size_t a = 0; a < blocks.size(); ++a)
        for (size_t b = 0; b < a; ++b) {
            if (extents[a].birth > extents[b].death || extents[b].birth > extents[a].death) continue;
            for (const Part& p : blocks[a])
                for (const Part& q : blocks[b])
                    if (p.birth <= q.death && q.birth <= p.death) {
                        found[a].push_back({b, q.low - p.high, q.high - p.low});
                        found[b].push_back({a, p.low - q.high, p.high - q.low});
                    }
        }
    return found;
}

class Placer {
  public:
    Placer(std::span<const Block> blocks, int64_t alignment) : alignment_(alignment), starts_(blocks.size(), -1) {
        for (const Block& block : blocks) extents_.push_back(extent(block));
        live_ = live_bytes(blocks, extents_);
        apart_ = apart(blocks, extents_);
    }

    // First fit in order of the fullest step that a block lives to see. Where its peak stays above the live bytes, squeaky wheel
    // optimization (Joslin and Clements, JAIR 10, 1999): the block that reached too high comes earlier in the order, again and
    // again; an order is given up at the first block that reaches the best peak so far, and what stands before the moved block stays.
    Placement placed() && {
        const int64_t bound = *std::max_element(live_.begin(), live_.end());
        std::vector<size_t> order = first_order();
        std::vector<int64_t> best;
        Dice dice(order.size());
        int64_t peak = INT64_MAX;
        size_t first = 0;
        for (int i = 0; i < kTries; ++i) {
            size_t high = first_fit(order, first, peak);
            if (high == order.size()) {
                best = starts_;
                high = *std::max_element(order.begin(), order.end(), [&](size_t a, size_t b) { return end(a) < end(b); });
                peak = end(high);
                if (peak <= bound + bound / kClose) break;
            }
            const auto wheel = std::find(order.begin(), order.end(), high);
            first = dice.below(static_cast<size_t>(wheel - order.begin()) + 1);
            const auto earlier = order.begin() + static_cast<std::ptrdiff_t>(first);
            std::rotate(earlier, wheel, wheel + 1);
            std::for_each(earlier, order.end(), [&](size_t moved) { starts_[moved] = -1; });
        }
        return {std::move(best), bound};
    }

  private:
    std::vector<size_t> first_order() const {
        std::vector<int64_t> fullest, area;
        for (const Extent& e : extents_) {
            fullest.push_back(*std::max_element(live_.begin() + e.birth + 1, live_.begin() + e.death + 2));
            area.push_back(e.size * (e.death - e.birth + 1));
        }
        std::vector<size_t> order(extents_.size());
        std::iota(order.begin(), order.end(), size_t{0});
        std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
            return fullest[a] != fullest[b] ? fullest[a] > fullest[b] : area[a] > area[b];
        });
        return order;
    }

    // Gives order[first ..] the lowest aligned starts beside what is placed (start >= 0); the first block to reach `limit`, or the number
    // of blocks.
    size_t first_fit(std::span<const size_t> order, size_t first, int64_t limit) {
        for (const size_t i : order.subspan(first)) {
            taken_.clear();
            for (const Apart& a : apart_[i])
                if (starts_[a.other] >= 0) taken_.emplace_back(starts_[a.other] + a.low, starts_[a.other] + a.high);
            std::sort(taken_.begin(), taken_.end());
            int64_t start = 0;
            for (const auto& [low, high] : taken_) {
                if (low >= start) break;
                if (high > start) start = (high + alignment_ - 1) / alignment_ * alignment_;
            }
            starts_[i] = start;
            if (end(i) >= limit) return i;
        }
        return order.size();
    }

    int64_t end(size_t i) const { return starts_[i] + extents_[i].size; }

    int64_t alignment_;
    std::vector<int64_t> starts_, live_;
    std::vector<Extent> extents_;
    std::vector<std::vector<Apart>> apart_;
    std::vector<std::pair<int64_t, int64_t>> taken_;  // scratch of first_fit
};

}  // namespace

Placement place(std::span<const Block> blocks, int64_t alignment) {
    if (blocks.empty()) return {{}, 0};
    return Placer(blocks, alignment).placed();
}

Arena arena(const Layout& layout, int64_t alignment) {
    const size_t n = layout.home.size();
    std::vector<int64_t> lowest(n, INT64_MAX);  // in the block named after each tensor
    for (size_t i = 0; i < n; ++i)
        if (layout.home[i] >= 0) {
            int64_t& low = lowest[static_cast<size_t>(layout.home[i])];
            low = std::min(low, layout.at[i]);
        }
    std::vector<Block> blocks;
    std::vector<size_t> number(n);  // of the block named after each tensor
    for (size_t i = 0; i < n; ++i)
        if (lowest[i] != INT64_MAX) {
            number[i] = blocks.size();
            blocks.emplace_back();
        }
    for (size_t i = 0; i < n; ++i)
        if (layout.home[i] >= 0) {
            const auto home = static_cast<size_t>(layout.home[i]);
            const int64_t low = layout.at[i] - lowest[home];
            blocks[number[home]].push_back({low, low + layout.lives[i].high, layout.lives[i].birth, layout.lives[i].death});
        }
    const Placement placement = place(blocks, alignment);
    Arena found{std::vector<int64_t>(n, -1), 0, placement.bound};
    for (size_t i = 0; i < n; ++i)
        if (layout.home[i] >= 0) {
            const auto home = static_cast<size_t>(layout.home[i]);
            found.offsets[i] = placement.starts[number[home]] - lowest[home] + layout.at[i];
            found.peak = std::max(found.peak, found.offsets[i] + layout.lives[i].high);
        }
    return found;
}

}  // namespace edgenas::planner
