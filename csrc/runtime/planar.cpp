#include "planar.h"

#include <cstring>

namespace edgenas {
namespace {

// C4: where channel k of pixel p lies.
int64_t lane(int64_t k, int64_t p, int64_t pixels) { return (k / 4 * pixels + p) * 4 + k % 4; }

}  // namespace

void set_planar(const Executor& executor, uint32_t id, const std::byte* from) {
    const Tensor& t = executor.plan().tensors[id];
    std::byte* to = executor.at(id);
    if (t.f32) {
        std::memcpy(to, from, static_cast<size_t>(planar_bytes(t)));
        return;
    }
    const int64_t pixels = t.pixels();
    std::memset(to, 0, static_cast<size_t>(t.bytes));
    uint32_t seen = 0;
    for (int64_t k = 0; k < t.c; ++k)
        for (int64_t p = 0; p < pixels; ++p) {
            const std::byte code = from[k * pixels + p];
            to[lane(k, p, pixels)] = code;
            seen |= static_cast<uint32_t>(code);
        }
    if (seen >> t.bits != 0)
        throw ArtifactError("input '" + std::string(t.name) + "': a code does not fit its " + std::to_string(t.bits) + " bits");
}

void get_planar(const Executor& executor, uint32_t id, std::byte* out) {
    const Tensor& t = executor.plan().tensors[id];
    const std::byte* from = executor.at(id);
    if (t.f32) {
        std::memcpy(out, from, static_cast<size_t>(planar_bytes(t)));
        return;
    }
    const int64_t pixels = t.pixels();
    for (int64_t k = 0; k < t.c; ++k)
        for (int64_t p = 0; p < pixels; ++p) out[k * pixels + p] = from[lane(k, p, pixels)];
}

}  // namespace edgenas
