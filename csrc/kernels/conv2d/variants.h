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
#elif defined(__aarch64__) || defined(__arm__)
#if defined(__aarch64__)
extern const Variant kConv2dNeonDotprod;    // neon_dotprod.cpp
#endif
extern const Variant kConv2dNeon;           // neon.cpp
extern const Variant kConv2dW2A2Neon;       // w2a2_neon.cpp
extern const Variant kConv2dW1A1Neon;       // w1a1_neon.cpp
#endif

}  // namespace edgenas
