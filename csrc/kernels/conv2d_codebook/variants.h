// The rows of the variant table, one per file.
#pragma once
#include "kernel.h"

namespace edgenas {

extern const CodebookVariant kCodebookReference;    // reference.cpp
#if defined(__x86_64__)
extern const CodebookVariant kCodebookAvx2;         // avx2.cpp
#endif

}  // namespace edgenas
