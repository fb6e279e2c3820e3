// Tensors as callers hold them, (C, H, W) one channel after another, to and from the arena.
#pragma once
#include "executor.h"

namespace edgenas {

// Bytes of the tensor as a planar array, without padding lanes.
inline int64_t planar_bytes(const Tensor& t) { return t.elements() * (t.f32 ? 4 : 1); }

// Puts planar_bytes(t) bytes into input `id`; throws ArtifactError where a code does not fit the tensor's bits.
void set_planar(const Executor& executor, uint32_t id, const std::byte* from);

// The other way round: planar_bytes(t) bytes to `out`.
void get_planar(const Executor& executor, uint32_t id, std::byte* out);

}  // namespace edgenas
