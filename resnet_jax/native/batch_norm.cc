// Batch normalisation in training, with the addition and ReLU that may follow it, and its gradient.
//
// Each pass over the activations costs more than its arithmetic, so what can share a pass does:
// y = relu(scale (x - mean) / sqrt(variance + epsilon) + shift + added). Activations are float32
// or bfloat16, everything else float32.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "lanes.h"
#include "threads.h"

namespace ffi = xla::ffi;

namespace native {
namespace {

constexpr int64_t kBlock = 4 * kLanes;   // values that a loop handles in one turn
constexpr int64_t kPartValues = 1 << 16;  // values of a part: its arrays fit a core's own cache

// How an array of `values` whose last axis is `channels` is cut up.
//
// Columns repeat every `period` values, the least common multiple of channels and block, so that
// a block's parameters are loaded once for all its rows, however many channels there are.
struct Layout {
  int64_t channels, values, period, part_values, parts;

  Layout(int64_t channels, int64_t values)
      : channels(channels), values(values), period(std::lcm(channels, kBlock)) {
    part_values = std::max<int64_t>(kPartValues / period, 1) * period;
    parts = std::max<int64_t>((values + part_values - 1) / part_values, 1);
  }
  double rows() const { return static_cast<double>(values / channels); }
};

// The values of one part.
struct Range {
  int64_t begin, end, period;
};

Range range_of(const Layout& layout, int64_t part) {
  const int64_t begin = part * layout.part_values;
  return {begin, std::min(begin + layout.part_values, layout.values), layout.period};
}

// One value for each channel, repeated over a period.
std::vector<float> tiled(const Layout& layout, const float* values) {
  std::vector<float> tiles(layout.period);
  for (int64_t i = 0; i < layout.period; ++i) tiles[i] = values[i % layout.channels];
  return tiles;
}

// Two sums a channel, over parts in double precision.
struct Sums {
  const Layout& layout;
  std::vector<float> terms;  // [parts, 2, period]

  explicit Sums(const Layout& layout) : layout(layout), terms(layout.parts * 2 * layout.period) {}
  float* of_part(int64_t part) { return terms.data() + part * 2 * layout.period; }
  double total(int which, int64_t channel) const {
    double sum = 0;
    for (int64_t row = which; row < 2 * layout.parts; row += 2)
      for (int64_t i = channel; i < layout.period; i += layout.channels)
        sum += terms[row * layout.period + i];
    return sum;
  }
};

// Adds term(V{}, i, column), a pair of values, over a part: whole blocks in registers, then single
// values.
template <class Term>
NATIVE_INLINE void accumulate(const Range& range, float* sums, Term&& term) {
  for (int64_t column = 0; column < range.period; column += kBlock) {
    Lanes first[4] = {}, second[4] = {};
    int64_t i = range.begin + column;
    for (; i + kBlock <= range.end; i += range.period) {
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        const auto [a, b] = term(Lanes{}, i + k * kLanes, column + k * kLanes);
        first[k] += a;
        second[k] += b;
      }
    }
    float *one = sums + column, *two = sums + range.period + column;
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      store(one + k * kLanes, first[k]);
      store(two + k * kLanes, second[k]);
    }
    for (int64_t k = 0; i + k < range.end && k < kBlock; ++k) {
      const auto [a, b] = term(float{}, i + k, column + k);
      one[k] += a;
      two[k] += b;
    }
  }
}

// Calls visit(V{}, i, column) over a part. Rows run innermost, so that parameters stay in
// registers.
template <class Visit>
NATIVE_INLINE void for_all(const Range& range, Visit&& visit) {
  for (int64_t column = 0; column < range.period; column += kBlock) {
    int64_t i = range.begin + column;
    for (; i + kBlock <= range.end; i += range.period) {
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) visit(Lanes{}, i + k * kLanes, column + k * kLanes);
    }
    for (int64_t k = 0; i + k < range.end && k < kBlock; ++k)
      visit(float{}, i + k, column + k);
  }
}

template <class V>
struct Pair {
  V first, second;
};

template <class T>
struct Forward {
  const T *x, *added;  // added: null without one
  T* y;
  bool relu;
  const float *mean, *factor, *shift;  // tiled
};

// Sums of x - mean and of its square. Any value near it may stand for the mean, which is not known
// yet; zero would leave little of a variance much smaller than the mean.
template <class T>
NATIVE_INLINE void moments(const Forward<T>& f, const Range& range, float* sums) {
  accumulate(range, sums, [&](auto kind, int64_t i, int64_t column) NATIVE_LAMBDA {
    using V = decltype(kind);
    const V x = load<V>(f.x + i) - load<V>(f.mean + column);
    return Pair<V>{x, x * x};
  });
}

