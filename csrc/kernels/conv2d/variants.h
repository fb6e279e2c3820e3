// The rows of the variant table, one per file.
#pragma once
#include "kernel.h"

namespace edgenas {

extern const Variant kConv2dReference;      // reference.cpp
#if defined(__x86_64__)
extern const Variant kConv2dAvx2;           // avx2.cpp
extern const Variant kConv2dSwapAvx512;     // swap_avx512.cpp
extern const Variant kConv2dAvx512;         // avx512.cpp
extern const Variant kConv2dDepthwiseAvx2;  // depthwise_avx2.cpp
extern const Variant kConv2dLookupAvx2;     // lookup_avx2.cpp
extern const Variant kConv2dLookupSwapAvx512;       // lookup_swap_avx512.cpp
extern const Variant kConv2dLookupAvx512;   // lookup_avx512.cpp
#endif

}  // namespace edgenas
