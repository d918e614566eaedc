// Vectors of floats as wide as the instruction set that a file is compiled for.
//
// Every kernel.cpp is compiled once per instruction set with -DISA=portable, avx2, avx512 or
// avx512bf16, and puts all of its code into namespace ISA. Functions here are static and inlined:
// a weak symbol of one instruction set, kept by the linker for all, would crash an older processor.
// For the same reason a kernel.cpp uses no templates of the standard library that might not be.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define INLINED __attribute__((always_inline))  // methods and lambdas

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));

INLINE Floats load(const float* from) {
  Floats v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

INLINE void store(float* to, Floats v) { std::memcpy(to, &v, sizeof v); }

INLINE Ints load(const int32_t* from) {
  Ints v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

INLINE void store(int32_t* to, Ints v) { std::memcpy(to, &v, sizeof v); }

INLINE Floats all(float x) { return x - Floats{}; }

// 0, 1, 2, ...
INLINE Floats ramp() {
  Floats v;
  for (int i = 0; i < LANES; ++i) v[i] = float(i);
  return v;
}

// first, first + 1, ...
INLINE Ints numbers(int first) { return __builtin_convertvector(ramp(), Ints) + first; }

// The second where one of them is NaN.
#ifdef __AVX512F__
INLINE Floats max(Floats a, Floats b) { return (Floats)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE Floats min(Floats a, Floats b) { return (Floats)_mm512_min_ps((__m512)a, (__m512)b); }
#else
INLINE Floats max(Floats a, Floats b) { return a > b ? a : b; }
INLINE Floats min(Floats a, Floats b) { return a < b ? a : b; }
#endif
INLINE Floats abs(Floats a) { return (Floats)((Ints)a & 0x7fffffff); }

INLINE float sum(Floats v) {
#ifdef __AVX512F__
  return _mm512_reduce_add_ps((__m512)v);
#else
  float total = 0;
  for (int i = 0; i < LANES; ++i) total += v[i];
  return total;
#endif
}

INLINE Floats floor(Floats x) {  // of |x| below 2^31
  Floats whole = __builtin_convertvector(__builtin_convertvector(x, Ints), Floats);
  return whole > x ? whole - 1.0f : whole;
}

// body(0) ... body(N - 1), each with a constant: arrays indexed by it stay in registers.
template <int N, typename Body>
INLINE void unroll(Body&& body) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (body(std::integral_constant<int, I>{}), ...);
  }(std::make_integer_sequence<int, N>{});
}

// The first `count` elements at `from`, of an array that may end there; then zeros.
INLINE Floats load_some(const float* from, int64_t count) {
  if (count >= LANES) return load(from);
  float some[LANES] = {};
  for (int64_t i = 0; i < count; ++i) some[i] = from[i];
  return load(some);
}

INLINE void store_some(float* to, Floats v, int64_t count) {
  if (count >= LANES) return store(to, v);
  for (int64_t i = 0; i < count; ++i) to[i] = v[i];
}

// Lanes of a and b side by side: lane i of the result is the one of index which(i), a constant.
template <typename Which>
INLINE Floats pick(Floats a, Floats b, Which) {
  return [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
#ifdef __clang__
    return __builtin_shufflevector(a, b, Which{}(I)...);
#else
    return __builtin_shuffle(a, b, Ints{Which{}(I)...});
#endif
  }(std::make_integer_sequence<int, LANES>{});
}

// A vector of the elements at these indices.
INLINE Floats gather(const float* from, Ints index) {
#ifdef __AVX512F__
  return (Floats)_mm512_i32gather_ps((__m512i)index, from, 4);
#else
  Floats v;
  for (int i = 0; i < LANES; ++i) v[i] = from[index[i]];
  return v;
#endif
}

// All lanes with one another, by an operation of two vectors.
template <typename Vector, typename Operation>
INLINE auto fold(Vector v, Operation operation) {
  unroll<__builtin_ctz(LANES)>([&](auto step) INLINED {
    const auto half = (Floats)v;
    const auto other = pick(half, half, [](int i) {
      return i ^ (LANES >> (decltype(step)::value + 1));
    });
    v = operation(v, (Vector)other);
  });
  return v[0];
}

// Whether one of the lanes is not 0.
INLINE bool any(Ints mask) {
#ifdef __AVX512F__
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask);
#else
  return fold(mask, [](auto a, auto b) INLINED { return a | b; });
#endif
}

