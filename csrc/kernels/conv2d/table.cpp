// Fastest first; the first row this CPU can run and that supports the shape is used.
#include "variants.h"

namespace edgenas {

std::span<const Variant> conv2d_variants() {
    static const Variant kVariants[] = {
#if defined(__x86_64__)
        kConv2dLookupSwapAvx512,
        kConv2dLookupAvx512,
        kConv2dSwapAvx512,
        kConv2dAvx512,
        kConv2dDepthwiseAvx2,
        kConv2dLookupAvx2,
        kConv2dAvx2,
#elif defined(__aarch64__) || defined(__arm__)
        kConv2dW1A1Neon,
        kConv2dW2A2Neon,
#if defined(__aarch64__)
        kConv2dNeonDotprod,
#endif
        kConv2dNeon,
#endif
        kConv2dReference,
    };
    return kVariants;
}

}  // namespace edgenas
