// Requantization by one float multiply-add, where that is proven to give the same codes as the int64 definition (requant.h).
//
// code = clip(round(fma(acc, factor, offset))), rounded to the nearest integer. Both this and the definition ascend (or descend)
// with acc, so they are equal for all sums that can occur if they are equal on both sides of every step of the definition. The
// offset is chosen in the middle of what the steps allow; with the usual few hundred steps float precision is plenty.
#pragma once
#include <cstdint>
#include <vector>

#include "requant.h"

namespace edgenas {

struct FloatScale {
    float factor, offset;
};

// Of channel c, for sums in -largest .. largest that the definition is to see raised by `start`; kLinear or kTable. Returns false
// where no offset was proven right.
bool float_scale(const Requant&, int32_t c, int64_t start, int64_t largest, FloatScale&);

}  // namespace edgenas
