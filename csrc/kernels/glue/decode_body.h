// The head's decode in float32: the operations of nas/runtime/detect.py in the same order, over blocks of cells so that the
// compiler vectorizes across cells. No std::exp, whose last bit depends on the C library. Included by body.h alone.
#pragma once
#include "kernel.h"

namespace edgenas {
namespace {

constexpr int32_t kCells = 64;              // of a block

// exp of n values in place. Clamping has its own loop: in one loop, gcc follows the two constants as branches and gives up.
inline void exp_block(int32_t n, float* values) {
    for (int32_t i = 0; i < n; ++i) {
        const float at_least = values[i] > -87.0f ? values[i] : -87.0f;
        values[i] = at_least < 88.0f ? at_least : 88.0f;
    }
    for (int32_t i = 0; i < n; ++i) {
        // Floor by truncation, which every instruction set has for vectors; -126 .. 127, so it fits.
        const float scaled = values[i] * 1.44269504f + 0.5f, whole = static_cast<float>(static_cast<int32_t>(scaled));
        const float power = whole - (whole > scaled ? 1.0f : 0.0f);
        float r = values[i] - power * 0.693359375f;
        r = r - power * -2.12194440e-4f;
        float p = 1.9875691500e-4f;
        p = p * r + 1.3981999507e-3f;
        p = p * r + 8.3334519073e-3f;
        p = p * r + 4.1665795894e-2f;
        p = p * r + 1.6666665459e-1f;
        p = p * r + 5.0000001201e-1f;
        p = p * (r * r) + r;
        p = p + 1.0f;
        values[i] = p * __builtin_bit_cast(float, (static_cast<int32_t>(power) + 127) << 23);
    }
}

// Means of the softmax over bins, for n neighbouring cells; the bins of a cell lie `pixels` apart.
void expectation(const float* logits, int64_t pixels, int32_t bins, int32_t n, float* mean) {
    float highest[kCells], total[kCells], weighted[kCells], e[kCells];
    for (int32_t i = 0; i < n; ++i) highest[i] = logits[i], total[i] = 0.0f, weighted[i] = 0.0f;
    for (int32_t k = 1; k < bins; ++k)
        for (int32_t i = 0; i < n; ++i) highest[i] = logits[k * pixels + i] > highest[i] ? logits[k * pixels + i] : highest[i];
    for (int32_t k = 0; k < bins; ++k) {
        for (int32_t i = 0; i < n; ++i) e[i] = logits[k * pixels + i] - highest[i];
        exp_block(n, e);
        for (int32_t i = 0; i < n; ++i) {
            total[i] = total[i] + e[i];
            weighted[i] = weighted[i] + e[i] * static_cast<float>(k);
        }
    }
    for (int32_t i = 0; i < n; ++i) mean[i] = weighted[i] / total[i];
}

void decode_level(const Level& l, int32_t bins, int32_t classes, int64_t anchors, float* y) {
    const auto s = static_cast<float>(l.stride);
    for (int64_t first = l.first; first < l.last; first += kCells) {
        const auto n = static_cast<int32_t>(l.last - first < kCells ? l.last - first : kCells);
        float side[4][kCells];
        for (int64_t b = 0; b < 4; ++b) expectation(l.box + b * bins * l.pixels + first, l.pixels, bins, n, side[b]);
        for (int32_t i = 0; i < n; ++i) {
            float* out = y + first + i;
            const float cx = static_cast<float>((first + i) % l.w) + 0.5f, cy = static_cast<float>((first + i) / l.w) + 0.5f;
            out[0] = (cx - side[0][i]) * s;
            out[anchors] = (cy - side[1][i]) * s;
            out[2 * anchors] = (cx + side[2][i]) * s;
            out[3 * anchors] = (cy + side[3][i]) * s;
        }
    }
    for (int64_t c = 0; c < classes; ++c)
        for (int64_t first = l.first; first < l.last; first += kCells) {
            const auto n = static_cast<int32_t>(l.last - first < kCells ? l.last - first : kCells);
            const float* logits = l.cls + c * l.pixels + first;
            float* out = y + (4 + c) * anchors + first;
            for (int32_t i = 0; i < n; ++i) out[i] = -logits[i];
            exp_block(n, out);
            for (int32_t i = 0; i < n; ++i) out[i] = 1.0f / (1.0f + out[i]);
        }
}

}  // namespace
}  // namespace edgenas
