// Times and checks the rows of the convolution tables:
//   edgenas_bench_kernels [PRECISION [LAYER]] | --check COUNT [SEED] | --run PRECISION LAYER VARIANT COUNT
//
// Without --check: every variant this CPU can run on the layers of a small YOLO and of ResNet18, for several precisions; each
// timed output is compared with the reference in the same run. With --check: COUNT random problems per table, any shape, bits
// and epilogue, tensors ending at inaccessible pages, each by one to twenty shares in random order; the first difference ends the
// program with status 1.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <numeric>

#include "../runtime/cpu.h"
#include "../kernels/conv2d_codebook/kernel.h"
#include "problem.h"

namespace edgenas::bench {
namespace {

struct Layer {
    const char* name;
    Shape shape;
};

constexpr Shape layer(int32_t c_in, int32_t c_out, int32_t size, int32_t kernel, int32_t stride) {
    return {c_in, c_out, size, size, kernel, stride, kernel / 2, 1};
}

constexpr Layer kLayers[] = {
    {"y1 16-16 k3@80", layer(16, 16, 80, 3, 1)},      {"y2 16-32 k3s2@160", layer(16, 32, 160, 3, 2)},
    {"y3 32-64 k3s2@80", layer(32, 64, 80, 3, 2)},    {"y4 32-32 k3@40", layer(32, 32, 40, 3, 1)},
    {"y5 64-64 k3@80", layer(64, 64, 80, 3, 1)},      {"y6 64-64 k1@40", layer(64, 64, 40, 1, 1)},
    {"y7 64-128 k3s2@40", layer(64, 128, 40, 3, 2)},  {"y8 64-64 k3@20", layer(64, 64, 20, 3, 1)},
    {"y9 128-128 k1@20", layer(128, 128, 20, 1, 1)},  {"y10 128-256 k3s2@20", layer(128, 256, 20, 3, 2)},
    {"y11 128-128 k3@10", layer(128, 128, 10, 3, 1)}, {"y12 256-256 k1@10", layer(256, 256, 10, 1, 1)},
    {"y13 512-256 k1@10", layer(512, 256, 10, 1, 1)}, {"r1 64-64 k3@56", layer(64, 64, 56, 3, 1)},
    {"r2 128-128 k3@28", layer(128, 128, 28, 3, 1)},  {"r3 256-256 k3@14", layer(256, 256, 14, 3, 1)},
    {"r4 512-512 k3@7", layer(512, 512, 7, 3, 1)},
};

struct Precision {
    const char* name;
    int32_t wbits, abits;
    Epilogue epilogue;
};

constexpr Precision kPrecisions[] = {
    {"w8a8", 8, 8, Epilogue::kLinear},
    {"w4a4", 4, 4, Epilogue::kLinear},
    {"w2a2", 2, 2, Epilogue::kThreshold},
    {"w1a2", 1, 2, Epilogue::kThreshold},
    {"w1a1", 1, 1, Epilogue::kThreshold},
};

// Ordinary memory. Inputs are timed from here: beside an inaccessible page, masked loads of the last lanes trap into microcode.
class AlignedBytes {
   public:
    explicit AlignedBytes(const GuardedBytes& from) : AlignedBytes(from.size()) { std::memcpy(data_, from.data(), from.size()); }
    explicit AlignedBytes(size_t bytes) : data_(std::aligned_alloc(64, bytes / 64 * 64 + 128)) {}
    ~AlignedBytes() { std::free(data_); }
    AlignedBytes(const AlignedBytes&) = delete;
    AlignedBytes& operator=(const AlignedBytes&) = delete;
    void* data() const { return data_; }

