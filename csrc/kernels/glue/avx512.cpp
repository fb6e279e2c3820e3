#include "body.h"
#include "variants.h"

namespace edgenas {

const Glue kGlueAvx512 = glue_row("avx512", cpu::kAvx512);

}  // namespace edgenas
