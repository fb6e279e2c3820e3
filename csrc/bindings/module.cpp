// The Python door of the engine: nas.runtime._csrc. Arrays in, arrays out; everything else is in csrc/runtime.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <mutex>
#include <span>
#include <tuple>

#include "../kernels/conv2d/kernel.h"
#include "../runtime/cpu.h"
#include "../runtime/executor.h"
#include "../runtime/planar.h"
#include "codebook.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using edgenas::ArtifactError;
using edgenas::Tensor;

using Inputs = std::vector<nb::ndarray<nb::ro, nb::ndim<3>, nb::device::cpu>>;
template <typename T, typename... Shape>
using Numpy = nb::ndarray<nb::numpy, T, Shape...>;

template <typename T>
nb::capsule freeing(T* memory) {
    return {memory, [](void* p) noexcept { delete[] static_cast<T*>(p); }};
}

template <typename T, typename... Shape>
Numpy<T, Shape...> owned(std::span<const T> values, std::initializer_list<size_t> shape) {
    auto* memory = new T[values.size() + 1];
    std::copy(values.begin(), values.end(), memory);
    return Numpy<T, Shape...>(memory, shape, freeing(memory));
}

// One executor may be called from several Python threads; runs take turns on its arena.
class PyExecutor {
  public:
    PyExecutor(nb::bytes file, const std::string& variant, std::vector<std::string> variants, int32_t threads, int64_t split_from)
        : executor_({static_cast<const std::byte*>(file.data()), file.size()}, {variant, std::move(variants), threads, split_from}) {}

    nb::list run(const Inputs& inputs) {
        const std::lock_guard lock = locked();
        set_inputs(inputs);
        run_unlocked(nullptr);
        nb::list maps;
        for (const uint32_t t : executor_.plan().outputs) maps.append(output(t));
        return maps;
    }

    auto detect(const Inputs& inputs, float score_threshold, float iou_threshold, int64_t max_detections) {
        const std::lock_guard lock = locked();
        set_inputs(inputs);
        edgenas::Detections d;
        {
            nb::gil_scoped_release release;
            executor_.run();
            d = executor_.detect(score_threshold, iou_threshold, max_detections);
        }
        const size_t n = d.scores.size();
        return std::make_tuple(owned<float, nb::shape<-1, 4>>(d.boxes_xyxy, {n, 4}), owned<float, nb::ndim<1>>(d.scores, {n}),
                               owned<int32_t, nb::ndim<1>>(d.labels, {n}));
    }

    // The (4 + classes, anchors) output of the decode instruction.
    nb::object decoded(const Inputs& inputs) {
        const std::lock_guard lock = locked();
        set_inputs(inputs);
        run_unlocked(nullptr);
        executor_.run_decode();
        return output(executor_.steps().back().instruction->output);
    }

    // (name, operator, variant, microseconds) of each instruction of one run.
    std::vector<std::tuple<std::string, std::string, std::string, double>> profile(const Inputs& inputs) {
        const std::lock_guard lock = locked();
        set_inputs(inputs);
        std::vector<double> times;
        run_unlocked(&times);
        std::vector<std::tuple<std::string, std::string, std::string, double>> rows;
        for (size_t k = 0; k < times.size(); ++k) {
            const edgenas::Step& s = executor_.steps()[k];
            rows.emplace_back(std::string(s.instruction->name), edgenas::kOpNames[static_cast<size_t>(s.instruction->op)], s.variant,
                              times[k]);
        }
        return rows;
    }

    // Microseconds of each of `runs` runs in a row, the inputs set once.
    std::vector<double> time(const Inputs& inputs, int64_t runs) {
        const std::lock_guard lock = locked();
        set_inputs(inputs);
        std::vector<double> times;
        const nb::gil_scoped_release release;
        for (int64_t k = 0; k < runs; ++k) {
            const auto start = std::chrono::steady_clock::now();
            executor_.run();
            times.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
        }
        return times;
    }