template <bool relu, bool add, class T>
NATIVE_INLINE void normalize(const Forward<T>& f, const Range& range) {
  for_all(range, [&](auto kind, int64_t i, int64_t column) NATIVE_LAMBDA {
    using V = decltype(kind);
    const V centred = load<V>(f.x + i) - load<V>(f.mean + column);
    V y = centred * load<V>(f.factor + column) + load<V>(f.shift + column);
    if constexpr (add) y += load<V>(f.added + i);
    if constexpr (relu) y = y < 0 ? V{} : y;  // a NaN stays one
    store(f.y + i, y);
  });
}

template <class T>
NATIVE_INLINE void normalize(const Forward<T>& f, const Range& range) {
  if (f.relu) {
    f.added ? normalize<true, true>(f, range) : normalize<true, false>(f, range);
  } else {
    f.added ? normalize<false, true>(f, range) : normalize<false, false>(f, range);
  }
}

template <class T>
struct Backward {
  const T *dy, *x, *y;
  T *dx, *dadded;  // dadded: null if nothing was added
  bool relu;
  const float *mean, *factor, *constant, *slope;  // tiled
};

// Sums of g and of g (x - mean), where g is dy behind ReLU; g is also the gradient of `added`.
template <bool relu, bool add, class T>
NATIVE_INLINE void gradient_sums(const Backward<T>& b, const Range& range, float* sums) {
  accumulate(range, sums, [&](auto kind, int64_t i, int64_t column) NATIVE_LAMBDA {
    using V = decltype(kind);
    V g = load<V>(b.dy + i);
    if constexpr (relu) g = load<V>(b.y + i) > 0 ? g : V{};
    if constexpr (add) store(b.dadded + i, g);
    return Pair<V>{g, g * (load<V>(b.x + i) - load<V>(b.mean + column))};
  });
}

template <class T>
NATIVE_INLINE void gradient_sums(const Backward<T>& b, const Range& range, float* sums) {
  if (b.relu) {
    b.dadded ? gradient_sums<true, true>(b, range, sums)
             : gradient_sums<true, false>(b, range, sums);
  } else {
    b.dadded ? gradient_sums<false, true>(b, range, sums)
             : gradient_sums<false, false>(b, range, sums);
  }
}

// dx = factor (g - constant - slope (x - mean)).
template <bool relu, class T>
NATIVE_INLINE void gradient(const Backward<T>& b, const T* dy, const Range& range) {
  for_all(range, [&](auto kind, int64_t i, int64_t column) NATIVE_LAMBDA {
    using V = decltype(kind);
    V g = load<V>(dy + i);
    if constexpr (relu) g = load<V>(b.y + i) > 0 ? g : V{};
    const V centred = load<V>(b.x + i) - load<V>(b.mean + column);
    const V dx = load<V>(b.factor + column) *
                 (g - load<V>(b.constant + column) - load<V>(b.slope + column) * centred);
    store(b.dx + i, dx);
  });
}

template <class T>
NATIVE_INLINE void gradient(const Backward<T>& b, const Range& range) {
  if (b.dadded) {
    gradient<false>(b, b.dadded, range);  // which is behind ReLU already
  } else {
    b.relu ? gradient<true>(b, b.dy, range) : gradient<false>(b, b.dy, range);
  }
}

// Clones are picked by name, which templates have not.
#define DEFINE_CLONES(T)                                                                    \
  NATIVE_CLONES void moments_on(const Forward<T>& f, const Range& range, float* sums) {     \
    moments(f, range, sums);                                                                \
  }                                                                                         \
  NATIVE_CLONES void normalize_on(const Forward<T>& f, const Range& range) {                \
    normalize(f, range);                                                                    \
  }                                                                                         \
  NATIVE_CLONES void gradient_sums_on(const Backward<T>& b, const Range& range, float* sums) { \
    gradient_sums(b, range, sums);                                                          \
  }                                                                                         \
  NATIVE_CLONES void gradient_on(const Backward<T>& b, const Range& range) {                \
    gradient(b, range);                                                                     \
  }
DEFINE_CLONES(float)
DEFINE_CLONES(Bfloat16)

using Vector = ffi::Buffer<ffi::F32, 1>;
using VectorResult = ffi::ResultBuffer<ffi::F32, 1>;

template <class T>
void forward(ffi::ThreadPool& pool, ffi::AnyBuffer x, const T* added, Vector scale, Vector shift,
             ffi::AnyBuffer y, Vector mean, Vector variance, float epsilon, bool relu) {
  const int64_t channels = scale.element_count();
  const Layout layout(channels, x.element_count());
  const T* values = static_cast<const T*>(x.untyped_data());
  std::vector<float> guess(channels), factor(channels);
  for (int64_t c = 0; c < channels; ++c) guess[c] = load<float>(values + c);
  const auto guesses = tiled(layout, guess.data()), shifts = tiled(layout, shift.typed_data());
  Forward<T> f{values, added, static_cast<T*>(y.untyped_data()), relu, guesses.data(), nullptr,
               shifts.data()};
  Sums sums(layout);
  for_each_part(pool, layout.parts, [&](int64_t part) {
    moments_on(f, range_of(layout, part), sums.of_part(part));
  });
  for (int64_t c = 0; c < channels; ++c) {
    const double off = sums.total(0, c) / layout.rows();
    const double spread = std::max(sums.total(1, c) / layout.rows() - off * off, 0.0);
    mean.typed_data()[c] = static_cast<float>(guess[c] + off);
    variance.typed_data()[c] = static_cast<float>(spread);
    factor[c] = static_cast<float>(scale.typed_data()[c] / std::sqrt(spread + epsilon));
  }
  const auto means = tiled(layout, mean.typed_data()), factors = tiled(layout, factor.data());
  f.mean = means.data(), f.factor = factors.data();
  for_each_part(pool, layout.parts,
                [&](int64_t part) { normalize_on(f, range_of(layout, part)); });
}