// The sums of LANES vectors, side by side.
INLINE Floats sums(Floats (&v)[LANES]) {
  unroll<__builtin_ctz(LANES)>([&](auto level) INLINED {
    unroll<(LANES >> (level + 1))>([&](auto i) INLINED {  // neighbouring lanes of two are added up
      const Floats a = v[2 * i], b = v[2 * i + 1];
      v[i] = pick(a, b, [](int lane) { return 2 * lane; }) +
             pick(a, b, [](int lane) { return 2 * lane + 1; });
    });
  });
  return v[0];
}

// `v` moved on by a lane; the first is the last of `before`.
INLINE Floats after(Floats before, Floats v) {
  return pick(before, v, [](int i) { return LANES - 1 + i; });
}

// Of each lane and those before it.
template <typename Operation>
INLINE Floats prefixes(Floats v, float neutral, Operation operation) {
  unroll<__builtin_ctz(LANES)>([&](auto level) INLINED {
    const Floats moved = pick(all(neutral), v, [](int i) {
      return LANES - (1 << decltype(level)::value) + i;
    });
    v = operation(moved, v);
  });
  return v;
}

INLINE Floats prefix_sums(Floats v) {
  return prefixes(v, 0, [](Floats a, Floats b) INLINED { return a + b; });
}

INLINE Floats prefix_products(Floats v) {
  return prefixes(v, 1, [](Floats a, Floats b) INLINED { return a * b; });
}

// Asks for `COUNT` elements, which will be read soon.
template <int COUNT, typename T>
INLINE void prefetch(const T* from) {
  constexpr int LINE = 64 / sizeof(T);
  unroll<(COUNT + LINE - 1) / LINE>([&](auto i) INLINED { __builtin_prefetch(from + i * LINE); });
}

#ifdef __AVX512BF16__

typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));  // bfloat16

INLINE Ints widen(Halves v) { return __builtin_convertvector(v, Ints); }

INLINE Halves narrow(Floats v) {  // to the nearest
  __m256bh rounded = _mm512_cvtneps_pbh((__m512)v);
  Halves bits;
  std::memcpy(&bits, &rounded, sizeof bits);
  return bits;
}

// sums + a.low * b.low + a.high * b.high, of pairs of bfloat16.
INLINE Floats dot_pairs(Floats sums, Ints a, Ints b) {
  __m512bh pairs_a, pairs_b;
  std::memcpy(&pairs_a, &a, sizeof a);
  std::memcpy(&pairs_b, &b, sizeof b);
  return (Floats)_mm512_dpbf16_ps((__m512)sums, pairs_a, pairs_b);
}

INLINE Floats load_some(const uint16_t* from, int64_t count) {
  Halves some = {};
  if (count >= LANES)
    std::memcpy(&some, from, sizeof some);
  else
    for (int64_t i = 0; i < count; ++i) some[i] = from[i];
  return (Floats)(widen(some) << 16);
}

INLINE void store(uint16_t* to, Floats v) {
  Halves rounded = narrow(v);
  std::memcpy(to, &rounded, sizeof rounded);
}

INLINE void store_some(uint16_t* to, Floats v, int64_t count) {
  if (count >= LANES) return store(to, v);
  Halves rounded = narrow(v);
  for (int64_t i = 0; i < count; ++i) to[i] = rounded[i];
}

#endif  // __AVX512BF16__

// The product alone: a compiler may not fuse it with a sum that follows. For values that must be
// bit for bit those of PyTorch, which rounds twice.
INLINE Floats rounded(Floats product) {
#if defined(__x86_64__)
  asm("" : "+v"(product));
#elif defined(__aarch64__)
  asm("" : "+w"(product));
#endif
  return product;
}

// Where a function below takes max or min with a constant, the constant comes first: NaN stays.