    nb::dict memory() const {
        const edgenas::Memory m = executor_.memory();
        nb::dict d;
        d["file_bytes"] = m.file_bytes;
        d["arena_bytes"] = m.arena_bytes;
        d["scratch_bytes"] = m.scratch_bytes;
        d["prepared_bytes"] = m.prepared_bytes;
        return d;
    }

    nb::bytes metadata() const { return nb::bytes(executor_.plan().metadata.data(), executor_.plan().metadata.size()); }
    bool has_decode() const { return executor_.has_decode(); }
    nb::list inputs() const { return described(executor_.plan().inputs); }
    nb::list outputs() const { return described(executor_.plan().outputs); }

  private:
    std::lock_guard<std::mutex> locked() {
        nb::gil_scoped_release release;
        return std::lock_guard(mutex_);
    }

    void run_unlocked(std::vector<double>* times) {
        nb::gil_scoped_release release;
        executor_.run(times);
    }

    nb::list described(std::span<const uint32_t> ids) const {
        nb::list found;
        for (const uint32_t id : ids) {
            const Tensor& t = executor_.plan().tensors[id];
            found.append(
                nb::make_tuple(std::string(t.name), t.f32 ? "f32" : "u8", nb::make_tuple(t.c, t.h, t.w), t.bits, t.scale, t.zero_point));
        }
        return found;
    }

    void set_inputs(const Inputs& inputs) {
        const auto ids = executor_.plan().inputs;
        if (inputs.size() != ids.size())
            throw ArtifactError("plan: it takes " + std::to_string(ids.size()) + " inputs, not " + std::to_string(inputs.size()));
        for (size_t k = 0; k < ids.size(); ++k) set_input(ids[k], inputs[k]);
    }

    // Lanes of one group of four channels, gathered pixel by pixel; `a` may have any strides, as an image (H, W, 3) seen as planes.
    template <int kLanes>
    static uint32_t fill_group(const Inputs::value_type& a, size_t first_channel, uint8_t* out) {
        const int64_t sc = a.stride(0), sx = a.stride(2);
        uint32_t seen = 0;
        for (size_t y = 0; y < a.shape(1); ++y) {
            const auto* row =
                static_cast<const uint8_t*>(a.data()) + static_cast<int64_t>(first_channel) * sc + static_cast<int64_t>(y) * a.stride(1);
            for (size_t x = 0; x < a.shape(2); ++x, row += sx, out += 4) {
                uint32_t pixel = 0;
                for (int lane = 0; lane < kLanes; ++lane) pixel |= uint32_t{row[lane * sc]} << (8 * lane);
                std::memcpy(out, &pixel, 4);
                seen |= pixel;
            }
        }
        return seen | seen >> 8 | seen >> 16 | seen >> 24;
    }

    static void fill_floats(const Inputs::value_type& a, float* out) {
        for (size_t c = 0; c < a.shape(0); ++c)
            for (size_t y = 0; y < a.shape(1); ++y, out += a.shape(2)) {
                const auto* row =
                    static_cast<const float*>(a.data()) + static_cast<int64_t>(c) * a.stride(0) + static_cast<int64_t>(y) * a.stride(1);
                for (size_t x = 0; x < a.shape(2); ++x) out[x] = row[static_cast<int64_t>(x) * a.stride(2)];
            }
    }

    void set_input(uint32_t id, const Inputs::value_type& a) {
        const Tensor& t = executor_.plan().tensors[id];
        const std::string where = "input '" + std::string(t.name) + "': ";
        if (a.dtype() != (t.f32 ? nb::dtype<float>() : nb::dtype<uint8_t>()))
            throw ArtifactError(where + "it takes " + (t.f32 ? "float32" : "uint8"));
        if (a.shape(0) != static_cast<size_t>(t.c) || a.shape(1) != static_cast<size_t>(t.h) || a.shape(2) != static_cast<size_t>(t.w))
            throw ArtifactError(where + "shape (" + std::to_string(a.shape(0)) + ", " + std::to_string(a.shape(1)) + ", " +
                                std::to_string(a.shape(2)) + ") is not (" + std::to_string(t.c) + ", " + std::to_string(t.h) + ", " +
                                std::to_string(t.w) + ")");
        if (t.f32) return fill_floats(a, reinterpret_cast<float*>(executor_.at(id)));
        uint32_t seen = 0;
        for (int32_t c = 0; c < t.c; c += 4) {
            auto* out = reinterpret_cast<uint8_t*>(executor_.at(id)) + c * t.pixels();
            const auto first = static_cast<size_t>(c);
            const int32_t lanes = std::min(4, t.c - c);
            seen |= lanes == 4   ? fill_group<4>(a, first, out)
                    : lanes == 3 ? fill_group<3>(a, first, out)
                    : lanes == 2 ? fill_group<2>(a, first, out)
                                 : fill_group<1>(a, first, out);
        }
        if ((seen & 0xFF) >> t.bits != 0) throw ArtifactError(where + "a code does not fit its " + std::to_string(t.bits) + " bits");
    }

