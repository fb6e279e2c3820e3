// Convolution with codebooks as a Python function: nas.runtime.codebook is its only caller.
#pragma once
#include <nanobind/nanobind.h>

namespace edgenas {

void bind_codebook(nanobind::module_& m);

}  // namespace edgenas
