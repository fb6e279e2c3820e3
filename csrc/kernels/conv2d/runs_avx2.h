// The inner loop of the AVX2 lookup kernel (lookup_avx2.cpp): the runs of one segment (lookup_runs.h) for two pairs of channels at V
// vectors of 32 positions. Internal linkage: only files compiled for AVX2 may include it.
//
// Assembly, because the loop needs all 16 registers and compilers spill some of them in its middle, which halves the speed:
//   ymm0-3    sums of both channels of a pair as bytes, low + 16 high mod 256      [pair][vector]
//   ymm4-7    sums of the second channel, high                                     [pair][vector]
//   ymm8-11   what the steps of this run found                                     [pair][vector]
//   ymm12-13  indices of the step; ymm14 a table row; ymm15 scratch
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "lookup_runs.h"

namespace edgenas {
namespace {

struct alignas(32) ByteSums {
    __m256i both[2][2], high[2][2];         // [pair][vector]

    void clear() {                          // by whole vectors, which can be loaded again at once
        for (int p = 0; p < 2; ++p)
            for (int v = 0; v < 2; ++v) both[p][v] = high[p][v] = _mm256_setzero_si256();
    }
};

alignas(32) constexpr uint64_t kLowHalves[4] = {0x0F0F0F0F0F0F0F0F, 0x0F0F0F0F0F0F0F0F, 0x0F0F0F0F0F0F0F0F, 0x0F0F0F0F0F0F0F0F};

// Step k of a run: its indices, and the row of pair p.
#define RUNS_INDEX_1(k) "movslq 8*" #k "(%[step]), %[a]\n\tvmovdqu (%[x],%[a]), %%ymm12\n\t"
#define RUNS_INDEX_2(k) RUNS_INDEX_1(k) "vmovdqu 32(%[x],%[a]), %%ymm13\n\t"
#define RUNS_ROW(k, p) "movzwl 8*" #k "+4+2*" #p "(%[step]), %k[a]\n\tvbroadcasti128 (%[table],%[a]), %%ymm14\n\t"
// The first step of a run finds into the registers t, the next ones add to them.
#define RUNS_FIRST_1(t0, t1) "vpshufb %%ymm12, %%ymm14, %%" #t0 "\n\t"
#define RUNS_FIRST_2(t0, t1) RUNS_FIRST_1(t0, t1) "vpshufb %%ymm13, %%ymm14, %%" #t1 "\n\t"
#define RUNS_NEXT_1(t0, t1) "vpshufb %%ymm12, %%ymm14, %%ymm15\n\tvpaddb %%ymm15, %%" #t0 ", %%" #t0 "\n\t"
#define RUNS_NEXT_2(t0, t1) RUNS_NEXT_1(t0, t1) "vpshufb %%ymm13, %%ymm14, %%ymm14\n\tvpaddb %%ymm14, %%" #t1 ", %%" #t1 "\n\t"
// The end of a run adds what it found to the sums.
#define RUNS_ADD(t, both, high)                                                                                   \
    "vpsrlw $4, %%" #t ", %%ymm15\n\tvpaddb %%" #t ", %%" #both ", %%" #both "\n\tvpand %[low], %%ymm15, %%ymm15\n\t" \
    "vpaddb %%ymm15, %%" #high ", %%" #high "\n\t"
#define RUNS_ADD_1 RUNS_ADD(ymm8, ymm0, ymm4) RUNS_ADD(ymm10, ymm2, ymm6)
#define RUNS_ADD_2 RUNS_ADD_1 RUNS_ADD(ymm9, ymm1, ymm5) RUNS_ADD(ymm11, ymm3, ymm7)
// One step for both pairs.
#define RUNS_FIRST(V, k) RUNS_INDEX_##V(k) RUNS_ROW(k, 0) RUNS_FIRST_##V(ymm8, ymm9) RUNS_ROW(k, 1) RUNS_FIRST_##V(ymm10, ymm11)
#define RUNS_NEXT(V, k) RUNS_INDEX_##V(k) RUNS_ROW(k, 0) RUNS_NEXT_##V(ymm8, ymm9) RUNS_ROW(k, 1) RUNS_NEXT_##V(ymm10, ymm11)
#define RUNS_STEPS_1(V) RUNS_FIRST(V, 0)
#define RUNS_STEPS_2(V) RUNS_STEPS_1(V) RUNS_NEXT(V, 1)
#define RUNS_STEPS_3(V) RUNS_STEPS_2(V) RUNS_NEXT(V, 2)
#define RUNS_STEPS_4(V) RUNS_STEPS_3(V) RUNS_NEXT(V, 3)
#define RUNS_LOAD(k, r) "vmovdqa 32*" #k "(%[sums]), %%" #r "\n\t"
#define RUNS_STORE(k, r) "vmovdqa %%" #r ", 32*" #k "(%[sums])\n\t"

// All runs of a segment; every run has LENGTH steps.
#define RUNS_SEGMENT(V, LENGTH)                                                                                              \
    __asm__ volatile(RUNS_LOAD(0, ymm0) RUNS_LOAD(1, ymm1) RUNS_LOAD(2, ymm2) RUNS_LOAD(3, ymm3) RUNS_LOAD(4, ymm4)         \
                         RUNS_LOAD(5, ymm5) RUNS_LOAD(6, ymm6) RUNS_LOAD(7, ymm7) ".p2align 5\n1:\n\t"                    \
                             RUNS_STEPS_##LENGTH(V) RUNS_ADD_##V                                                             \
                     "add $8*" #LENGTH ", %[step]\n\tdec %[runs]\n\tjnz 1b\n\t"                                              \
                     RUNS_STORE(0, ymm0) RUNS_STORE(1, ymm1) RUNS_STORE(2, ymm2) RUNS_STORE(3, ymm3) RUNS_STORE(4, ymm4)     \
                         RUNS_STORE(5, ymm5) RUNS_STORE(6, ymm6) RUNS_STORE(7, ymm7)                                         \
                     : [step] "+r"(step), [runs] "+r"(runs), [a] "=&r"(address)                                              \
                     : [x] "r"(x), [table] "r"(table), [sums] "r"(&sums), [low] "m"(kLowHalves)                              \
                     : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",       \
                       "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")

// Adds to the sums; returns the first step behind the segment.
template <int V>
inline const RunStep* look_up_runs(const RunSegment& segment, const uint8_t* x, const RunStep* step, const uint8_t* table, ByteSums& sums) {
    int64_t runs = segment.runs, address;
    if constexpr (V == 1) {
        switch (segment.length) {
            case 1: RUNS_SEGMENT(1, 1); break;
            case 2: RUNS_SEGMENT(1, 2); break;
            case 3: RUNS_SEGMENT(1, 3); break;
            default: RUNS_SEGMENT(1, 4); break;
        }
    } else {
        switch (segment.length) {
            case 1: RUNS_SEGMENT(2, 1); break;
            case 2: RUNS_SEGMENT(2, 2); break;
            case 3: RUNS_SEGMENT(2, 3); break;
            default: RUNS_SEGMENT(2, 4); break;
        }
    }
    return step;
}

}  // namespace
}  // namespace edgenas
