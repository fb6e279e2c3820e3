#include <cmath>

#include "kernel.h"

namespace edgenas {

void softmax(const Axis& axis, const float* x, float* y) {
    for (int64_t o = 0; o < axis.outer; ++o)
        for (int64_t i = 0; i < axis.inner; ++i) {
            const int64_t base = o * axis.n * axis.inner + i;
            float highest = x[base];
            for (int64_t k = 1; k < axis.n; ++k) highest = std::fmax(highest, x[base + k * axis.inner]);
            float sum = 0;
            for (int64_t k = 0; k < axis.n; ++k) {
                const float e = std::exp(x[base + k * axis.inner] - highest);
                y[base + k * axis.inner] = e;
                sum += e;
            }
            for (int64_t k = 0; k < axis.n; ++k) y[base + k * axis.inner] /= sum;
        }
}

void layernorm(const Axis& axis, float eps, const float* gamma, const float* beta, const float* x, float* y) {
    for (int64_t o = 0; o < axis.outer; ++o)
        for (int64_t i = 0; i < axis.inner; ++i) {
            const int64_t base = o * axis.n * axis.inner + i;
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
        }
}

void matmul(const Matmul& p, const float* a, const float* b, float* y) {
    for (int64_t c = 0; c < p.c; ++c, a += p.m * p.k, b += p.k * p.n)
        for (int64_t m = 0; m < p.m; ++m, y += p.n) {
            for (int64_t n = 0; n < p.n; ++n) y[n] = 0;
            for (int64_t k = 0; k < p.k; ++k)
                for (int64_t n = 0; n < p.n; ++n) y[n] += a[m * p.k + k] * (p.transpose_b ? b[n * p.k + k] : b[k * p.n + n]);
        }
}

}  // namespace edgenas
