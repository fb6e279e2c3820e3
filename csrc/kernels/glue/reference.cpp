#include "body.h"
#include "variants.h"

namespace edgenas {

const Glue kGlueReference = glue_row("reference", cpu::kAny);

}  // namespace edgenas
