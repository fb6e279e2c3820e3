// Fastest first; the first row this CPU can run and that supports the shape is used.
#include "variants.h"

namespace edgenas {

std::span<const VariantF32> conv2d_f32_variants() {
    static const VariantF32 kVariants[] = {
#if defined(__x86_64__)
        kConv2dF32Avx512,
        kConv2dF32Avx2,
#elif defined(__aarch64__) || defined(__arm__)
        kConv2dF32Neon,
#endif
        kConv2dF32Reference,
    };
    return kVariants;
}

}  // namespace edgenas