template <class T>
void backward(ffi::ThreadPool& pool, ffi::AnyBuffer dy, ffi::AnyBuffer x, const T* y, Vector scale,
              Vector mean, Vector variance, ffi::AnyBuffer dx, T* dadded, Vector dscale,
              Vector dshift, float epsilon, bool relu) {
  const int64_t channels = scale.element_count();
  const Layout layout(channels, x.element_count());
  const auto means = tiled(layout, mean.typed_data());
  Backward<T> b{static_cast<const T*>(dy.untyped_data()),
                static_cast<const T*>(x.untyped_data()),
                y,
                static_cast<T*>(dx.untyped_data()),
                dadded,
                relu,
                means.data(),
                nullptr,
                nullptr,
                nullptr};
  Sums sums(layout);
  for_each_part(pool, layout.parts, [&](int64_t part) {
    gradient_sums_on(b, range_of(layout, part), sums.of_part(part));
  });
  std::vector<float> factor(channels), constant(channels), slope(channels);
  for (int64_t c = 0; c < channels; ++c) {
    const double inverse = 1 / std::sqrt(double{variance.typed_data()[c]} + epsilon);
    const double sum = sums.total(0, c), product = sums.total(1, c);
    dshift.typed_data()[c] = static_cast<float>(sum);
    dscale.typed_data()[c] = static_cast<float>(product * inverse);
    factor[c] = static_cast<float>(scale.typed_data()[c] * inverse);
    constant[c] = static_cast<float>(sum / layout.rows());
    slope[c] = static_cast<float>(product * inverse * inverse / layout.rows());
  }
  const auto factors = tiled(layout, factor.data()), constants = tiled(layout, constant.data()),
             slopes = tiled(layout, slope.data());
  b.factor = factors.data(), b.constant = constants.data(), b.slope = slopes.data();
  for_each_part(pool, layout.parts, [&](int64_t part) { gradient_on(b, range_of(layout, part)); });
}

template <class T, class Buffer>
T* pointer(Buffer& buffer) {
  return static_cast<T*>(buffer.untyped_data());
}

// Calls with a value of the stored type; memory may run out, and XLA is to hear of it.
template <class Run>
ffi::Error dispatch(ffi::DataType type, Run&& run) {
  try {
    type == ffi::BF16 ? run(Bfloat16{}) : run(float{});
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("batch norm: ") + error.what());
  }
  return ffi::Error::Success();
}

}  // namespace

using Array = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;

// `added` is an empty array where nothing is added, as is its gradient.
ffi::Error batch_norm(ffi::ThreadPool pool, Array x, Array added, Vector scale, Vector shift,
                      Result y, VectorResult mean, VectorResult variance, float epsilon,
                      bool relu) {
  return dispatch(x.element_type(), [&](auto type) {
    using T = decltype(type);
    forward<T>(pool, x, added.element_count() ? pointer<T>(added) : nullptr, scale, shift, *y,
               *mean, *variance, epsilon, relu);
  });
}

ffi::Error batch_norm_gradient(ffi::ThreadPool pool, Array dy, Array x, Array y, Vector scale,
                               Vector mean, Vector variance, Result dx, Result dadded,
                               VectorResult dscale, VectorResult dshift, float epsilon,
                               bool relu) {
  return dispatch(x.element_type(), [&](auto type) {
    using T = decltype(type);
    backward<T>(pool, dy, x, pointer<T>(y), scale, mean, variance, *dx,
                dadded->element_count() ? pointer<T>(*dadded) : nullptr, *dscale, *dshift,
                epsilon, relu);
  });
}

}  // namespace native

#define VECTOR xla::ffi::Buffer<xla::ffi::F32, 1>

XLA_FFI_DEFINE_HANDLER_SYMBOL(batch_norm_forward, native::batch_norm,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<VECTOR>()
                                  .Arg<VECTOR>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<VECTOR>()
                                  .Ret<VECTOR>()
                                  .Attr<float>("epsilon")
                                  .Attr<bool>("relu"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(batch_norm_backward, native::batch_norm_gradient,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<VECTOR>()
                                  .Arg<VECTOR>()
                                  .Arg<VECTOR>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<VECTOR>()
                                  .Ret<VECTOR>()
                                  .Attr<float>("epsilon")
                                  .Attr<bool>("relu"));
