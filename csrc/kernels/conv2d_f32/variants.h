// The rows of the variant table, one per file.
#pragma once
#include "kernel.h"

namespace edgenas {

extern const VariantF32 kConv2dF32Reference;    // reference.cpp
#if defined(__x86_64__)
extern const VariantF32 kConv2dF32Avx2;         // avx2.cpp
extern const VariantF32 kConv2dF32Avx512;       // avx512.cpp
#elif defined(__aarch64__) || defined(__arm__)
extern const VariantF32 kConv2dF32Neon;         // neon.cpp
#endif

}  // namespace edgenas
