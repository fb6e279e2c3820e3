// The activations of the float path, and their scalar definitions.
#pragma once
#include <cmath>
#include <cstdint>

namespace edgenas {

enum class Activation : uint8_t { kNone, kRelu, kRelu6, kLeakyRelu, kHardswish, kSilu, kSigmoid, kGelu };

constexpr float kLeakySlope = 0.1f;

// Internal linkage: see requant.h.
static inline float activate(Activation act, float v) {
    switch (act) {
        case Activation::kNone: return v;
        case Activation::kRelu: return v > 0.0f ? v : 0.0f;
        case Activation::kRelu6: return v < 0.0f ? 0.0f : v > 6.0f ? 6.0f : v;
        case Activation::kLeakyRelu: return v > 0.0f ? v : v * kLeakySlope;
        case Activation::kHardswish: {
            const float gate = v + 3.0f;
            return v * (gate < 0.0f ? 0.0f : gate > 6.0f ? 6.0f : gate) / 6.0f;
        }
        case Activation::kSilu: return v / (1.0f + std::exp(-v));
        case Activation::kSigmoid: return 1.0f / (1.0f + std::exp(-v));
        case Activation::kGelu: return 0.5f * v * (1.0f + std::erf(v * 0.70710678f));
    }
    return v;
}

}  // namespace edgenas
