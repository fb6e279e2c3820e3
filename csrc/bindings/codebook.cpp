#include "codebook.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>

#include "../kernels/conv2d_codebook/kernel.h"
#include "../runtime/cpu.h"
#include "../runtime/plan.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace edgenas {
namespace {

template <class T, int N>
using Input = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <class T>
using Output = nb::ndarray<nb::numpy, T, nb::ndim<3>>;

void require(bool ok, const std::string& message) {
    if (!ok) throw ArtifactError("conv2d_codebook: " + message);
}

struct Free {
    void operator()(void* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<uint8_t[], Free>;

Buffer buffer(size_t bytes) { return Buffer(static_cast<uint8_t*>(std::aligned_alloc(64, bytes / 64 * 64 + 64))); }

// The codes as C4, and that all of them fit.
Buffer to_c4(const Input<uint8_t, 3>& x, int32_t abits) {
    const auto c = static_cast<int64_t>(x.shape(0)), pixels = static_cast<int64_t>(x.shape(1) * x.shape(2));
    Buffer c4 = buffer(static_cast<size_t>((c + 3) / 4 * 4 * pixels));
    std::fill_n(c4.get(), (c + 3) / 4 * 4 * pixels, uint8_t{0});
    for (int64_t k = 0; k < c; ++k)
        for (int64_t p = 0; p < pixels; ++p) {
            const uint8_t code = x.data()[k * pixels + p];
            require(code >> abits == 0, "an activation code has no level in its codebook");
            c4[static_cast<size_t>((k / 4 * pixels + p) * 4 + k % 4)] = code;
        }
    return c4;
}

int32_t bits_of(size_t levels, const char* what) {
    for (int32_t bits = 1; bits <= 4; ++bits)
        if (levels == size_t{1} << bits) return bits;
    throw ArtifactError("conv2d_codebook: " + std::to_string(levels) + " " + what + " levels; 2, 4, 8 and 16 work");
}

const CodebookVariant& chosen(const CodebookConv2d& b, const std::string& name) {
    for (const CodebookVariant& v : conv2d_codebook_variants())
        if ((v.needs & ~cpu::features()) == 0 && v.supports(b) && (name.empty() || name == v.name)) return v;
    throw ArtifactError("conv2d_codebook: no variant '" + name + "' for this layer on this CPU; 'reference' takes everything");
}

void run(const CodebookConv2d& b, const CodebookVariant& v, const uint8_t* x, void* y, int32_t shares) {
    const Buffer prepared = buffer(v.prepared_bytes(b)), scratch = buffer(v.scratch_bytes(b));
    v.prepare(b, prepared.get());
    for (int32_t i = 0; i < shares; ++i) v.pack(b, prepared.get(), x, scratch.get(), {i, shares});
    for (int32_t i = 0; i < shares; ++i) v.compute(b, prepared.get(), x, y, scratch.get(), {i, shares});
}

template <class T>
nb::object owned(T* data, const Conv2d& c) {
    const std::initializer_list<size_t> shape = {static_cast<size_t>(c.c_out), static_cast<size_t>(c.h_out), static_cast<size_t>(c.w_out)};
    return nb::cast(Output<T>(data, shape, nb::capsule(data, [](void* p) noexcept { std::free(p); })));
}

// Planar codes out of C4.
uint8_t* planar(const uint8_t* c4, const Conv2d& c) {
    const int64_t pixels = static_cast<int64_t>(c.h_out) * c.w_out;
    uint8_t* to = buffer(static_cast<size_t>(c.c_out * pixels)).release();
    for (int64_t k = 0; k < c.c_out; ++k)
        for (int64_t p = 0; p < pixels; ++p) to[k * pixels + p] = c4[(k / 4 * pixels + p) * 4 + k % 4];
    return to;
}

Conv2d geometry(const Input<uint8_t, 3>& x, int32_t c_out, int32_t kernel, int32_t stride, int32_t pad, int32_t groups) {
    Conv2d c{};
    c.c_in = static_cast<int32_t>(x.shape(0)), c.h = static_cast<int32_t>(x.shape(1)), c.w = static_cast<int32_t>(x.shape(2));
    c.c_out = c_out, c.kernel = kernel, c.stride = stride, c.pad = pad, c.groups = groups;
    require(x.size() > 0 && x.size() < size_t{1} << 28 && c_out >= 1 && c_out < 65536, "0 or too many values");
    require(kernel >= 1 && kernel < 32 && (stride == 1 || stride == 2) && pad >= 0 && pad < kernel,
            "kernel, stride or padding out of range");
    require(groups >= 1 && c.c_in % groups == 0 && c_out % groups == 0, "the groups do not divide the channels");
    require(c.h + 2 * pad >= kernel && c.w + 2 * pad >= kernel, "the kernel is larger than the padded input");
    c.h_out = (c.h + 2 * pad - kernel) / stride + 1, c.w_out = (c.w + 2 * pad - kernel) / stride + 1;
    require(int64_t{4} * c_out * c.h_out * c.w_out < int64_t{1} << 31, "0 or too many values");
    return c;
}

nb::object conv2d_codebook(Input<uint8_t, 3> x, nb::bytes weights, int32_t c_out, int32_t kernel, Input<int8_t, 1> weight_levels,
                           Input<int8_t, 1> activation_levels, int32_t stride, int32_t pad, int32_t outside, int32_t groups,
                           std::optional<Input<int32_t, 2>> thresholds, std::optional<Input<int8_t, 1>> sign, const std::string& variant,
                           int32_t shares) {
    CodebookConv2d b{geometry(x, c_out, kernel, stride, pad, groups), weight_levels.data(), activation_levels.data(), !thresholds};
    Conv2d& c = b.conv;
    c.wbits = bits_of(weight_levels.size(), "weight"), c.abits = bits_of(activation_levels.size(), "activation");
    require(outside >= 0 && outside >> c.abits == 0, "the code outside the image has no level in its codebook");
    c.zero_point = outside;
    const int64_t terms = static_cast<int64_t>(c.c_in / groups) * kernel * kernel;
    require(terms <= kMaxCodebookTerms, std::to_string(terms) + " products in one sum; at most " + std::to_string(kMaxCodebookTerms));
    require(weights.size() == static_cast<size_t>(c_out * weight_row_bytes(terms, c.wbits)), "the packed weights have another size");
    require(shares >= 1 && shares <= 64, "shares out of 1..64");
    c.weights = static_cast<const uint8_t*>(weights.data());
    if (thresholds) {
        const size_t levels = thresholds->shape(1) + 1;
        require(thresholds->shape(0) == static_cast<size_t>(c_out) && sign && sign->size() == thresholds->shape(0) &&
                    (levels == 2 || levels == 4 || levels == 8 || levels == 16), "thresholds are (C_out, 1, 3, 7 or 15) with a sign each");
        c.requant.kind = Epilogue::kThreshold, c.requant.levels = static_cast<int32_t>(levels);
        c.requant.thresholds = thresholds->data(), c.requant.sign = sign->data();
    }
    const CodebookVariant& v = chosen(b, variant);
    const Buffer codes = to_c4(x, c.abits);
    const auto pixels = static_cast<size_t>(c.h_out) * static_cast<size_t>(c.w_out);
    Buffer y = buffer(b.sums ? 4 * static_cast<size_t>(c_out) * pixels : static_cast<size_t>(c_out + 3) / 4 * 4 * pixels);
    {
        nb::gil_scoped_release release;
        run(b, v, codes.get(), y.get(), shares);
    }
    if (b.sums) return owned(reinterpret_cast<int32_t*>(y.release()), c);
    return owned(planar(y.get(), c), c);
}

}  // namespace

void bind_codebook(nb::module_& m) {
    m.def("conv2d_codebook", &conv2d_codebook, "x"_a, "weights"_a, "c_out"_a, "kernel"_a, "weight_levels"_a, "activation_levels"_a,
          "stride"_a, "pad"_a, "outside"_a, "groups"_a, "thresholds"_a.none(), "sign"_a.none(), "variant"_a, "shares"_a);
}

}  // namespace edgenas