   private:
    void* data_;
};

// Median over at least 15 batches of about 0.3 ms.
template <class Fn>
double median_us(Fn&& fn) {
    using Clock = std::chrono::steady_clock;
    const auto seconds = [](Clock::time_point a, Clock::time_point b) { return std::chrono::duration<double>(b - a).count(); };
    fn();
    const auto first = Clock::now();
    fn();
    const int inner = std::max(1, static_cast<int>(3e-4 / std::max(1e-9, seconds(first, Clock::now()))));
    std::vector<double> times;
    const auto begin = Clock::now();
    while (times.size() < 15 || (seconds(begin, Clock::now()) < 0.05 && times.size() < 400)) {
        const auto a = Clock::now();
        for (int i = 0; i < inner; ++i) fn();
        times.push_back(seconds(a, Clock::now()) / inner);
    }
    std::nth_element(times.begin(), times.begin() + static_cast<ptrdiff_t>(times.size() / 2), times.end());
    return times[times.size() / 2] * 1e6;
}

// What the command line asks for; empty is everything.
struct Selection {
    std::string precision, layer;
    bool wants(const Layer& l) const { return layer.empty() || layer == std::string(l.name).substr(0, std::string(l.name).find(' ')); }
    bool wants(const char* name) const { return precision.empty() || precision == name; }
};

bool runnable(uint32_t needs) { return (needs & ~cpu::features()) == 0; }

// Times one variant, its last output is in y.
template <class V, class Conv, class X, class Y>
double time_variant(const V& v, const Conv& conv, const X* x, Y* y) {
    const AlignedBytes prepared(v.prepared_bytes(conv)), scratch(v.scratch_bytes(conv));
    v.prepare(conv, prepared.data());
    return median_us([&] { run_alone(v, conv, prepared.data(), x, y, scratch.data()); });
}

// One run by the shares of `order`, a permutation of 0 .. count-1, one after the other.
template <class V, class Conv, class X, class Y>
void run_shares(const V& v, const Conv& conv, const X* x, Y* y, const std::vector<int32_t>& order) {
    const AlignedBytes prepared(v.prepared_bytes(conv)), scratch(v.scratch_bytes(conv));
    v.prepare(conv, prepared.data());
    const auto count = static_cast<int32_t>(order.size());
    for (const int32_t index : order) v.pack(conv, prepared.data(), x, scratch.data(), {index, count});
    for (const int32_t index : order) v.compute(conv, prepared.data(), x, y, scratch.data(), {index, count});
}

std::vector<int32_t> random_order(Rng& rng) {
    std::vector<int32_t> order(static_cast<size_t>(uniform(rng, 1, 20)));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), rng);
    return order;
}

double largest_error(const std::vector<uint8_t>& want, const uint8_t* got) {
    double worst = 0;
    for (size_t i = 0; i < want.size() / 4; ++i) {
        float a, b;
        std::memcpy(&a, want.data() + 4 * i, 4);
        std::memcpy(&b, got + 4 * i, 4);
        const double error = std::fabs(static_cast<double>(a) - b) / (1 + std::fabs(a));
        if (!(error <= worst)) worst = std::isnan(error) ? INFINITY : error;
    }
    return worst;
}

constexpr double kFloatTolerance = 2e-5;

struct Totals {
    double log_rate = 0;
    int layers = 0;
};

void print_row(const char* precision, const char* layer_name, const char* variant, double us, double mac, const char* verdict, Totals& t) {
    const double rate = mac / us / 1e3;
    std::printf("%-5s %-20s %-18s %10.1f us %8.1f GMAC/s  %s\n", precision, layer_name, variant, us, rate, verdict);
    t.log_rate += std::log(rate);
    ++t.layers;
}

void print_means(const char* precision, const std::map<std::string, Totals>& totals) {
    for (const auto& [name, t] : totals)
        std::printf("%-5s %-20s %-18s %10s    %8.1f GMAC/s  %d layers\n", precision, "geometric mean", name.c_str(), "",
                    std::exp(t.log_rate / t.layers), t.layers);
}

bool time_precision(const Precision& precision, const Selection& selection) {
    std::map<std::string, Totals> totals;
    bool exact = true;
    for (const Layer& l : kLayers) {
        if (!selection.wants(l)) continue;
        Rng rng(1);
        const auto p = make_problem(rng, l.shape, precision.wbits, precision.abits, precision.abits, precision.epilogue,
                                    Fill::kNormal, Fill::kRandom);
        const AlignedBytes x(*p->x);
        std::vector<uint8_t> want(p->y_bytes);
        run_shares(conv2d_variants().back(), p->conv, p->x->data(), want.data(), {0});
        for (const Variant& v : conv2d_variants().first(conv2d_variants().size() - 1)) {
            if (!runnable(v.needs) || !v.supports(p->conv)) continue;
            const AlignedBytes y(p->y_bytes);
            const double us = time_variant(v, p->conv, static_cast<const uint8_t*>(x.data()), y.data());
            const bool same = std::memcmp(y.data(), want.data(), want.size()) == 0;
            exact = exact && same;
            print_row(precision.name, l.name, v.name, us, static_cast<double>(macs(l.shape)), same ? "exact" : "DIFFERS", totals[v.name]);
        }
    }
    print_means(precision.name, totals);
    return exact;
}

