// Fastest first; the first row this CPU can run and that supports the shape is used.
#include "variants.h"

namespace edgenas {

std::span<const CodebookVariant> conv2d_codebook_variants() {
    static const CodebookVariant kVariants[] = {
#if defined(__x86_64__)
        kCodebookInt8Avx512,
        kCodebookAvx2,
#endif
        kCodebookInt8,
        kCodebookReference,
    };
    return kVariants;
}

}  // namespace edgenas
