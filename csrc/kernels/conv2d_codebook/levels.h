// Codes of at most 4 bits to the levels they stand for, byte by byte.
#pragma once
#include <cstdint>

namespace edgenas {

#if defined(__x86_64__)
void codebook_levels_avx2(const uint8_t (&levels)[16], const uint8_t* x, int64_t bytes, uint8_t* to);
#endif

}  // namespace edgenas
