#include <cmath>

#include "kernel.h"

namespace edgenas {
namespace {

// Calls line(base) with the first element of each line of a share.
template <class Line>
void for_lines(const Axis& axis, Share share, Line line) {
    const auto lines = static_cast<int32_t>(axis.outer * axis.inner);
    for (int64_t k = begin_of(share, lines); k < end_of(share, lines); ++k)
        line(k / axis.inner * axis.n * axis.inner + k % axis.inner);
}

}  // namespace

void softmax(const Axis& axis, const float* x, float* y, Share share) {
    for_lines(axis, share, [&](int64_t base) {
        float highest = x[base];
        for (int64_t k = 1; k < axis.n; ++k) highest = std::fmax(highest, x[base + k * axis.inner]);
        float sum = 0;
        for (int64_t k = 0; k < axis.n; ++k) {
            const float e = std::exp(x[base + k * axis.inner] - highest);
            y[base + k * axis.inner] = e;
            sum += e;
        }
        for (int64_t k = 0; k < axis.n; ++k) y[base + k * axis.inner] /= sum;
    });
}

void layernorm(const Axis& axis, float eps, const float* gamma, const float* beta, const float* x, float* y, Share share) {
    for_lines(axis, share, [&](int64_t base) {
        // Doubles: the mean cancels most digits where the values lie close together.
        double sum = 0, squares = 0;
        for (int64_t k = 0; k < axis.n; ++k) sum += x[base + k * axis.inner];
        const double mean = sum / static_cast<double>(axis.n);
        for (int64_t k = 0; k < axis.n; ++k) {
            const double d = x[base + k * axis.inner] - mean;
            squares += d * d;
        }
        const double scale = 1.0 / std::sqrt(squares / static_cast<double>(axis.n) + eps);
        for (int64_t k = 0; k < axis.n; ++k) {
            const int64_t at = base + k * axis.inner;
            y[at] = static_cast<float>((x[at] - mean) * scale) * gamma[k] + beta[k];
        }
    });
}

void matmul(const Matmul& p, const float* a, const float* b, float* y, Share share) {
    const auto rows = static_cast<int32_t>(p.c * p.m);
    for (int64_t r = begin_of(share, rows); r < end_of(share, rows); ++r) {
        const float *left = a + r * p.k, *right = b + r / p.m * p.k * p.n;
        float* out = y + r * p.n;
        for (int64_t n = 0; n < p.n; ++n) out[n] = 0;
        for (int64_t k = 0; k < p.k; ++k)
            for (int64_t n = 0; n < p.n; ++n) out[n] += left[k] * (p.transpose_b ? right[n * p.k + k] : right[k * p.n + n]);
    }
}

}  // namespace edgenas
