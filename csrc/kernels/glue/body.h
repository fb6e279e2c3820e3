// The one body of the glue kernels, written so that the compiler vectorizes it; each ISA file includes it once and gets
// its own copy through the anonymous namespace. No std templates here: their bodies would be shared between the copies.
#pragma once
#include <cmath>
#include <cstring>

#include "decode_body.h"
#include "kernel.h"

namespace edgenas {
namespace {

int64_t groups_of(int32_t c) { return (c + 3) / 4; }

// One element of an epilogue, to codes in C4 or to planar floats.
inline void store(const Requant& r, int32_t real_channels, int64_t pixels, int64_t group, int64_t pixel, int32_t lane, int32_t acc,
                  void* y) {
    const auto c = static_cast<int32_t>(4 * group + lane);
    if (r.kind != Epilogue::kFloat)
        static_cast<uint8_t*>(y)[(group * pixels + pixel) * 4 + lane] = requant_code(r, c, acc);
    else if (c < real_channels)
        static_cast<float*>(y)[c * pixels + pixel] = requant_float(r, c, acc);
}

// True where (ma * a + mb * b + *bias) fits int32 for all codes and one linear requantization serves all channels.
bool fits_int32(const Pair& p, int32_t* bias) {
    const Requant& r = p.requant;
    if (p.broadcast || r.kind != Epilogue::kLinear || r.shift > 31) return false;
    for (int32_t c = 0; c < p.c; ++c)
        if (r.multiplier[c] != 1 || r.bias[c] != r.bias[0]) return false;
    const int64_t b = r.bias[0] - int64_t{p.ma} * p.za - int64_t{p.mb} * p.zb;
    const int64_t ma = p.ma < 0 ? -int64_t{p.ma} : p.ma, mb = p.mb < 0 ? -int64_t{p.mb} : p.mb;
    const int64_t reach = 255 * (ma + mb);
    if (b >= INT32_MAX - reach || b <= INT32_MIN + reach) return false;
    *bias = static_cast<int32_t>(b);
    return true;
}

void add(const Pair& p, const uint8_t* a, const uint8_t* b, void* y) {
    const Requant& r = p.requant;
    int32_t bias;
    if (fits_int32(p, &bias)) {
        auto* codes = static_cast<uint8_t*>(y);
        const int64_t n = groups_of(p.c) * p.pixels * 4;
        const int32_t ma = p.ma, mb = p.mb, shift = r.shift, lo = r.lo, hi = r.hi;
        for (int64_t k = 0; k < n; ++k) {
            const int32_t v = (ma * a[k] + mb * b[k] + bias) >> shift;
            const int32_t at_least = v < lo ? lo : v;
            codes[k] = static_cast<uint8_t>(at_least > hi ? hi : at_least);
        }
        return;
    }
    for (int64_t g = 0; g < groups_of(p.c); ++g)
        for (int64_t k = 0; k < p.pixels; ++k)
            for (int32_t lane = 0; lane < 4; ++lane) {
                const int64_t at = (g * p.pixels + k) * 4 + lane;
                const int32_t acc = p.ma * (a[at] - p.za) + p.mb * (b[p.broadcast ? g * 4 + lane : at] - p.zb);
                store(r, p.c, p.pixels, g, k, lane, acc, y);
            }
}

void mul(const Pair& p, const uint8_t* a, const uint8_t* b, void* y) {
    for (int64_t g = 0; g < groups_of(p.c); ++g)
        for (int64_t k = 0; k < p.pixels; ++k)
            for (int32_t lane = 0; lane < 4; ++lane) {
                const int64_t at = (g * p.pixels + k) * 4 + lane;
                const int32_t acc = (a[at] - p.za) * (b[p.broadcast ? g * 4 + lane : at] - p.zb);
                store(p.requant, p.c, p.pixels, g, k, lane, acc, y);
            }
}

void requantize(int32_t c, int64_t pixels, int32_t zero_point, const Requant& r, const uint8_t* x, void* y) {
    for (int64_t g = 0; g < groups_of(c); ++g)
        for (int64_t k = 0; k < pixels; ++k)
            for (int32_t lane = 0; lane < 4; ++lane) store(r, c, pixels, g, k, lane, x[(g * pixels + k) * 4 + lane] - zero_point, y);
}

void lookup(int64_t bytes, const uint8_t* table, const uint8_t* x, uint8_t* y) {
    for (int64_t k = 0; k < bytes; ++k) y[k] = table[x[k]];
}

void global_avgpool(int32_t c, int64_t pixels, int32_t zero_point, const Requant& r, const uint8_t* x, void* y) {
    for (int64_t g = 0; g < groups_of(c); ++g) {
        int32_t acc[4] = {0, 0, 0, 0};
        for (int64_t k = 0; k < pixels; ++k)
            for (int32_t lane = 0; lane < 4; ++lane) acc[lane] += x[(g * pixels + k) * 4 + lane];
        const auto z = static_cast<int32_t>(pixels * zero_point);
        for (int32_t lane = 0; lane < 4; ++lane) store(r, c, 1, g, 0, lane, acc[lane] - z, y);
    }
}

// Rows first into one padded row of `scratch`, then along it. `lowest` pads: it never wins against a pixel.
template <typename T, int kLanes>
void maxpool_planes(const Pool& p, int64_t planes, T lowest, const T* x, T* y, T* row) {
    const int32_t width = (p.w + 2 * p.pad) * kLanes, inner = p.w * kLanes;
    for (int32_t k = 0; k < width; ++k) row[k] = lowest;
    T* middle = row + p.pad * kLanes;
    for (int64_t plane = 0; plane < planes; ++plane, x += int64_t{p.h} * inner)
        for (int32_t oy = 0; oy < p.h_out; ++oy, y += int64_t{p.w_out} * kLanes) {
            const int32_t top = oy * p.stride - p.pad;
            const int32_t from = top < 0 ? 0 : top, to = top + p.kernel > p.h ? p.h : top + p.kernel;
            const T* first = x + int64_t{from} * inner;
            for (int32_t k = 0; k < inner; ++k) middle[k] = first[k];
            for (int32_t iy = from + 1; iy < to; ++iy) {
                const T* next = x + int64_t{iy} * inner;
                for (int32_t k = 0; k < inner; ++k) middle[k] = next[k] > middle[k] ? next[k] : middle[k];
            }
            if (p.stride == 1) {
                const int32_t n = p.w_out * kLanes;
                for (int32_t k = 0; k < n; ++k) y[k] = row[k];
                for (int32_t dx = 1; dx < p.kernel; ++dx) {
                    const T* shifted = row + dx * kLanes;
                    for (int32_t k = 0; k < n; ++k) y[k] = shifted[k] > y[k] ? shifted[k] : y[k];
                }
                continue;
            }
            for (int32_t dx = 0; dx < p.kernel; ++dx) {
                T* column = row + width;            // every stride-th pixel from dx on
                for (int32_t ox = 0; ox < p.w_out; ++ox)
                    for (int32_t lane = 0; lane < kLanes; ++lane) column[ox * kLanes + lane] = row[(ox * p.stride + dx) * kLanes + lane];
                const int32_t n = p.w_out * kLanes;
                for (int32_t k = 0; k < n; ++k) y[k] = dx == 0 || column[k] > y[k] ? column[k] : y[k];
            }
        }
}

void maxpool(const Pool& p, const uint8_t* x, uint8_t* y, void* scratch) {
    maxpool_planes<uint8_t, 4>(p, groups_of(p.c), 0, x, y, static_cast<uint8_t*>(scratch));
}

void maxpool_f32(const Pool& p, const float* x, float* y, void* scratch) {
    maxpool_planes<float, 1>(p, p.c, -HUGE_VALF, x, y, static_cast<float*>(scratch));
}

// A C4 pixel and a float are both four bytes, so both layouts are planes of 32-bit pixels.
void upsample_planes(int64_t planes, int32_t h, int32_t w, int32_t factor, const void* x, void* y) {
    const auto* in = static_cast<const char*>(x);
    auto* out = static_cast<char*>(y);
    const int64_t row_out = int64_t{w} * factor * 4;
    for (int64_t row = 0; row < planes * h; ++row, in += int64_t{w} * 4) {
        char* first = out;
        for (int32_t k = 0; k < w; ++k)
            for (int32_t f = 0; f < factor; ++f) std::memcpy(first + (int64_t{k} * factor + f) * 4, in + int64_t{k} * 4, 4);
        for (int32_t f = 1; f < factor; ++f) std::memcpy(first + f * row_out, first, static_cast<size_t>(row_out));
        out += factor * row_out;
    }
}

void upsample(int32_t c, int32_t h, int32_t w, int32_t factor, const uint8_t* x, uint8_t* y) {
    upsample_planes(groups_of(c), h, w, factor, x, y);
}

void upsample_f32(int32_t c, int32_t h, int32_t w, int32_t factor, const float* x, float* y) { upsample_planes(c, h, w, factor, x, y); }

void copy_channels(const Channels& t, const uint8_t* x, uint8_t* y) {
    if (t.x_start % 4 == 0 && t.y_start % 4 == 0) {
        const int64_t whole = t.count / 4 * 4;
        std::memcpy(y + t.y_start * t.pixels, x + t.x_start * t.pixels, static_cast<size_t>(whole * t.pixels));
        if (whole == t.count) return;
        const auto done = static_cast<int32_t>(whole);
        x += done * t.pixels, y += done * t.pixels;
        for (int64_t k = 0; k < t.pixels; ++k)
            for (int32_t lane = 0; lane < t.count - done; ++lane)
                y[(t.y_start * t.pixels) + k * 4 + lane] = x[(t.x_start * t.pixels) + k * 4 + lane];
        return;
    }
    for (int32_t c = 0; c < t.count; ++c) {
        const int32_t from = t.x_start + c, to = t.y_start + c;
        const uint8_t* in = x + from / 4 * 4 * t.pixels + from % 4;
        uint8_t* out = y + to / 4 * 4 * t.pixels + to % 4;
        for (int64_t k = 0; k < t.pixels; ++k) out[k * 4] = in[k * 4];
    }
}

void quantize(const Scale& s, const float* x, uint8_t* y) {
    const auto z = static_cast<float>(s.zero_point), top = static_cast<float>(s.top);
    for (int32_t c = 0; c < s.c; ++c) {
        uint8_t* out = y + c / 4 * 4 * s.pixels + c % 4;
        const float* in = x + c * s.pixels;
        for (int64_t k = 0; k < s.pixels; ++k) {
            const float v = __builtin_rintf(in[k] / s.scale) + z;
            const float at_least = v > 0.0f ? v : 0.0f;
            out[k * 4] = static_cast<uint8_t>(static_cast<int32_t>(at_least < top ? at_least : top));
        }
    }
}

void dequantize(const Scale& s, const uint8_t* x, float* y) {
    for (int32_t c = 0; c < s.c; ++c) {
        const uint8_t* in = x + c / 4 * 4 * s.pixels + c % 4;
        float* out = y + c * s.pixels;
        for (int64_t k = 0; k < s.pixels; ++k) out[k] = static_cast<float>(in[k * 4] - s.zero_point) * s.scale;
    }
}

void add_f32(int32_t c, int64_t pixels, bool broadcast, const float* a, const float* b, float* y) {
    for (int32_t k = 0; k < c; ++k)
        for (int64_t p = 0; p < pixels; ++p) y[k * pixels + p] = a[k * pixels + p] + b[broadcast ? k : k * pixels + p];
}

void mul_f32(int32_t c, int64_t pixels, bool broadcast, const float* a, const float* b, float* y) {
    for (int32_t k = 0; k < c; ++k)
        for (int64_t p = 0; p < pixels; ++p) y[k * pixels + p] = a[k * pixels + p] * b[broadcast ? k : k * pixels + p];
}

void global_avgpool_f32(int32_t c, int64_t pixels, const float* x, float* y) {
    for (int32_t k = 0; k < c; ++k) {
        float sum = 0;
        for (int64_t p = 0; p < pixels; ++p) sum += x[k * pixels + p];
        y[k] = sum / static_cast<float>(pixels);
    }
}

void activation_f32(Activation act, int64_t n, const float* x, float* y) {
    for (int64_t k = 0; k < n; ++k) y[k] = activate(act, x[k]);
}

constexpr Glue glue_row(const char* name, uint32_t needs) {
    return {name, needs, add, mul, requantize, lookup, global_avgpool, maxpool, maxpool_f32, upsample, upsample_f32,
            copy_channels, quantize, dequantize, add_f32, mul_f32, global_avgpool_f32, activation_f32, decode_level};
}

}  // namespace
}  // namespace edgenas
