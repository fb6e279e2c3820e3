#include "float_requant.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <utility>

namespace edgenas {
namespace {

// The definition for one channel, as a function that ascends with s; s is the sum, or its negative where the multiplier is.
struct Ascending {
    int64_t multiplier, bias;
    int32_t shift;
    int64_t code(int64_t s) const { return (s * multiplier + bias) >> shift; }
    double real(int64_t s) const { return std::ldexp(static_cast<double>(s * multiplier + bias), -shift); }
    // The first s in (low, high] with code(s) >= k; code(low) < k <= code(high).
    int64_t first(int64_t k, int64_t low, int64_t high) const {
        while (high - low > 1) {
            const int64_t middle = low + (high - low) / 2;
            (code(middle) >= k ? high : low) = middle;
        }
        return high;
    }
};

}  // namespace

bool float_scale(const Requant& r, int32_t c, int64_t start, int64_t largest, FloatScale& scale) {
    constexpr int64_t kExact = 1 << 24;         // sums up to here are floats
    constexpr double kFar = 1 << 30;            // and results up to here are int32
    constexpr int64_t kLargestBias = int64_t{1} << 62;
    if (largest >= kExact || std::abs(start) >= kExact || r.bias[c] > kLargestBias || r.bias[c] < -kLargestBias) return false;
    const int64_t low = r.kind == Epilogue::kTable ? 0 : r.lo, high = r.kind == Epilogue::kTable ? r.table_size - 1 : r.hi;
    const int32_t sign = r.multiplier[c] < 0 ? -1 : 1;
    const Ascending f{sign * static_cast<int64_t>(r.multiplier[c]), r.bias[c] + start * r.multiplier[c], r.shift};
    if (std::fabs(f.real(-largest)) > kFar || std::fabs(f.real(largest)) > kFar) return false;
    std::vector<std::pair<int64_t, int64_t>> steps;             // (code, first sum that has it)
    double up = 1, down = 1;                                    // room of the offset
    int64_t before = -largest;
    for (int64_t k = std::max(low + 1, f.code(-largest) + 1); k <= std::min(high, f.code(largest)); ++k) {
        const int64_t s = f.first(k, before, largest);
        up = std::min(up, static_cast<double>(k) - f.real(s - 1));
        down = std::min(down, f.real(s) - static_cast<double>(k));
        steps.emplace_back(k, s);
        before = s - 1;
    }
    const double factor = std::ldexp(static_cast<double>(f.multiplier), -r.shift);
    const double offset = std::ldexp(static_cast<double>(f.bias), -r.shift);
    scale = {static_cast<float>(sign * factor), static_cast<float>(offset - 0.5 + (up - down) / 2)};
    const auto code = [&](int64_t s) {
        const float value = std::nearbyint(std::fma(static_cast<float>(sign * s), scale.factor, scale.offset));
        return std::clamp(static_cast<int64_t>(value), low, high);
    };
    const auto same = [&](int64_t s) { return code(s) == std::clamp(f.code(s), low, high); };
    return same(-largest) && same(largest) && std::all_of(steps.begin(), steps.end(), [&](const auto& step) {
        return same(step.second) && same(step.second - 1);
    });
}

}  // namespace edgenas
