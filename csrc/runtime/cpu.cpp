#include "cpu.h"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#if (defined(__aarch64__) || defined(__arm__)) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace edgenas::cpu {
namespace {

uint32_t detected() {
    uint32_t found = kAny;
#if defined(__x86_64__)
    // These builtins also ask the operating system (XGETBV) whether it saves the wide registers.
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found |= kAvx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi"))
        found |= kAvx512;
#elif defined(__aarch64__)
    found |= kNeon;
#if defined(__linux__)
    if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) found |= kNeonDotprod;
#endif
#elif defined(__arm__) && defined(__linux__)
    constexpr unsigned long kBoth = HWCAP_NEON | HWCAP_VFPv4;
    if ((getauxval(AT_HWCAP) & kBoth) == kBoth) found |= kNeon;
#endif
    return found;
}

}  // namespace

uint32_t features() {
    static const uint32_t found = detected();
    const char* wish = std::getenv("EDGENAS_ISA");
    if (wish == nullptr || *wish == '\0') return found;
    const std::string_view isa = wish;
    if (isa == "portable") return kAny;
    if (isa == "avx2") return found & kAvx2;
    if (isa == "avx512") return found & (kAvx2 | kAvx512);
    if (isa == "neon") return found & kNeon;
    if (isa == "neon_dotprod") return found & (kNeon | kNeonDotprod);
    throw std::invalid_argument("EDGENAS_ISA is \"" + std::string(isa) +
                                "\"; choose portable, avx2, avx512, neon or neon_dotprod, or unset it");
}

std::string names() {
    const uint32_t f = features();
    std::string found;
    for (const auto& [bit, name] : {std::pair{kAvx512, "avx512"}, {kAvx2, "avx2"}, {kNeonDotprod, "neon_dotprod"}, {kNeon, "neon"}})
        if (f & bit) {
            if (!found.empty()) found += ' ';
            found += name;
        }
    return found.empty() ? "portable" : found;
}

}  // namespace edgenas::cpu
