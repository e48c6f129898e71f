#include "winograd.h"

#include <algorithm>
#include <vector>

// What follows is compiled for AVX-512; the standard library's templates above are not.
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("arch=skylake-avx512"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=skylake-avx512")
#endif
#endif

#include "lanes.h"

namespace native {
namespace {

constexpr int64_t kTiles = 32;  // of one block: what is made of them stays in a core's own cache
constexpr int64_t kPoints = 16;

// Values from one point's matrix [kTiles, channels] to the next one's. A power of two would have
// the sixteen meet in a few sets of the cache.
int64_t matrix(int64_t channels) { return kTiles * channels + kLanes; }

// The tiles of a part, numbered row by row and image by image.
struct Tiles {
  const WinogradShape& shape;
  int64_t rows, columns, count;

  explicit Tiles(const WinogradShape& s)
      : shape(s),
        rows((s.height + 1) / 2),
        columns((s.width + 1) / 2),
        count(s.batch * rows * columns) {}

  // Calls use(pixel's number in the tile, index of its first value or -1 outside the image).
  template <class Use>
  NATIVE_INLINE void pixels(int64_t tile, int64_t side, int64_t before, int64_t channels,
                            Use&& use) const {
    const int64_t image = tile / (rows * columns), place = tile % (rows * columns);
    const int64_t top = place / columns * 2 - before, left = place % columns * 2 - before;
    for (int64_t i = 0; i < side; ++i) {
      for (int64_t j = 0; j < side; ++j) {
        const int64_t y = top + i, x = left + j;
        const bool inside = tile < count && y >= 0 && y < shape.height && x >= 0 && x < shape.width;
        use(i * side + j, inside ? ((image * shape.height + y) * shape.width + x) * channels : -1);
      }
    }
  }
};

// Rows of B^T d, of A d and of their like: one step in each of the two directions.
NATIVE_INLINE void input_step(const Lanes d[4], Lanes out[4]) {
  out[0] = d[0] - d[2], out[1] = d[1] + d[2], out[2] = d[2] - d[1], out[3] = d[1] - d[3];
}

NATIVE_INLINE void output_step(const Lanes m[4], Lanes out[2]) {
  out[0] = m[0] + m[1] + m[2], out[1] = m[1] - m[2] - m[3];
}

NATIVE_INLINE void gradient_step(const Lanes g[2], Lanes out[4]) {
  out[0] = g[0], out[1] = g[0] + g[1], out[2] = g[0] - g[1], out[3] = -g[1];
}

NATIVE_INLINE void kernel_step(const Lanes g[3], Lanes out[4]) {
  const Lanes outer = 0.5f * (g[0] + g[2]), inner = 0.5f * g[1];
  out[0] = g[0], out[1] = outer + inner, out[2] = outer - inner, out[3] = g[2];
}

NATIVE_INLINE void kernel_gradient_step(const Lanes u[4], Lanes out[3]) {
  out[0] = u[0] + 0.5f * (u[1] + u[2]), out[1] = 0.5f * (u[1] - u[2]);
  out[2] = u[3] + 0.5f * (u[1] + u[2]);
}

// Applies a step to the columns and then to the rows of a square, `from` x `from` to `to` x `to`.
template <int from, int to, class Step>
NATIVE_INLINE void both_ways(const Lanes* in, Lanes* out, Step&& step) {
  Lanes half[to][from];
#pragma GCC unroll 4
  for (int j = 0; j < from; ++j) {
    Lanes column[from], changed[to];
#pragma GCC unroll 4
    for (int i = 0; i < from; ++i) column[i] = in[i * from + j];
    step(column, changed);
#pragma GCC unroll 4
    for (int i = 0; i < to; ++i) half[i][j] = changed[i];
  }
#pragma GCC unroll 4
  for (int i = 0; i < to; ++i) step(half[i], out + i * to);
}

// B^T d B of a block's tiles: [16, kTiles, channels].
NATIVE_INLINE void transform_inputs(const Tiles& tiles, int64_t first, const float* x,
                                    const float* zeros, float* to) {
  const int64_t channels = tiles.shape.in;
  for (int64_t t = 0; t < kTiles; ++t) {
    const float* from[16];
    tiles.pixels(first + t, 4, 1, channels, [&](int64_t pixel, int64_t index) NATIVE_LAMBDA {
      from[pixel] = index < 0 ? zeros : x + index;
    });
    const int64_t ahead = kTiles * 4 * channels;  // the next block's, while this one is computed
    for (int64_t c = 0; c < channels; c += kLanes) {
      for (int pixel : {5, 6, 9, 10}) __builtin_prefetch(from[pixel] + ahead + c);
      Lanes d[16], v[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) d[i] = load<Lanes>(from[i] + c);
      both_ways<4, 4>(d, v, [](const Lanes* a, Lanes* b) NATIVE_LAMBDA { input_step(a, b); });
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) store(to + i * matrix(channels) + t * channels + c, v[i]);
    }
  }
}

// product[rows, columns] (+)= left^T or left [rows, inner] times right [inner, columns], for a
// block of `height` rows by `vectors` vectors of columns, which stay in registers.
template <int height, int vectors, bool transposed, bool adds>
NATIVE_INLINE void multiply_block(const float* left, int64_t left_stride, const float* right,
                                  int64_t columns, int64_t inner, float* product) {
  Lanes sum[height][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < height; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v)
      sum[r][v] = adds ? load<Lanes>(product + r * columns + v * kLanes) : Lanes{};
  }
  for (int64_t i = 0; i < inner; ++i) {
    Lanes row[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) row[v] = load<Lanes>(right + i * columns + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < height; ++r) {
      const float factor = transposed ? left[i * left_stride + r] : left[r * left_stride + i];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sum[r][v] += factor * row[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < height; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) store(product + r * columns + v * kLanes, sum[r][v]);
  }
}

// Rows in multiples of 16, columns of 16: two vectors wide where that fits, else one.
template <bool transposed, bool adds>
NATIVE_INLINE void multiply(const float* left, int64_t left_stride, const float* right,
                            int64_t rows, int64_t columns, int64_t inner, float* product) {
  const int64_t step = transposed ? 1 : left_stride;
  int64_t column = 0;
  for (; column + 2 * kLanes <= columns; column += 2 * kLanes) {
    for (int64_t r = 0; r < rows; r += 8)
      multiply_block<8, 2, transposed, adds>(left + r * step, left_stride, right + column, columns,
                                             inner, product + r * columns + column);
  }
  if (column == columns) return;
  for (int64_t r = 0; r < rows; r += 16)
    multiply_block<16, 1, transposed, adds>(left + r * step, left_stride, right + column, columns,
                                            inner, product + r * columns + column);
}

}  // namespace

int64_t winograd_scratch(const WinogradShape& shape) {
  return kPoints * (matrix(shape.in) + matrix(shape.out)) + std::max(shape.in, shape.out);
}

void winograd_kernel(const WinogradShape& shape, const float* kernel, float* to) {
  const int64_t plane = shape.in * shape.out;
  for (int64_t i = 0; i < plane; i += kLanes) {
    Lanes g[9], u[16];
    for (int k = 0; k < 9; ++k) g[k] = load<Lanes>(kernel + k * plane + i);
    both_ways<3, 4>(g, u, [](const Lanes* a, Lanes* b) NATIVE_LAMBDA { kernel_step(a, b); });
    for (int k = 0; k < 16; ++k) store(to + k * plane + i, u[k]);
  }
}

void winograd_kernel_backward(const WinogradShape& shape, const float* kernel, float* to) {
  // Turned by 180 degrees, with in and out exchanged.
  std::vector<float> turned(9 * shape.in * shape.out);
  for (int64_t k = 0; k < 9; ++k) {
    const float* from = kernel + (8 - k) * shape.in * shape.out;
    float* plane = turned.data() + k * shape.in * shape.out;
    for (int64_t i = 0; i < shape.in; ++i)
      for (int64_t o = 0; o < shape.out; ++o) plane[i * shape.out + o] = from[o * shape.in + i];
  }
  winograd_kernel(shape, turned.data(), to);
}

void winograd_convolution(const WinogradShape& shape, const float* x,
                                        const float* transformed, float* y, float* scratch) {
  const Tiles tiles(shape);
  const int64_t in = shape.in, out = shape.out;
  float *zeros = scratch, *inputs = zeros + in, *products = inputs + kPoints * matrix(in);
  std::fill_n(zeros, in, 0.0f);
  for (int64_t first = 0; first < tiles.count; first += kTiles) {
    transform_inputs(tiles, first, x, zeros, inputs);
    for (int64_t p = 0; p < kPoints; ++p)
      multiply<false, false>(inputs + p * matrix(in), in, transformed + p * in * out, kTiles, out,
                             in, products + p * matrix(out));
    for (int64_t t = 0; t < kTiles; ++t) {
      float* to[4];
      tiles.pixels(first + t, 2, 0, out, [&](int64_t pixel, int64_t index) NATIVE_LAMBDA {
        to[pixel] = index < 0 ? nullptr : y + index;
      });
      for (int64_t c = 0; c < out; c += kLanes) {
        Lanes m[16], pixels[4];
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) m[i] = load<Lanes>(products + i * matrix(out) + t * out + c);
        both_ways<4, 2>(m, pixels,
                        [](const Lanes* a, Lanes* b) NATIVE_LAMBDA { output_step(a, b); });
        for (int i = 0; i < 4; ++i) {
          if (!to[i]) continue;
          store(to[i] + c, pixels[i]);
          __builtin_prefetch(to[i] + kTiles * 4 * out + c, 1);
        }
      }
    }
  }
}