bool time_f32(const Selection& selection) {
    std::map<std::string, Totals> totals;
    bool close = true;
    for (const Layer& l : kLayers) {
        if (!selection.wants(l)) continue;
        Rng rng(1);
        const auto p = make_problem_f32(rng, l.shape, Activation::kRelu);
        const AlignedBytes copy(*p->x);
        const float* x = static_cast<const float*>(copy.data());
        std::vector<uint8_t> want(p->y_bytes);
        run_shares(conv2d_f32_variants().back(), p->conv, x, reinterpret_cast<float*>(want.data()), {0});
        for (const VariantF32& v : conv2d_f32_variants().first(conv2d_f32_variants().size() - 1)) {
            if (!runnable(v.needs) || !v.supports(p->conv)) continue;
            const AlignedBytes y(p->y_bytes);
            const double us = time_variant(v, p->conv, x, static_cast<float*>(y.data()));
            const bool same = largest_error(want, static_cast<const uint8_t*>(y.data())) < kFloatTolerance;
            close = close && same;
            print_row("fp32", l.name, v.name, us, static_cast<double>(macs(l.shape)), same ? "close" : "DIFFERS", totals[v.name]);
        }
    }
    print_means("fp32", totals);
    return close;
}

// Codebooks of 2 bits: the levels that uniform codes stand for, a small one whose entries fit a byte, and one of any int8.
struct Codebook {
    const char* name;
    int8_t weights[4], activations[4];
};

constexpr Codebook kCodebooks[] = {
    {"uniform", {-2, -1, 0, 1}, {0, 1, 2, 3}},
    {"small", {-5, -1, 2, 5}, {0, 1, 4, 11}},
    {"int8", {-117, -31, 22, 101}, {0, 23, 61, 127}},
};

// W2A2 layers with codebooks beside the kernels of uniform codes, which the first codebook must equal.
bool time_codebook(const Selection& selection) {
    std::map<std::string, Totals> totals;
    bool exact = true;
    for (const Layer& l : kLayers) {
        if (!selection.wants(l)) continue;
        Rng rng(1);
        const auto p = make_problem(rng, l.shape, 2, 2, 2, Epilogue::kThreshold, Fill::kNormal, Fill::kRandom);
        const AlignedBytes copy(*p->x), y(p->y_bytes);
        const auto* x = static_cast<const uint8_t*>(copy.data());
        const auto report = [&](const std::string& name, double us, const std::vector<uint8_t>& want) {
            const bool same = std::memcmp(y.data(), want.data(), want.size()) == 0;
            exact = exact && same;
            print_row("book", l.name, name.c_str(), us, static_cast<double>(macs(l.shape)), same ? "exact" : "DIFFERS", totals[name]);
        };
        std::vector<uint8_t> want(p->y_bytes);
        run_shares(conv2d_variants().back(), p->conv, x, want.data(), {0});
        for (const Variant& v : conv2d_variants().first(conv2d_variants().size() - 1))
            if (runnable(v.needs) && v.supports(p->conv)) report(v.name, time_variant(v, p->conv, x, y.data()), want);
        for (const Codebook& book : kCodebooks) {
            const CodebookConv2d b{p->conv, book.weights, book.activations, false};
            std::vector<uint8_t> levels(p->y_bytes);
            run_shares(conv2d_codebook_variants().back(), b, x, levels.data(), {0});
            if (&book == kCodebooks && p->conv.zero_point == 0) exact = exact && levels == want;
            for (const CodebookVariant& v : conv2d_codebook_variants().first(conv2d_codebook_variants().size() - 1))
                if (runnable(v.needs) && v.supports(b))
                    report(std::string(book.name) + " " + v.name, time_variant(v, b, x, y.data()), levels);
        }
    }
    print_means("book", totals);
    return exact;
}

Fill random_fill(Rng& rng) {
    constexpr Fill kFills[] = {Fill::kRandom, Fill::kNormal, Fill::kRandom, Fill::kMax, Fill::kMin, Fill::kAlternating};
    return kFills[uniform(rng, 0, 5)];
}

// One output channel or more whose sums come as close as the lookup kernels let them to leaving uint16, or just beyond, and
// int8-style sums near the end of int32.
Shape longest_shape(Rng& rng, int32_t wbits, int32_t abits) {
    const int32_t largest = wbits > 2 || abits > 2 ? 1 : wbits == 1 ? (1 << abits) - 1 : 6;
    const int32_t channels = static_cast<int32_t>(65535 / largest + uniform(rng, -2, 1));
    if (uniform(rng, 0, 1) == 0) return {channels, 1, 1, static_cast<int32_t>(uniform(rng, 48, 66)), 1, 1, 0, 1};
    return {channels, static_cast<int32_t>(uniform(rng, 65, 70)), 1, static_cast<int32_t>(uniform(rng, 1, 2)), 1, 1, 0, 1};
}

