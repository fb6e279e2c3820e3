// The float operators of attention blocks, planar (C, H, W), batch 1. y does not overlap the inputs. Shares are of what is computed
// together: lines along the axis, rows of a product.
#pragma once
#include <cstdint>

#include "../share.h"

namespace edgenas {

// A tensor seen along one axis: element (o, k, i) lies at (o * n + k) * inner + i; softmax and layernorm run over k.
struct Axis {
    int64_t outer, n, inner;
};

void softmax(const Axis&, const float* x, float* y, Share);
void layernorm(const Axis&, float eps, const float* gamma, const float* beta, const float* x, float* y, Share);     // gamma, beta [n]

// y[c] = a[c] * b[c]: (m, k) by (k, n), or by (n, k) where transpose_b.
struct Matmul {
    int64_t c, m, k, n;
    bool transpose_b;
};
void matmul(const Matmul&, const float* a, const float* b, float* y, Share);

}  // namespace edgenas