void winograd_gradient(const WinogradShape& shape, const float* x, const float* dy,
                                     float* gradient, float* scratch) {
  const Tiles tiles(shape);
  const int64_t in = shape.in, out = shape.out;
  float *zeros = scratch, *inputs = zeros + std::max(in, out);
  float* outputs = inputs + kPoints * matrix(in);
  std::fill_n(zeros, std::max(in, out), 0.0f);
  std::fill_n(gradient, shape.kernel_values(), 0.0f);
  for (int64_t first = 0; first < tiles.count; first += kTiles) {
    transform_inputs(tiles, first, x, zeros, inputs);
    for (int64_t t = 0; t < kTiles; ++t) {
      const float* from[4];
      tiles.pixels(first + t, 2, 0, out, [&](int64_t pixel, int64_t index) NATIVE_LAMBDA {
        from[pixel] = index < 0 ? zeros : dy + index;
      });
      for (int64_t c = 0; c < out; c += kLanes) {
        Lanes g[4], z[16];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          g[i] = load<Lanes>(from[i] + c);
          __builtin_prefetch(from[i] + kTiles * 4 * out + c);
        }
        both_ways<2, 4>(g, z, [](const Lanes* a, Lanes* b) NATIVE_LAMBDA { gradient_step(a, b); });
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) store(outputs + i * matrix(out) + t * out + c, z[i]);
      }
    }
    for (int64_t p = 0; p < kPoints; ++p)
      multiply<true, true>(inputs + p * matrix(in), in, outputs + p * matrix(out), in, out,
                           kTiles, gradient + p * in * out);
  }
}

void winograd_gradient_of_kernel(const WinogradShape& shape, const float* from,
                                               float* gradient) {
  const int64_t plane = shape.in * shape.out;
  for (int64_t i = 0; i < plane; i += kLanes) {
    Lanes u[16], g[9];
    for (int k = 0; k < 16; ++k) u[k] = load<Lanes>(from + k * plane + i);
    both_ways<4, 3>(u, g,
                    [](const Lanes* a, Lanes* b) NATIVE_LAMBDA { kernel_gradient_step(a, b); });
    for (int k = 0; k < 9; ++k) store(gradient + k * plane + i, g[k]);
  }
}

}  // namespace native

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
