// The rows of the variant table, one per file.
#pragma once
#include "kernel.h"

namespace edgenas {

extern const CodebookVariant kCodebookReference;    // reference.cpp
bool codebook_fits_int8(const CodebookConv2d&);     // int8.cpp: whether its rows support the layer
extern const CodebookVariant kCodebookInt8;
extern const CodebookVariant kCodebookInt8Avx512;
#if defined(__x86_64__)
extern const CodebookVariant kCodebookAvx2;         // avx2.cpp
#endif

}  // namespace edgenas
