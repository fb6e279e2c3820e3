// For armv7, whose baseline has no NEON; on aarch64 reference.cpp is compiled for it already.
#include "body.h"
#include "variants.h"

#if defined(__arm__)
namespace edgenas {

const Glue kGlueNeon = glue_row("neon", cpu::kNeon);

}  // namespace edgenas
#endif
