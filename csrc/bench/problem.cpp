#include "problem.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>
#include <new>

namespace edgenas::bench {

int64_t uniform(Rng& rng, int64_t lo, int64_t hi) { return std::uniform_int_distribution<int64_t>(lo, hi)(rng); }

GuardedBytes::GuardedBytes(size_t bytes, bool at_end) : size_(bytes) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t inner = (bytes + page - 1) / page * page;
    mapped_ = inner + 2 * page;
    void* at = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED || mprotect(static_cast<char*>(at) + page, inner, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
    pages_ = static_cast<uint8_t*>(at);
    data_ = pages_ + page + (at_end ? inner - bytes : 0);
}

GuardedBytes::~GuardedBytes() { munmap(pages_, mapped_); }

int64_t macs(const Shape& s) {
    const int64_t h = (s.h + 2 * s.pad - s.kernel) / s.stride + 1, w = (s.w + 2 * s.pad - s.kernel) / s.stride + 1;
    return h * w * s.c_out * (s.c_in / s.groups) * s.kernel * s.kernel;
}

std::string describe(const Shape& s) {
    return std::to_string(s.c_in) + "-" + std::to_string(s.c_out) + " " + std::to_string(s.h) + "x" + std::to_string(s.w) + " k" +
           std::to_string(s.kernel) + " s" + std::to_string(s.stride) + " p" + std::to_string(s.pad) + " g" + std::to_string(s.groups);
}

namespace {

int32_t draw_weight(Rng& rng, Fill fill, int64_t index, int32_t wbits) {
    const int32_t lo = wbits == 1 ? -1 : wbits == 8 ? -127 : -(1 << (wbits - 1)), hi = wbits == 1 ? 1 : (1 << (wbits - 1)) - 1;
    if (fill == Fill::kMax) return hi;
    if (fill == Fill::kMin) return lo;
    if (fill == Fill::kAlternating) return index % 2 ? lo : hi;
    if (fill == Fill::kNormal && wbits > 1) {
        const double w = std::normal_distribution<double>(0.0, -lo / 3.4)(rng);
        return std::clamp(static_cast<int32_t>(std::lround(w)), lo, hi);
    }
    return wbits == 1 ? (uniform(rng, 0, 1) ? 1 : -1) : static_cast<int32_t>(uniform(rng, lo, hi));
}

// The format of the file: see conv2d/kernel.h.
std::vector<uint8_t> pack_weights(Rng& rng, Fill fill, int64_t rows, int64_t codes, int32_t wbits) {
    const int64_t row_bytes = weight_row_bytes(codes, wbits);
    std::vector<uint8_t> packed(static_cast<size_t>(rows * row_bytes));
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < codes; ++i) {
            const int32_t w = draw_weight(rng, fill, i + r, wbits);
            const uint32_t u = wbits == 8 ? static_cast<uint8_t>(w) : wbits == 1 ? (w + 1) / 2 : w + (1 << (wbits - 1));
            for (int32_t b = 0; b < wbits; ++b)
                if (u >> b & 1) packed[r * row_bytes + (i * wbits + b) / 8] |= static_cast<uint8_t>(1 << ((i * wbits + b) % 8));
        }
    return packed;
}

// Constants that spread typical sums over all output codes, with negative multipliers among them.
void make_requant(Rng& rng, Problem& p, int32_t out_bits, double spread) {
    Conv2d& c = p.conv;
    Requant& r = c.requant;
    r.levels = 1 << out_bits;
    r.lo = static_cast<int32_t>(uniform(rng, 0, r.levels / 4));
    r.hi = r.levels - 1;
    r.table_size = 1 << uniform(rng, 0, 12);
    const double range = r.kind == Epilogue::kTable ? r.table_size : r.levels;
    const double factor = range / (4 * spread);                     // real multiplier: +-2 sigma fill the range
    const bool wide = uniform(rng, 0, 3) > 0;                       // normalised multipliers, shift usually above 32
    r.shift = std::clamp(static_cast<int32_t>(std::floor((wide ? 30 : 14) - std::log2(factor))), 0, 62);
    for (int32_t i = 0; i < c.c_out; ++i) {
        const double m = factor * (0.5 + static_cast<double>(uniform(rng, 0, 1000)) / 2000) * (uniform(rng, 0, 3) ? 1 : -1);
        p.multiplier.push_back(static_cast<int32_t>(std::clamp(m * std::ldexp(1.0, r.shift), -2147483647.0, 2147483647.0)));
        const double mid = static_cast<double>(uniform(rng, 0, 1000)) / 1000 * range;
        p.bias.push_back(static_cast<int64_t>(std::ldexp(mid, r.shift)));
        p.sign.push_back(uniform(rng, 0, 1) ? 1 : -1);
        std::vector<int32_t> t(static_cast<size_t>(r.levels - 1));
        for (int32_t& v : t)
            v = uniform(rng, 0, 20) ? static_cast<int32_t>(uniform(rng, -200, 200) * spread / 100) : uniform(rng, 0, 1) ? INT_MAX : INT_MIN;
        std::sort(t.begin(), t.end());
        p.thresholds.insert(p.thresholds.end(), t.begin(), t.end());
        p.scale.push_back(static_cast<float>(uniform(rng, -1000, 1000)) * 1.7e-5f);
        p.offset.push_back(static_cast<float>(uniform(rng, -1000, 1000)) * 3.1e-3f);
    }
    for (int32_t i = 0; i < r.table_size; ++i) p.table.push_back(static_cast<uint8_t>(uniform(rng, 0, 255)));
    r.multiplier = p.multiplier.data(), r.bias = p.bias.data(), r.table = p.table.data(), r.thresholds = p.thresholds.data();
    r.sign = p.sign.data(), r.scale = p.scale.data(), r.offset = p.offset.data();
}

template <class Conv>
Conv sized(const Shape& s) {
    Conv c{};
    c.c_in = s.c_in, c.h = s.h, c.w = s.w, c.c_out = s.c_out, c.kernel = s.kernel, c.stride = s.stride, c.pad = s.pad, c.groups = s.groups;
    c.h_out = (s.h + 2 * s.pad - s.kernel) / s.stride + 1;
    c.w_out = (s.w + 2 * s.pad - s.kernel) / s.stride + 1;
    return c;
}

}  // namespace

