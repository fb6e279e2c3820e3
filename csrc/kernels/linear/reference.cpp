#include <cstring>

#include "../conv2d/kernel.h"
#include "kernel.h"

namespace edgenas {
namespace {

int64_t input_bytes(const Linear& p) { return (int64_t{p.c_in} + 3) / 4 * 4 * p.pixels; }

}  // namespace

size_t linear_prepared_bytes(const Linear& p) { return static_cast<size_t>(p.c_out * (input_bytes(p) + 4)); }

void linear_prepare(const Linear& p, void* prepared) {
    auto* out = static_cast<int8_t*>(prepared);
    const int64_t n = input_bytes(p), row = weight_row_bytes(p.c_in * p.pixels, p.wbits);
    std::memset(prepared, 0, linear_prepared_bytes(p));
    for (int64_t co = 0; co < p.c_out; ++co) {
        int32_t sum = 0;
        for (int64_t c = 0; c < p.c_in; ++c)
            for (int64_t k = 0; k < p.pixels; ++k) {
                const int32_t w = unpack_weight(p.weights + co * row, c * p.pixels + k, p.wbits);
                out[co * n + (c / 4 * p.pixels + k) * 4 + c % 4] = static_cast<int8_t>(w);
                sum += w * p.zero_point;
            }
        std::memcpy(out + p.c_out * n + co * 4, &sum, sizeof sum);
    }
}

void linear(const Linear& p, const void* prepared, const uint8_t* x, void* y, Share share) {
    const auto* weights = static_cast<const int8_t*>(prepared);
    const int64_t n = input_bytes(p);
    const int32_t groups = (p.c_out + 3) / 4;
    for (int32_t co = 4 * begin_of(share, groups); co < 4 * end_of(share, groups); ++co) {
        if (co >= p.c_out) {
            if (p.requant.kind != Epilogue::kFloat) static_cast<uint8_t*>(y)[co] = 0;
            continue;
        }
        int32_t sum = 0, zero_sum;
        std::memcpy(&zero_sum, weights + p.c_out * n + int64_t{co} * 4, sizeof zero_sum);
        for (int64_t k = 0; k < n; ++k) sum += weights[co * n + k] * x[k];
        const auto acc = static_cast<int32_t>(int64_t{sum} - zero_sum);
        if (p.requant.kind == Epilogue::kFloat)
            static_cast<float*>(y)[co] = requant_float(p.requant, co, acc);
        else
            static_cast<uint8_t*>(y)[co] = requant_code(p.requant, co, acc);
    }
}

void linear_f32(int64_t c_in, int32_t c_out, const float* weights, const float* bias, Activation act, const float* x, float* y,
                Share share) {
    for (int64_t co = begin_of(share, c_out); co < end_of(share, c_out); ++co) {
        float acc = bias != nullptr ? bias[co] : 0.0f;
        for (int64_t ci = 0; ci < c_in; ++ci) acc += weights[co * c_in + ci] * x[ci];
        y[co] = activate(act, acc);
    }
}

}  // namespace edgenas
