// The Python door of the arena planner: hwmodels._planner. Lists of integers in, lists of integers out.
#include "../planner/planner.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <stdexcept>
#include <string>
#include <tuple>

namespace nb = nanobind;
using namespace nb::literals;
using namespace edgenas::planner;

namespace {

// Nodes one after the other, each as: kind, is_codes, plane, channels, first, number of inputs, their positions.
constexpr size_t kFields = 6;

std::vector<Node> nodes_of(const std::vector<int64_t>& flat) {
    std::vector<Node> nodes;
    for (size_t at = 0; at < flat.size();) {
        const int64_t* f = flat.data() + at;
        const std::string where = "node " + std::to_string(nodes.size()) + ": ";
        if (flat.size() - at < kFields || f[5] < 0 || static_cast<uint64_t>(f[5]) > flat.size() - at - kFields)
            throw std::invalid_argument(where + "it is cut off");
        if (f[0] < 0 || f[0] > static_cast<int64_t>(Kind::kHost)) throw std::invalid_argument(where + "its kind is unknown");
        Node node{static_cast<Kind>(f[0]), f[1] != 0, f[2], f[3], f[4], {}};
        for (int64_t k = 0; k < f[5]; ++k) {
            const int64_t x = f[kFields + static_cast<size_t>(k)];
            if (x < 0 || x >= static_cast<int64_t>(nodes.size()) || nodes[static_cast<size_t>(x)].kind == Kind::kHost)
                throw std::invalid_argument(where + "it reads node " + std::to_string(x) + ", which gives no tensor before it");
            node.inputs.push_back(static_cast<int32_t>(x));
        }
        const bool is_view = node.kind == Kind::kSlice || node.kind == Kind::kFlatten;
        if (is_view && node.inputs.size() != 1) throw std::invalid_argument(where + "a view reads one tensor");
        at += kFields + node.inputs.size();
        nodes.push_back(std::move(node));
    }
    return nodes;
}

class PyLayout {
  public:
    PyLayout(const std::vector<int64_t>& flat, const std::vector<int32_t>& outputs) {
        const std::vector<Node> nodes = nodes_of(flat);
        for (const int32_t x : outputs)
            if (x < 0 || static_cast<size_t>(x) >= nodes.size()) throw std::invalid_argument("no node " + std::to_string(x) + " to put out");
        layout_ = share(nodes, outputs);
    }

    std::vector<int64_t> sizes() const {
        std::vector<int64_t> bytes;
        for (const Part& life : layout_.lives) bytes.push_back(life.high);
        return bytes;
    }
    const std::vector<Traffic>& traffic() const { return layout_.traffic; }
    const std::vector<std::vector<int32_t>>& aliases() const { return layout_.aliases; }

    std::tuple<std::vector<int64_t>, int64_t, int64_t> arena(int64_t alignment) const {
        Arena a = edgenas::planner::arena(layout_, alignment);
        return {std::move(a.offsets), a.peak, a.bound};
    }

  private:
    Layout layout_;
};

std::pair<std::vector<int64_t>, int64_t> placed(const std::vector<std::vector<std::array<int64_t, 4>>>& blocks, int64_t alignment) {
    std::vector<Block> all;
    for (const auto& parts : blocks) {
        if (parts.empty()) throw std::invalid_argument("a block has no parts");
        Block& block = all.emplace_back();
        for (const auto& [low, high, birth, death] : parts) {
            if (birth < -1 || death < birth) throw std::invalid_argument("a part must live from step -1 or later to its birth or later");
            block.push_back({low, high, birth, death});
        }
    }
    Placement p = place(all, alignment);
    return {std::move(p.starts), p.bound};
}

}  // namespace

NB_MODULE(_planner, m) {
    nb::set_leak_warnings(false);       // a cache holds a Layout until the interpreter ends
    nb::class_<PyLayout>(m, "Layout")
        .def(nb::init<const std::vector<int64_t>&, const std::vector<int32_t>&>(), "nodes"_a, "outputs"_a)
        .def_prop_ro("sizes", &PyLayout::sizes)      // bytes of each node's tensor
        .def_prop_ro("traffic", &PyLayout::traffic)  // of each node: bytes of its inputs, of its output, and moved without weights
        .def_prop_ro("aliases", &PyLayout::aliases)  // of each node: the inputs whose memory it shares
        .def("arena", &PyLayout::arena, "alignment"_a);  // offsets (-1 outside the arena), peak, bound
    m.def("place", &placed, "blocks"_a, "alignment"_a);  // blocks of parts (low, high, birth, death) -> starts, bound
}
