// Random convolution problems with the memory around their tensors made inaccessible.
#pragma once
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "../kernels/conv2d/kernel.h"
#include "../kernels/conv2d_f32/kernel.h"

namespace edgenas::bench {

using Rng = std::mt19937_64;

int64_t uniform(Rng&, int64_t lo, int64_t hi);      // inclusive

// Bytes that end (or begin) exactly at an inaccessible page: a kernel that touches a byte outside dies at once.
class GuardedBytes {
   public:
    GuardedBytes(size_t bytes, bool at_end);
    ~GuardedBytes();
    GuardedBytes(const GuardedBytes&) = delete;
    GuardedBytes& operator=(const GuardedBytes&) = delete;
    uint8_t* data() const { return data_; }
    size_t size() const { return size_; }

   private:
    uint8_t *pages_, *data_;
    size_t mapped_, size_;
};

struct Shape {
    int32_t c_in, c_out, h, w, kernel, stride, pad, groups;
};

int64_t macs(const Shape&);

// How codes and weights are drawn. kNormal looks like trained weights: the largest of a few thousand takes the last code.
enum class Fill { kRandom, kNormal, kMax, kMin, kAlternating };

// A quantized convolution and the storage its pointers refer to.
struct Problem {
    Conv2d conv;
    std::vector<uint8_t> weights, table;
    std::vector<int32_t> multiplier, thresholds;
    std::vector<int64_t> bias;
    std::vector<int8_t> sign;
    std::vector<float> scale, offset;
    std::unique_ptr<GuardedBytes> x;
    size_t y_bytes;
};

// out_bits: width of the output codes, at most 4 for thresholds.
std::unique_ptr<Problem> make_problem(Rng&, const Shape&, int32_t wbits, int32_t abits, int32_t out_bits, Epilogue, Fill weights,
                                      Fill codes);

struct ProblemF32 {
    Conv2dF32 conv;
    std::vector<float> weights, bias;
    std::unique_ptr<GuardedBytes> x;
    size_t y_bytes;
};

std::unique_ptr<ProblemF32> make_problem_f32(Rng&, const Shape&, Activation);

// Any shape whose work stays small: odd sizes, single pixels, channels that are no multiple of 4, groups, strides, paddings.
Shape random_shape(Rng&);

std::string describe(const Shape&);

}  // namespace edgenas::bench
