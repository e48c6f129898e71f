// Winograd's 3x3 convolution: 2.25 times fewer multiplications, on processors with AVX-512.
//
// F(2x2, 3x3) of Lavin and Gray 2015 (arXiv 1509.09308): tiles of 2x2 outputs from 4x4 inputs,
// y = A^T [(G g G^T) * (B^T d B)] A. Its constants are 0, 1 and 1/2, so it rounds hardly more than
// the direct sum. The direct convolution runs at the processor's peak, so only fewer operations
// make it faster.

#pragma once

#include <cstdint>

namespace native {

// One part of a batch: stride 1, one pixel of zeros around, channels in multiples of 16, float32.
struct WinogradShape {
  int64_t batch, height, width, in, out;

  int64_t kernel_values() const { return 16 * in * out; }
};

// Whether this processor and these channels suit the functions below.
inline bool winograd_suits(int64_t in, int64_t out) {
#if defined(__x86_64__)
  static const bool fast =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl");
  return fast && in % 16 == 0 && out % 16 == 0;
#else
  return (void)in, (void)out, false;
#endif
}

// Values of scratch memory that the functions below need, whatever the batch.
int64_t winograd_scratch(const WinogradShape& shape);

// Kernels [3, 3, in, out] to [16, in, out].
void winograd_kernel(const WinogradShape& shape, const float* kernel, float* transformed);

// The same of the kernel that leads gradients back: shape is the gradient's, so `kernel` is
// [3, 3, shape.out, shape.in].
void winograd_kernel_backward(const WinogradShape& shape, const float* kernel, float* transformed);

void winograd_convolution(const WinogradShape& shape, const float* x, const float* transformed,
                          float* y, float* scratch);

// Writes the part's gradient of the transformed kernel, [16, in, out].
void winograd_gradient(const WinogradShape& shape, const float* x, const float* dy,
                       float* gradient, float* scratch);

// The gradient [3, 3, in, out] from the sum of all parts'.
void winograd_gradient_of_kernel(const WinogradShape& shape, const float* transformed,
                                 float* gradient);

}  // namespace native
