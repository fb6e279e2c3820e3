// The rows of the glue table, one per ISA file.
#pragma once
#include "../../runtime/cpu.h"
#include "kernel.h"

namespace edgenas {

extern const Glue kGlueReference, kGlueAvx2, kGlueAvx512, kGlueNeon;

}  // namespace edgenas
