// Convolution and its two gradients through oneDNN, called by XLA.
//
// Activations are [batch, height, width, channels], weights [height, width, in, out], as in JAX.
// oneDNN picks its own layout for weights, which are small; activations stay where they are.

#include <array>
#include <map>
#include <new>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <tuple>

#include <dnnl.hpp>

#include "threads.h"
#include "winograd.h"

#if DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_OMP
#include <omp.h>
#endif

namespace ffi = xla::ffi;
using dnnl::memory;

namespace native {
namespace {

// Keeps oneDNN to the calling thread while it lives: parts of the batch are the parallelism.
class SingleThread {
#if DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_OMP
 public:
  SingleThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~SingleThread() { omp_set_num_threads(before_); }

 private:
  int before_;
#elif DNNL_CPU_THREADING_RUNTIME != DNNL_RUNTIME_SEQ
#error "a oneDNN on OpenMP or without threads is needed"
#else
 public:
  SingleThread() {}  // not trivial, lest its variables count as unused
#endif
};

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

dnnl::stream& stream() {
  static thread_local dnnl::stream own(engine());
  return own;
}

// Memory of one thread that is kept from call to call, 64 bytes aligned; two are independent.
template <int which>
std::byte* kept_memory(size_t bytes) {
  struct Block {
    std::byte* data = nullptr;
    size_t size = 0;
    ~Block() { release(); }
    void release() {
      if (data) ::operator delete(data, std::align_val_t(64));
      data = nullptr;
    }
  };
  static thread_local Block block;
  if (block.size < bytes) {
    block.release();
    block.size = 0;
    block.data = static_cast<std::byte*>(::operator new(bytes, std::align_val_t(64)));
    block.size = bytes;
  }
  return block.data;
}

enum class Kind { forward, backward_data, backward_weights };

struct Geometry {
  int64_t batch, height, width, in, kernel_height, kernel_width, out, stride, padding;

  int64_t out_height() const { return (height + 2 * padding - kernel_height) / stride + 1; }
  int64_t out_width() const { return (width + 2 * padding - kernel_width) / stride + 1; }
  int64_t image() const { return height * width * in; }
  int64_t out_image() const { return out_height() * out_width() * out; }
  std::array<int64_t, 9> key() const {
    return {batch, height, width, in, kernel_height, kernel_width, out, stride, padding};
  }
};

// A primitive for one part of the batch.
struct Plan {
  dnnl::primitive primitive;
  memory::desc image, out_image, scratchpad;
  memory::desc weights;        // in oneDNN's own layout; gradients of weights are float32 there
  memory::desc plain_weights;  // [height, width, in, out]
  dnnl::reorder reorder;       // from plain to own, or from own to plain for the gradient

