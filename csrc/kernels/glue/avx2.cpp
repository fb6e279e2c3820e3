#include "body.h"
#include "variants.h"

namespace edgenas {

const Glue kGlueAvx2 = glue_row("avx2", cpu::kAvx2);

}  // namespace edgenas
