#include "lookup_runs.h"

#include <algorithm>
#include <numeric>

namespace edgenas {
namespace {

constexpr int32_t kHalfByte = 15, kByte = 255;

struct Run {
    std::vector<int32_t> steps;
    std::array<int32_t, kRunChannels> sum{};

    bool takes(const StepRange& r) const {
        if (static_cast<int32_t>(steps.size()) == kLongestRun) return false;
        for (size_t q = 0; q < r.size(); ++q)
            if (sum[q] + r[q] > kHalfByte) return false;
        return true;
    }
    void add(int32_t step, const StepRange& r) {
        steps.push_back(step);
        for (size_t q = 0; q < r.size(); ++q) sum[q] += r[q];
    }
};

// First fit, largest steps first, among the last few runs that were opened.
std::vector<Run> pack_runs(const std::vector<StepRange>& ranges) {
    constexpr size_t kOpen = 24;
    std::vector<int32_t> order(ranges.size());
    std::iota(order.begin(), order.end(), 0);
    const auto size = [&](int32_t s) {
        const StepRange& r = ranges[static_cast<size_t>(s)];
        return std::accumulate(r.begin(), r.end(), 0);
    };
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return size(a) > size(b); });
    std::vector<Run> runs;
    size_t first = 0;                       // runs before it take no more
    for (const int32_t s : order) {
        const StepRange& r = ranges[static_cast<size_t>(s)];
        size_t i = std::max(first, runs.size() - std::min(runs.size(), kOpen));
        while (i < runs.size() && !runs[i].takes(r)) ++i;
        if (i == runs.size()) runs.emplace_back();
        runs[i].add(s, r);
        while (first < runs.size() && static_cast<int32_t>(runs[first].steps.size()) == kLongestRun) ++first;
    }
    return runs;
}

}  // namespace

RunOrder order_runs(const std::vector<StepRange>& ranges) {
    std::vector<Run> runs = pack_runs(ranges);
    for (Run& r : runs) std::sort(r.steps.begin(), r.steps.end());
    std::sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) {
        return a.steps.size() != b.steps.size() ? a.steps.size() > b.steps.size() : a.steps[0] < b.steps[0];
    });
    RunOrder order{{}, {}, true};
    std::array<int32_t, kRunChannels> sum{};
    for (const Run& r : runs) {
        const auto length = static_cast<int16_t>(r.steps.size());
        bool fits = true;
        for (size_t q = 0; q < sum.size(); ++q) fits = fits && sum[q] + r.sum[q] <= kByte;
        if (!fits) {
            order.segments.back().widen = true, order.bytes = false;
            sum.fill(0);
        }
        if (order.segments.empty() || order.segments.back().widen || order.segments.back().length != length)
            order.segments.push_back({length, false, 0});
        ++order.segments.back().runs;
        for (size_t q = 0; q < sum.size(); ++q) sum[q] += r.sum[q];
        order.steps.insert(order.steps.end(), r.steps.begin(), r.steps.end());
    }
    order.segments.back().widen = true;
    return order;
}

bool byte_levels(const uint16_t* thresholds, int32_t largest, uint8_t flip, bool bytes, ByteLevels& levels) {
    constexpr int32_t kNever = 127, kLowest = -128;
    const auto reachable = [&](int32_t t) { return t > 0 && t <= largest; };
    int32_t least = 65535, most = 0;
    for (int k = 0; k < 3; ++k)
        if (reachable(thresholds[k])) least = std::min<int32_t>(least, thresholds[k]), most = std::max<int32_t>(most, thresholds[k]);
    const int32_t middle = bytes ? 128 : least <= most ? least - 1 - kLowest : 0;
    if (most - 1 - middle >= kNever || largest > 32640) return false;
    const auto byte = [](int32_t v) { return static_cast<uint32_t>(v & 0xFF) * 0x01010101u; };
    int32_t always = 0;
    for (int k = 0; k < 3; ++k) {
        always += thresholds[k] == 0;
        levels.above[k] = byte(reachable(thresholds[k]) ? thresholds[k] - 1 - middle : kNever);
    }
    levels.middle = static_cast<uint32_t>(middle & 0xFFFF) * 0x00010001u;
    levels.base = byte(always), levels.flip = byte(flip);
    return true;
}

}  // namespace edgenas