// To 1e-7 of the result; 0 below -88, infinite from 88.4.
INLINE Floats exp(Floats x) {
  x = max(all(-88), min(all(89), x));
  Floats shifted = x * 1.44269504f + 12582912.0f;  // its last bits are the nearest power of two
  Floats power = shifted - 12582912.0f;
  Floats rest = x - power * 0.693359375f + power * 2.12194440e-4f;
  Floats y = 1.394872702e-3f * rest + 8.369239276e-3f;
  y = y * rest + 4.166623862e-2f;
  y = y * rest + 1.666650444e-1f;
  y = y * rest + 5.000000081e-1f;
  y = y * rest + 1.0f;
  y = y * rest + 1.0f;
  return y * (Floats)(((Ints)shifted + 127) << 23);
}

// log(1 + exp(x)), to 2e-7 of the result.
INLINE Floats softplus(Floats x) {
  Floats e = exp(-abs(x));
  Floats y = -3.338734289e-3f * e + 2.027779101e-2f;
  y = y * e - 5.775919438e-2f;
  y = y * e + 1.068454359e-1f;
  y = y * e - 1.535328258e-1f;
  y = y * e + 1.969245692e-1f;
  y = y * e - 2.495734767e-1f;
  y = y * e + 3.333027574e-1f;
  y = y * e - 4.999991419e-1f;
  y = y * e + 9.999999960e-1f;
  return y * e + max(all(0), x);
}

INLINE Floats sigmoid(Floats x) { return 1 / (1 + exp(-x)); }

// exp(x) - 1, to 2e-7 of the result, of x below 88.
INLINE Floats expm1(Floats x) {
  x = max(all(-30), x);
  Floats shifted = x * 1.44269504f + 12582912.0f;
  Floats power = shifted - 12582912.0f;
  Floats rest = x - power * 0.693359375f + power * 2.12194440e-4f;
  Floats y = rest * (1.0f / 5040) + 1.0f / 720;  // Taylor's; |rest| <= log(2) / 2
  y = y * rest + 1.0f / 120;
  y = y * rest + 1.0f / 24;
  y = y * rest + 1.0f / 6;
  y = y * rest + 0.5f;
  y = y * rest * rest + rest;
  Floats scale = (Floats)(((Ints)shifted + 127) << 23);
  return scale * y + (scale - 1.0f);
}

// To 3e-7 of the result.
INLINE Floats tanh(Floats x) {
  Floats t = expm1(-2 * abs(x));
  return (Floats)((Ints)(abs(t) / (t + 2)) | ((Ints)x & INT32_MIN));
}

INLINE Floats sqrt(Floats x) {
  for (int i = 0; i < LANES; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
}

// The angle of (x, y), to 3e-7.
INLINE Floats atan2(Floats y, Floats x) {
  Floats wide = abs(x), high = abs(y);
  Floats longer = max(wide, high), ratio = min(wide, high) / longer;
  ratio = longer == 0 ? longer : ratio;
  Floats square = ratio * ratio;
  Floats angle = 2.903520394e-3f * square - 1.628288523e-2f;
  angle = angle * square + 4.303917912e-2f;
  angle = angle * square - 7.533661177e-2f;
  angle = angle * square + 1.065467106e-1f;
  angle = angle * square - 1.420713227e-1f;
  angle = angle * square + 1.999305398e-1f;
  angle = angle * square - 3.333309396e-1f;
  angle = angle * square + 9.999999864e-1f;
  angle *= ratio;
  angle = high > wide ? 1.57079633f - angle : angle;
  angle = (Ints)x < 0 ? 3.14159265f - angle : angle;
  return (Floats)((Ints)angle | ((Ints)y & INT32_MIN));
}

struct Half {  // IEEE half precision
  uint16_t bits;
};

INLINE Floats load(const Half* from) {
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
#elif defined(__AVX2__)
  return (Floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from));
#else
  Ints bits;
  for (int i = 0; i < LANES; ++i) bits[i] = from[i].bits;
  Ints size = (bits & 0x7fff) << 13;
  Floats v = (Floats)size * 0x1p112f;  // moves the exponent; denormal numbers come out right
  Ints special = size >= (0x7c00 << 13) ? (size | 0x7f800000) : (Ints)v;
  return (Floats)(special | (bits & 0x8000) << 16);
#endif
}

}  // namespace