std::unique_ptr<Problem> make_problem(Rng& rng, const Shape& s, int32_t wbits, int32_t abits, int32_t out_bits, Epilogue kind,
                                      Fill weights, Fill codes) {
    auto p = std::make_unique<Problem>();
    Conv2d& c = p->conv = sized<Conv2d>(s);
    const int32_t top = (1 << abits) - 1;
    c.wbits = wbits, c.abits = abits;
    c.zero_point = static_cast<int32_t>(uniform(rng, 0, 2) ? 0 : uniform(rng, 0, top));
    const int64_t k = static_cast<int64_t>(s.c_in / s.groups) * s.kernel * s.kernel;
    p->weights = pack_weights(rng, weights, s.c_out, k, wbits);
    c.weights = p->weights.data();
    c.requant.kind = kind;
    make_requant(rng, *p, out_bits, std::sqrt(static_cast<double>(k)) * (1 << wbits) * (1 << abits) / 8 + 1);
    const bool at_end = uniform(rng, 0, 3) > 0;
    p->x = std::make_unique<GuardedBytes>(static_cast<size_t>((s.c_in + 3) / 4) * s.h * s.w * 4, at_end);
    for (size_t i = 0; i < p->x->size(); ++i)
        p->x->data()[i] = static_cast<uint8_t>(codes == Fill::kMax ? top : codes == Fill::kMin ? 0 : uniform(rng, 0, top));
    const size_t pixels = static_cast<size_t>(c.h_out) * c.w_out;
    p->y_bytes = 4 * pixels * static_cast<size_t>(kind == Epilogue::kFloat ? c.c_out : (c.c_out + 3) / 4);
    return p;
}

std::unique_ptr<ProblemF32> make_problem_f32(Rng& rng, const Shape& s, Activation act) {
    auto p = std::make_unique<ProblemF32>();
    Conv2dF32& c = p->conv = sized<Conv2dF32>(s);
    std::normal_distribution<float> normal;
    const size_t k = static_cast<size_t>(s.c_in / s.groups) * s.kernel * s.kernel;
    p->weights.resize(k * s.c_out), p->bias.resize(s.c_out);
    for (float& w : p->weights) w = normal(rng) / std::sqrt(static_cast<float>(k));
    for (float& b : p->bias) b = normal(rng);
    c.weights = p->weights.data(), c.bias = uniform(rng, 0, 3) ? p->bias.data() : nullptr, c.act = act;
    p->x = std::make_unique<GuardedBytes>(static_cast<size_t>(s.c_in) * s.h * s.w * 4, uniform(rng, 0, 3) > 0);
    float* x = reinterpret_cast<float*>(p->x->data());
    for (size_t i = 0; i < p->x->size() / 4; ++i) x[i] = normal(rng);
    p->y_bytes = 4 * static_cast<size_t>(c.c_out) * c.h_out * c.w_out;
    return p;
}

Shape random_shape(Rng& rng) {
    for (;;) {
        Shape s{};
        s.kernel = static_cast<int32_t>(uniform(rng, 0, 4) ? 2 * uniform(rng, 0, 2) + 1 : uniform(rng, 1, 7));
        s.stride = static_cast<int32_t>(uniform(rng, 1, 2));
        s.pad = static_cast<int32_t>(uniform(rng, 0, 2) ? s.kernel / 2 : uniform(rng, 0, s.kernel - 1));
        s.h = static_cast<int32_t>(uniform(rng, 1, uniform(rng, 0, 1) ? 8 : 40));
        s.w = static_cast<int32_t>(uniform(rng, 1, uniform(rng, 0, 1) ? 8 : 70));
        s.groups = static_cast<int32_t>(uniform(rng, 0, 2) ? 1 : uniform(rng, 1, 24));
        s.c_in = static_cast<int32_t>(s.groups * uniform(rng, 1, s.groups > 1 ? 6 : 70));
        s.c_out = static_cast<int32_t>(s.groups * uniform(rng, 1, s.groups > 1 ? 3 : 40));
        if (s.groups > 1 && uniform(rng, 0, 1)) s.c_in = s.c_out = s.groups;            // depthwise
        if (s.h + 2 * s.pad < s.kernel || s.w + 2 * s.pad < s.kernel) continue;
        if (macs(s) < 1500000) return s;
    }
}

}  // namespace edgenas::bench
