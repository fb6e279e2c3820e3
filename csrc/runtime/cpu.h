// What this CPU (and its operating system) can run.
#pragma once
#include <cstdint>
#include <string>

namespace edgenas::cpu {

constexpr uint32_t kAny = 0;
constexpr uint32_t kAvx2 = 1;                // AVX2 and FMA
constexpr uint32_t kAvx512 = 2;              // F, BW, VL, DQ, VNNI, VBMI
constexpr uint32_t kNeon = 4;                // on 32-bit Arm with VFPv4
constexpr uint32_t kNeonDotprod = 8;         // sdot and udot of ARMv8.2, 64-bit Arm only

// The usable feature bits. The environment variable EDGENAS_ISA = portable | avx2 | avx512 | neon | neon_dotprod lowers them
// (it never adds any); another value throws std::invalid_argument naming the choices. Read anew at every call.
uint32_t features();

// Their names, widest first: "avx512 avx2", or "portable".
std::string names();

}  // namespace edgenas::cpu