bool check_codes(Rng& rng, std::map<std::string, int>& counts) {
    constexpr int32_t kWeightBits[] = {1, 2, 3, 4, 8};
    const bool few_bits = uniform(rng, 0, 1) == 0;          // the lookup kernels
    const int32_t wbits = few_bits ? static_cast<int32_t>(uniform(rng, 1, 2)) : kWeightBits[uniform(rng, 0, 4)];
    const int32_t abits = static_cast<int32_t>(uniform(rng, 1, few_bits ? 2 : 8));
    const Shape shape = uniform(rng, 0, 59) ? random_shape(rng) : longest_shape(rng, wbits, abits);
    const auto kind = static_cast<Epilogue>(uniform(rng, 0, 3));
    const auto out_bits = static_cast<int32_t>(uniform(rng, 1, kind == Epilogue::kThreshold ? 4 : 8));
    const auto p = make_problem(rng, shape, wbits, abits, out_bits, kind, random_fill(rng), random_fill(rng));
    std::vector<uint8_t> want(p->y_bytes);
    run_shares(conv2d_variants().back(), p->conv, p->x->data(), want.data(), {0});
    for (const Variant& v : conv2d_variants()) {
        if (!runnable(v.needs) || !v.supports(p->conv)) continue;
        const GuardedBytes y(p->y_bytes, uniform(rng, 0, 1) != 0);
        std::memset(y.data(), 0xA5, y.size());
        const std::vector<int32_t> order = random_order(rng);
        run_shares(v, p->conv, p->x->data(), y.data(), order);
        ++counts[v.name];
        if (std::memcmp(y.data(), want.data(), want.size()) == 0) continue;
        const size_t at = static_cast<size_t>(std::mismatch(want.begin(), want.end(), y.data()).first - want.begin());
        std::printf("%s differs: %s %zu shares w%da%d z%d epilogue %d shift %d levels %d table %d, byte %zu of %zu first: %d, not %d\n",
                    v.name, describe(shape).c_str(), order.size(), wbits, abits, p->conv.zero_point, static_cast<int>(kind),
                    p->conv.requant.shift, p->conv.requant.levels, p->conv.requant.table_size, at, want.size(), y.data()[at], want[at]);
        return false;
    }
    return true;
}

bool check_f32(Rng& rng, std::map<std::string, int>& counts) {
    const Shape shape = random_shape(rng);
    const auto act = static_cast<Activation>(uniform(rng, 0, 7));
    const auto p = make_problem_f32(rng, shape, act);
    const float* x = reinterpret_cast<const float*>(p->x->data());
    std::vector<uint8_t> want(p->y_bytes);
    run_shares(conv2d_f32_variants().back(), p->conv, x, reinterpret_cast<float*>(want.data()), {0});
    for (const VariantF32& v : conv2d_f32_variants()) {
        if (!runnable(v.needs) || !v.supports(p->conv)) continue;
        const GuardedBytes y(p->y_bytes, uniform(rng, 0, 1) != 0);
        const std::vector<int32_t> order = random_order(rng);
        run_shares(v, p->conv, x, reinterpret_cast<float*>(y.data()), order);
        ++counts[v.name];
        const double error = largest_error(want, y.data());
        if (error < kFloatTolerance) continue;
        std::printf("%s differs by %.3g: %s %zu shares activation %d\n", v.name, error, describe(shape).c_str(), order.size(),
                    static_cast<int>(act));
        return false;
    }
    return true;
}

