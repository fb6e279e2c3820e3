// Convolution with codebooks as an int8 convolution of the levels themselves: codes become levels while they are packed, and the fastest
// kernel of conv2d for 8 bits does the rest. Its speed does not depend on the levels, so it is the one for wide ones, and for all of
// them where the CPU multiplies int8 faster than it looks up (VNNI).
#include <algorithm>
#include <cstring>
#include <vector>

#include "../../runtime/cpu.h"
#include "levels.h"
#include "variants.h"

namespace edgenas {
namespace {

constexpr int64_t aligned(int64_t n) { return (n + 63) / 64 * 64; }
constexpr int64_t kMaxTerms = 65536;        // of conv2d

int64_t row_codes(const Conv2d& c) { return static_cast<int64_t>(c.c_in / c.groups) * c.kernel * c.kernel; }

// Prepared: the weights of the int8 convolution, then what its kernel prepares. Scratch: its input, then what its kernel needs.
int64_t weight_bytes(const Conv2d& c) { return aligned(c.c_out * row_codes(c)); }
int64_t input_bytes(const Conv2d& c) { return aligned(static_cast<int64_t>((c.c_in + 3) / 4) * 4 * c.h * c.w); }

int32_t lowest_level(const CodebookConv2d& b) {
    return std::min<int32_t>(0, *std::min_element(b.activation_levels, b.activation_levels + (1 << b.conv.abits)));
}

// Codes are levels less the lowest one (or 0), which makes that one's place the zero point.
Conv2d as_int8(const CodebookConv2d& b, const void* prepared) {
    Conv2d c = b.conv;
    c.wbits = c.abits = 8;
    c.zero_point = -lowest_level(b);
    c.weights = static_cast<const uint8_t*>(prepared);
    return c;
}

const Variant& kernel_of(const Conv2d& c) {
    const auto rows = conv2d_variants();
    return *std::find_if(rows.begin(), rows.end(), [&](const Variant& v) { return (v.needs & ~cpu::features()) == 0 && v.supports(c); });
}

void put_levels(const CodebookConv2d& b, void* weights) {
    const int64_t codes = row_codes(b.conv);
    int8_t* w = static_cast<int8_t*>(weights);
    for (int32_t co = 0; co < b.conv.c_out; ++co)
        for (int64_t i = 0; i < codes; ++i)
            *w++ = b.weight_levels[unpack_code(b.conv.weights + co * weight_row_bytes(codes, b.conv.wbits), i, b.conv.wbits)];
}

// The kernel's own bytes depend on the weights.
size_t prepared_bytes(const CodebookConv2d& b) {
    std::vector<int8_t> weights(static_cast<size_t>(weight_bytes(b.conv)));
    put_levels(b, weights.data());
    const Conv2d c = as_int8(b, weights.data());
    return static_cast<size_t>(weight_bytes(c)) + kernel_of(c).prepared_bytes(c);
}

void prepare(const CodebookConv2d& b, void* prepared) {
    put_levels(b, prepared);
    const Conv2d c = as_int8(b, prepared);
    kernel_of(c).prepare(c, static_cast<uint8_t*>(prepared) + weight_bytes(c));
}

size_t scratch_bytes(const CodebookConv2d& b) {
    const Conv2d c = as_int8(b, nullptr);
    return static_cast<size_t>(input_bytes(c)) + kernel_of(c).scratch_bytes(c);
}

void to_levels(const CodebookConv2d& b, const uint8_t* x, int64_t bytes, uint8_t* to) {
    uint8_t levels[16] = {};
    for (int32_t k = 0; k < 1 << b.conv.abits; ++k) levels[k] = static_cast<uint8_t>(b.activation_levels[k] - lowest_level(b));
#if defined(__x86_64__)
    if (cpu::features() & cpu::kAvx2) return codebook_levels_avx2(levels, x, bytes, to);
#endif
    for (int64_t i = 0; i < bytes; ++i) to[i] = levels[x[i]];
}

// The first worker packs: a worker of the int8 kernel may read any part of its input.
void pack(const CodebookConv2d& b, const void* prepared, const uint8_t* x, void* scratch, Share share) {
    if (share.index != 0) return;
    const Conv2d c = as_int8(b, prepared);
    uint8_t* levels = static_cast<uint8_t*>(scratch);
    to_levels(b, x, static_cast<int64_t>((c.c_in + 3) / 4) * 4 * c.h * c.w, levels);
    kernel_of(c).pack(c, static_cast<const uint8_t*>(prepared) + weight_bytes(c), levels, levels + input_bytes(c), {0, 1});
}

void compute(const CodebookConv2d& b, const void* prepared, const uint8_t*, void* y, const void* scratch, Share share) {
    const Conv2d c = as_int8(b, prepared);
    const uint8_t* levels = static_cast<const uint8_t*>(scratch);
    kernel_of(c).compute(c, static_cast<const uint8_t*>(prepared) + weight_bytes(c), levels, y, levels + input_bytes(c), share);
}

}  // namespace

// Its output is no int32, it pads with real 0, and its weights are -127 .. 127.
bool codebook_fits_int8(const CodebookConv2d& b) {
    const int8_t* end = b.weight_levels + (1 << b.conv.wbits);
    return !b.sums && row_codes(b.conv) <= kMaxTerms && (b.conv.pad == 0 || b.activation_levels[b.conv.zero_point] == 0) &&
           std::find(b.weight_levels, end, -128) == end;
}

const CodebookVariant kCodebookInt8{"int8", cpu::kAny, codebook_fits_int8, prepared_bytes, prepare, scratch_bytes, pack, compute};
const CodebookVariant kCodebookInt8Avx512{"int8_avx512", cpu::kAvx512, codebook_fits_int8, prepared_bytes, prepare,
                                          scratch_bytes, pack, compute};

}  // namespace edgenas