    nb::object output(uint32_t id) const {
        const Tensor& t = executor_.plan().tensors[id];
        return t.f32 ? nb::cast(planar<float>(id, t)) : nb::cast(planar<uint8_t>(id, t));
    }

    template <typename T>
    Numpy<T, nb::ndim<3>> planar(uint32_t id, const Tensor& t) const {
        auto* memory = new T[static_cast<size_t>(t.elements()) + 1];
        edgenas::get_planar(executor_, id, reinterpret_cast<std::byte*>(memory));
        return {memory, {static_cast<size_t>(t.c), static_cast<size_t>(t.h), static_cast<size_t>(t.w)}, freeing(memory)};
    }

    edgenas::Executor executor_;
    std::mutex mutex_;
};

// The signed codes of packed rows, as the kernels unpack them: (rows, codes).
auto unpack_weights(nb::bytes packed, int64_t rows, int64_t codes, int32_t bits) {
    const int64_t row = edgenas::weight_row_bytes(codes, bits);
    if (rows < 0 || codes < 1 || static_cast<size_t>(rows * row) != packed.size())
        throw ArtifactError("weights: the packed size does not suit rows, codes and bits");
    std::vector<int8_t> out;
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t k = 0; k < codes; ++k)
            out.push_back(static_cast<int8_t>(edgenas::unpack_weight(static_cast<const uint8_t*>(packed.data()) + r * row, k, bits)));
    return owned<int8_t, nb::ndim<2>>(out, {static_cast<size_t>(rows), static_cast<size_t>(codes)});
}

}  // namespace

NB_MODULE(_csrc, m) {
    nb::register_exception_translator([](const std::exception_ptr& p, void*) {
        try {
            std::rethrow_exception(p);
        } catch (const ArtifactError& e) {
            PyErr_SetString(nb::module_::import_("nas.runtime.plan").attr("ArtifactError").ptr(), e.what());
        }
    });
    nb::class_<PyExecutor>(m, "Executor")
        .def(nb::init<nb::bytes, const std::string&, std::vector<std::string>, int32_t, int64_t>(), "file"_a, "variant"_a = "",
             "variants"_a = std::vector<std::string>(), "threads"_a = 1, "split_from"_a = edgenas::kSplitFrom)
        .def("run", &PyExecutor::run, "inputs"_a)
        .def("detect", &PyExecutor::detect, "inputs"_a, "score_threshold"_a, "iou_threshold"_a, "max_detections"_a)
        .def("decoded", &PyExecutor::decoded, "inputs"_a)
        .def("profile", &PyExecutor::profile, "inputs"_a)
        .def("time", &PyExecutor::time, "inputs"_a, "runs"_a)
        .def_prop_ro("memory", &PyExecutor::memory)
        .def_prop_ro("metadata", &PyExecutor::metadata)
        .def_prop_ro("has_decode", &PyExecutor::has_decode)
        .def_prop_ro("inputs", &PyExecutor::inputs)
        .def_prop_ro("outputs", &PyExecutor::outputs);
    m.def("unpack_weights", &unpack_weights, "packed"_a, "rows"_a, "codes"_a, "bits"_a);
    m.def("variants", [](const std::string& op) { return edgenas::variants(op); }, "op"_a);
    m.def("isa", &edgenas::cpu::names);
    edgenas::bind_codebook(m);
}