bool check_codebook(Rng& rng, std::map<std::string, int>& counts) {
    const Shape shape = random_shape(rng);
    const auto wbits = static_cast<int32_t>(uniform(rng, 1, 4)), abits = static_cast<int32_t>(uniform(rng, 1, 4));
    const auto kind = static_cast<Epilogue>(uniform(rng, 0, 3));
    const auto out_bits = static_cast<int32_t>(uniform(rng, 1, 4));
    const auto p = make_problem(rng, shape, wbits, abits, out_bits, kind, random_fill(rng), random_fill(rng));
    int8_t levels[2][16];
    const int64_t span = uniform(rng, 1, 127);
    for (auto& side : levels)
        for (int8_t& level : side) level = static_cast<int8_t>(uniform(rng, -span, span));
    const CodebookConv2d b{p->conv, levels[0], levels[1], false};
    std::vector<uint8_t> want(p->y_bytes);
    run_shares(conv2d_codebook_variants().back(), b, p->x->data(), want.data(), {0});
    for (const CodebookVariant& v : conv2d_codebook_variants()) {
        if (!runnable(v.needs) || !v.supports(b)) continue;
        const GuardedBytes y(p->y_bytes, uniform(rng, 0, 1) != 0);
        std::memset(y.data(), 0xA5, y.size());
        run_shares(v, b, p->x->data(), y.data(), random_order(rng));
        ++counts[v.name];
        if (std::memcmp(y.data(), want.data(), want.size()) == 0) continue;
        std::printf("codebook %s differs: %s w%da%d levels within %d\n", v.name, describe(shape).c_str(), wbits, abits,
                    static_cast<int>(span));
        return false;
    }
    return true;
}

int check(int count, uint64_t seed) {
    Rng rng(seed);
    std::map<std::string, int> codes, floats, books;
    for (int i = 0; i < count; ++i)
        if (!check_codes(rng, codes) || !check_f32(rng, floats) || !check_codebook(rng, books)) return 1;
    for (const auto& [name, n] : books) std::printf("codebook   %-18s %d problems exact\n", name.c_str(), n);
    for (const auto& [name, n] : codes) std::printf("conv2d     %-18s %d problems exact\n", name.c_str(), n);
    for (const auto& [name, n] : floats) std::printf("conv2d_f32 %-18s %d problems within %g\n", name.c_str(), n, kFloatTolerance);
    return 0;
}

int time_all(const Selection& selection) {
    bool good = true;
    for (const Precision& p : kPrecisions)
        if (selection.wants(p.name)) good = time_precision(p, selection) && good;
    if (selection.wants("book")) good = time_codebook(selection) && good;
    if (selection.wants("fp32")) good = time_f32(selection) && good;
    return good ? 0 : 1;
}

// Prints the layer's multiply-adds and the variant. No name of a variant is the fastest one here.
int run_only(const Selection& selection, const std::string& variant, int count) {
    for (const Precision& precision : kPrecisions)
        for (const Layer& l : kLayers)
            for (const Variant& v : conv2d_variants()) {
                if (!selection.wants(precision.name) || !selection.wants(l) || !runnable(v.needs)) continue;
                if (!variant.empty() && variant != v.name) continue;
                Rng rng(1);
                const auto p = make_problem(rng, l.shape, precision.wbits, precision.abits, precision.abits, precision.epilogue,
                                            Fill::kNormal, Fill::kRandom);
                if (!v.supports(p->conv)) continue;
                const AlignedBytes x(*p->x), y(p->y_bytes), prepared(v.prepared_bytes(p->conv)), scratch(v.scratch_bytes(p->conv));
                v.prepare(p->conv, prepared.data());
                for (int i = 0; i < count; ++i)
                    run_alone(v, p->conv, prepared.data(), static_cast<const uint8_t*>(x.data()), y.data(), scratch.data());
                std::printf("%lld %s\n", static_cast<long long>(macs(l.shape)), v.name);
                return 0;
            }
    std::fprintf(stderr, "no variant %s that runs layer %s in %s here\n", variant.c_str(), selection.layer.c_str(),
                 selection.precision.c_str());
    return 1;
}

}  // namespace
}  // namespace edgenas::bench

int main(int argc, char** argv) {
    const bool checking = argc > 1 && std::strcmp(argv[1], "--check") == 0;
    const bool running = argc == 6 && std::strcmp(argv[1], "--run") == 0;
    if (!running && (argc > 3 + (checking ? 1 : 0) || (checking && argc < 3))) {
        std::fprintf(stderr, "usage: %s [PRECISION [LAYER]] | --check COUNT [SEED] | --run PRECISION LAYER VARIANT COUNT\n", argv[0]);
        return 2;
    }
    try {
        if (checking) return edgenas::bench::check(std::atoi(argv[2]), argc == 4 ? std::strtoull(argv[3], nullptr, 10) : 1);
        if (running) return edgenas::bench::run_only({argv[2], argv[3]}, argv[4], std::atoi(argv[5]));
        return edgenas::bench::time_all({argc > 1 ? argv[1] : "", argc > 2 ? argv[2] : ""});
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 2;
    }
}