  bool reorders() const { return weights != plain_weights; }
};

// oneDNN 2 describes an operation before it describes its primitive; oneDNN 3 does both in one.
template <class Primitive, class... Arguments>
typename Primitive::primitive_desc describe(const dnnl::primitive_attr& attributes,
                                            Arguments... arguments) {
#if DNNL_VERSION_MAJOR >= 3
  return {engine(), arguments..., attributes};
#else
  return {typename Primitive::desc(arguments...), attributes, engine()};
#endif
}

template <class Primitive, class... Arguments>
typename Primitive::primitive_desc describe_backward(
    const dnnl::primitive_attr& attributes,
    const dnnl::convolution_forward::primitive_desc& forward, Arguments... arguments) {
#if DNNL_VERSION_MAJOR >= 3
  return {engine(), arguments..., forward, attributes};
#else
  return {typename Primitive::desc(arguments...), attributes, engine(), forward};
#endif
}

Plan make_plan(Kind kind, memory::data_type type, const Geometry& g) {
  using tag = memory::format_tag;
  const auto f32 = memory::data_type::f32;
  // oneDNN 2 also has Winograd's algorithm, for another layout and with larger tiles, which round
  // more; oneDNN 3 has it no longer.
  const auto direct = dnnl::algorithm::convolution_direct;
  const memory::dims strides{g.stride, g.stride}, padding{g.padding, g.padding};
  const memory::dims kernel{g.out, g.in, g.kernel_height, g.kernel_width};
  Plan plan;
  plan.image = {{g.batch, g.in, g.height, g.width}, type, tag::nhwc};
  plan.out_image = {{g.batch, g.out, g.out_height(), g.out_width()}, type, tag::nhwc};
  plan.plain_weights = {kernel, type, tag::hwio};
  const memory::desc any(kernel, type, tag::any);
  dnnl::primitive_attr attributes;
  // Without this a primitive may run only on the thread that made it.
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const auto forward = describe<dnnl::convolution_forward>(
      attributes, dnnl::prop_kind::forward_training, direct, plan.image, any, plan.out_image,
      strides, padding, padding);
  switch (kind) {
    case Kind::forward:
      plan.primitive = dnnl::convolution_forward(forward);
      plan.weights = forward.weights_desc();
      plan.scratchpad = forward.scratchpad_desc();
      break;
    case Kind::backward_data: {
      const auto backward = describe_backward<dnnl::convolution_backward_data>(
          attributes, forward, direct, plan.image, any, plan.out_image, strides, padding, padding);
      plan.primitive = dnnl::convolution_backward_data(backward);
      plan.weights = backward.weights_desc();
      plan.scratchpad = backward.scratchpad_desc();
      break;
    }
    case Kind::backward_weights: {
      const auto backward = describe_backward<dnnl::convolution_backward_weights>(
          attributes, forward, direct, plan.image, memory::desc(kernel, f32, tag::any),
          plan.out_image, strides, padding, padding);
      plan.primitive = dnnl::convolution_backward_weights(backward);
      plan.weights = backward.diff_weights_desc();
      plan.scratchpad = backward.scratchpad_desc();
      break;
    }
  }
  if (plan.reorders()) {
    const memory plain(plan.plain_weights, engine(), nullptr), own(plan.weights, engine(), nullptr);
    plan.reorder = kind == Kind::backward_weights ? dnnl::reorder(own, plain)
                                                  : dnnl::reorder(plain, own);
  }
  return plan;
}

// Plans are made once and never dropped: a net has some twenty shapes.
const Plan& plan_for(Kind kind, memory::data_type type, const Geometry& g) {
  using Key = std::tuple<Kind, memory::data_type, std::array<int64_t, 9>>;
  static std::map<Key, Plan> plans;
  static std::shared_mutex mutex;
  const Key key(kind, type, g.key());
  {
    const std::shared_lock lock(mutex);
    if (const auto found = plans.find(key); found != plans.end()) return found->second;
  }
  Plan plan = make_plan(kind, type, g);
  const std::unique_lock lock(mutex);
  return plans.try_emplace(key, std::move(plan)).first->second;
}

// How many images a part has: as many as a core's own cache holds with what they become, and an
// eighth of the batch at most, for several cores.
int64_t images_per_part(const Geometry& g, size_t value_bytes) {
  constexpr int64_t cache = 1 << 20;
  const int64_t bytes = (g.image() + g.out_image()) * value_bytes;
  return std::clamp<int64_t>(cache / bytes, 1, (g.batch + 7) / 8);
}

// A convolution's three arrays: images, weights, output, or gradients in their place.
struct Arrays {
  std::byte *image, *weights, *out_image;
};

void run_primitive(const Plan& plan, Kind kind, const Arrays& part) {
  memory image(plan.image, engine(), part.image);
  memory weights(plan.weights, engine(), part.weights);
  memory out_image(plan.out_image, engine(), part.out_image);
  memory scratchpad(plan.scratchpad, engine(), kept_memory<0>(plan.scratchpad.get_size()));
  const bool data = kind == Kind::backward_data, gradient = kind == Kind::backward_weights;
  const bool backward = data || gradient;
  plan.primitive.execute(
      stream(), {{data ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, image},
                 {gradient ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, weights},
                 {backward ? DNNL_ARG_DIFF_DST : DNNL_ARG_DST, out_image},
                 {DNNL_ARG_SCRATCHPAD, scratchpad}});
}

// Adds up `parts` arrays that follow one another `stride` values apart, into the first of them.
void add_up(ffi::ThreadPool& pool, float* terms, int64_t count, int64_t stride, int64_t parts) {
  constexpr int64_t slice = 1 << 12;
  for_each_part(pool, (count + slice - 1) / slice, [&](int64_t index) {
    const int64_t begin = index * slice, end = std::min(begin + slice, count);
    for (int64_t part = 1; part < parts; ++part)
      for (int64_t i = begin; i < end; ++i) terms[i] += terms[part * stride + i];
  });
}

// The convolutions that most of a net consists of, where the processor has what it takes.
bool takes_winograd(memory::data_type type, const Geometry& g) {
  return type == memory::data_type::f32 && g.kernel_height == 3 && g.kernel_width == 3 &&
         g.stride == 1 && g.padding == 1 && winograd_suits(g.in, g.out);
}

void winograd(ffi::ThreadPool& pool, Kind kind, const Geometry& g, const Arrays& arrays) {
  auto* image = reinterpret_cast<float*>(arrays.image);
  auto* weights = reinterpret_cast<float*>(arrays.weights);
  auto* out_image = reinterpret_cast<float*>(arrays.out_image);
  const int64_t images = images_per_part(g, sizeof(float));
  const int64_t parts = (g.batch + images - 1) / images;
  const bool gradient = kind == Kind::backward_weights, back = kind == Kind::backward_data;
  WinogradShape shape{images, g.height, g.width, back ? g.out : g.in, back ? g.in : g.out};
  const int64_t values = shape.kernel_values();
  auto* own_weights = reinterpret_cast<float*>(
      kept_memory<1>(values * sizeof(float) * (gradient ? parts : 1)));
  if (kind == Kind::forward) winograd_kernel(shape, weights, own_weights);
  if (back) winograd_kernel_backward(shape, weights, own_weights);
  for_each_part(pool, parts, [&](int64_t part) {
    WinogradShape own = shape;
    own.batch = std::min(images, g.batch - part * images);
    auto* scratch = reinterpret_cast<float*>(
        kept_memory<0>(winograd_scratch(own) * sizeof(float)));
    float* x = image + part * images * g.image();
    float* y = out_image + part * images * g.out_image();
    if (gradient) {
      winograd_gradient(own, x, y, own_weights + part * values, scratch);
    } else {
      winograd_convolution(own, back ? y : x, own_weights, back ? x : y, scratch);
    }
  });
  if (!gradient) return;
  add_up(pool, own_weights, values, values, parts);
  winograd_gradient_of_kernel(shape, own_weights, weights);
}

void convolve(ffi::ThreadPool& pool, Kind kind, memory::data_type type, size_t value_bytes,
              Geometry g, Arrays arrays) {
  if (takes_winograd(type, g)) return winograd(pool, kind, g, arrays);
  const SingleThread caller;
  const int64_t batch = g.batch, images = images_per_part(g, value_bytes);
  const int64_t parts = (batch + images - 1) / images;
  g.batch = images;
  const Plan& plan = plan_for(kind, type, g);
  g.batch = batch - (parts - 1) * images;
  const Plan& last = plan_for(kind, type, g);
  // Shapes that differ in the batch alone have one layout of weights; else this would be wrong.
  if (plan.weights != last.weights) throw std::runtime_error("parts differ in weight layout");

  const size_t weight_bytes = (plan.weights.get_size() + 63) / 64 * 64;
  const bool gradient = kind == Kind::backward_weights;
  std::byte* own_weights = arrays.weights;
  if (gradient) {
    own_weights = kept_memory<1>(weight_bytes * parts);
  } else if (plan.reorders()) {
    own_weights = kept_memory<1>(weight_bytes);
    memory plain(plan.plain_weights, engine(), arrays.weights);
    memory own(plan.weights, engine(), own_weights);
    plan.reorder.execute(stream(), plain, own);
  }
  for_each_part(pool, parts, [&](int64_t part) {
    const SingleThread helper;
    const int64_t first = part * images;
    run_primitive(part + 1 == parts ? last : plan, kind,
                  {arrays.image + first * g.image() * value_bytes,
                   own_weights + (gradient ? part * weight_bytes : 0),
                   arrays.out_image + first * g.out_image() * value_bytes});
  });
  if (!gradient) return;
  add_up(pool, reinterpret_cast<float*>(own_weights), plan.weights.get_size() / sizeof(float),
         weight_bytes / sizeof(float), parts);
  memory own(plan.weights, engine(), own_weights);
  memory plain(plan.plain_weights, engine(), arrays.weights);
  if (plan.reorders()) {
    plan.reorder.execute(stream(), own, plain);
  } else {
    std::copy_n(own_weights, plan.weights.get_size(), arrays.weights);
  }
}

using Array = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;

template <class Images, class Weights, class Outputs>
ffi::Error call(ffi::ThreadPool pool, Kind kind, Images& image, Weights& weights, Outputs& output,
                int64_t stride, int64_t padding) {
  const auto x = image.dimensions(), w = weights.dimensions();
  const Geometry g{x[0], x[1], x[2], x[3], w[0], w[1], w[3], stride, padding};
  const bool half = image.element_type() == ffi::BF16;
  const auto bytes = [](auto& buffer) { return static_cast<std::byte*>(buffer.untyped_data()); };
  try {
    convolve(pool, kind, half ? memory::data_type::bf16 : memory::data_type::f32, half ? 2 : 4, g,
             {bytes(image), bytes(weights), bytes(output)});
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("oneDNN convolution: ") + error.what());
  }
  return ffi::Error::Success();
}

}  // namespace

