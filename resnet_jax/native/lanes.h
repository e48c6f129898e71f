// Sixteen float32 values at a time, or one: loops are written once, for both.
//
// The compiler's vector types need no processor-specific code; `NATIVE_CLONES` has each function
// compiled for several processors, of which the loader picks the best at run time.

#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
// By what processors can do: "arch=..." would ask who made them.
#define NATIVE_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define NATIVE_CLONES
#endif
// Inlined for certain: what is not would be compiled for the plainest processor alone.
#define NATIVE_LAMBDA __attribute__((always_inline))
#define NATIVE_INLINE inline NATIVE_LAMBDA

namespace native {

constexpr int64_t kLanes = 16;

typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));

// The stored form of a bfloat16: the upper half of a float32.
struct Bfloat16 {
  uint16_t bits;
};

template <class V>
struct Integers;
template <>
struct Integers<float> {
  using Words = uint32_t;
  using Halves = uint16_t;
};
template <>
struct Integers<Lanes> {
  typedef uint32_t Words __attribute__((vector_size(kLanes * sizeof(uint32_t))));
  typedef uint16_t Halves __attribute__((vector_size(kLanes * sizeof(uint16_t))));
};

template <class To, class From>
NATIVE_INLINE To convert(From from) {
  if constexpr (sizeof(From) <= sizeof(uint32_t)) {
    return static_cast<To>(from);
  } else {
    return __builtin_convertvector(from, To);
  }
}

template <class V>
NATIVE_INLINE V load(const float* from) {
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}

template <class V>
NATIVE_INLINE V load(const Bfloat16* from) {
  typename Integers<V>::Halves halves;
  std::memcpy(&halves, from, sizeof(halves));
  const auto words = convert<typename Integers<V>::Words>(halves) << 16;
  V value;
  std::memcpy(&value, &words, sizeof(V));
  return value;
}

template <class V>
NATIVE_INLINE void store(float* to, V value) {
  std::memcpy(to, &value, sizeof(V));
}

// Rounds to nearest, ties to even; a NaN stays one.
template <class V>
NATIVE_INLINE void store(Bfloat16* to, V value) {
  using Words = typename Integers<V>::Words;
  Words words;
  std::memcpy(&words, &value, sizeof(V));
  const Words rounded = (words + 0x7fff + ((words >> 16) & 1)) >> 16;
  const Words quiet = (words >> 16) | 0x40;
  const auto halves =
      convert<typename Integers<V>::Halves>(value == value ? rounded : quiet);
  std::memcpy(to, &halves, sizeof(halves));
}

}  // namespace native
