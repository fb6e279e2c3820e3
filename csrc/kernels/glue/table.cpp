#include "variants.h"

namespace edgenas {

std::span<const Glue> glue_variants() {
    static const Glue rows[] = {
#if defined(__x86_64__)
        kGlueAvx512,
        kGlueAvx2,
#elif defined(__arm__)
        kGlueNeon,
#endif
        kGlueReference,
    };
    return rows;
}

}  // namespace edgenas