ffi::Error forward(ffi::ThreadPool pool, Array x, Array w, Result y, int64_t s, int64_t p) {
  return call(pool, Kind::forward, x, w, *y, s, p);
}

ffi::Error backward_data(ffi::ThreadPool pool, Array dy, Array w, Result dx, int64_t s, int64_t p) {
  return call(pool, Kind::backward_data, *dx, w, dy, s, p);
}

ffi::Error backward_weights(ffi::ThreadPool pool, Array x, Array dy, Result dw, int64_t s,
                            int64_t p) {
  return call(pool, Kind::backward_weights, x, *dw, dy, s, p);
}

// Whether all three directions exist for this type on this processor.
bool supported(memory::data_type type) {
  const SingleThread here;
  try {
    const Geometry g{1, 4, 4, 16, 3, 3, 16, 1, 1};
    for (Kind kind : {Kind::forward, Kind::backward_data, Kind::backward_weights})
      make_plan(kind, type, g);
    return true;
  } catch (const dnnl::error&) {
    return false;
  }
}

}  // namespace native

#define CONVOLUTION_BINDING      \
  xla::ffi::Ffi::Bind()          \
      .Ctx<xla::ffi::ThreadPool>()    \
      .Arg<xla::ffi::AnyBuffer>()     \
      .Arg<xla::ffi::AnyBuffer>()     \
      .Ret<xla::ffi::AnyBuffer>()     \
      .Attr<int64_t>("stride")   \
      .Attr<int64_t>("padding")

XLA_FFI_DEFINE_HANDLER_SYMBOL(convolution_forward, native::forward, CONVOLUTION_BINDING);
XLA_FFI_DEFINE_HANDLER_SYMBOL(convolution_backward_data, native::backward_data,
                              CONVOLUTION_BINDING);
XLA_FFI_DEFINE_HANDLER_SYMBOL(convolution_backward_weights, native::backward_weights,
                              CONVOLUTION_BINDING);

extern "C" const char* native_build() { return NATIVE_BUILD; }  // see library.py

extern "C" void native_onednn_version(int* major, int* minor, int* patch) {
  const dnnl_version_t* version = dnnl_version();
  *major = version->major, *minor = version->minor, *patch = version->patch;
}

extern "C" bool native_supports_bfloat16() { return native::supported(memory::data_type::bf16); }
