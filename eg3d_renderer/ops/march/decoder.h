// The decoder: a point's texels to its hidden units and density, and rows of those to colours.
#pragma once

#include "../native/simd.h"
#include "activations.h"
#include "kernel.h"
#include "taps.h"

namespace march::ISA {
namespace {

constexpr int VECTORS = HIDDEN / LANES;          // of the hidden units of a point
constexpr int PART = VECTORS < 8 ? VECTORS : 8;  // of those, added up together, in registers
constexpr int COLOURS = FEATURES / LANES;        // vectors of its features
constexpr int ROWS = LANES == 16 ? 6 : LANES == 8 ? 3 : 1;  // points that are coloured together

// What is the same for all rays.
struct Decoder {
  alignas(64) float bias1[HIDDEN];
  alignas(64) float density[HIDDEN];           // the second layer's row that makes the density
  alignas(64) float colour[HIDDEN][FEATURES];  // its other rows, transposed
  alignas(64) float colour_bias[FEATURES];
  float density_bias;
  Activations activations;

  explicit Decoder(const Scene& scene) {
    std::memcpy(bias1, scene.bias1, sizeof bias1);
    std::memcpy(density, scene.weight2, sizeof density);
    for (int j = 0; j < FEATURES; ++j)
      for (int i = 0; i < HIDDEN; ++i) colour[i][j] = scene.weight2[(1 + j) * HIDDEN + i];
    std::memcpy(colour_bias, scene.bias2 + 1, sizeof colour_bias);
    density_bias = scene.bias2[0];
  }
};

// A part of a point's hidden units, while texels are added up.
template <typename Texel>
struct Sums {
  Floats sums[PART];

  INLINED void start(const float* bias) {
    unroll<PART>([&](auto i) INLINED { sums[i] = load(bias + i * LANES); });
  }

  INLINED void add(float weight, const Texel* texel) {
    unroll<PART>([&](auto i) INLINED { sums[i] += weight * load(texel + i * LANES); });
  }

  INLINED Floats operator[](int i) const { return sums[i]; }
};

#ifdef __AVX512F__

// Half precision is widened to 512 bits at half the speed of 256 (measured on Zen 4).
template <>
struct Sums<Half> {
  __m256 sums[2 * PART];

  INLINED void start(const float* bias) {
    unroll<2 * PART>([&](auto i) INLINED { sums[i] = _mm256_loadu_ps(bias + i * 8); });
  }

  INLINED void add(float weight, const Half* texel) {
    unroll<2 * PART>([&](auto i) INLINED {
      sums[i] += weight * _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(texel + i * 8)));
    });
  }

  INLINED Floats operator[](int i) const {
    return (Floats)_mm512_insertf32x8(_mm512_castps256_ps512(sums[2 * i]), sums[2 * i + 1], 1);
  }
};

#endif

// Points that are decoded together. Two, where there are registers for them; but texels in single
// precision, whose rows are often a power of two apart, then push each other out of the cache.
template <typename Texel>
constexpr int POINTS = sizeof(Texel) == 2 && PART < 8 ? 2 : 1;

// POINTS lanes of the taps -> their hidden units, and what adds up to their densities, each by
// lane. `lanes` goes on with those of the next POINTS, whose texels are fetched meanwhile: points
// lie some texels apart, and most of what is read is not in the nearest cache.
template <typename Texel>
INLINE void first_layer(const Decoder& decoder, const Texel* texels, const Taps& taps,
                        const int* lanes, float (*hidden)[HIDDEN], Floats* densities) {
  constexpr int COUNT = POINTS<Texel>;
  const auto texel_at = [&](int tap, int lane) INLINED {
    return texels + uint64_t(uint32_t(taps.texel[tap][lane])) * HIDDEN;  // no sign to extend
  };
  Floats own[COUNT] = {};
  for (int part = 0; part < HIDDEN; part += PART * LANES) {
    Sums<Texel> sums[COUNT];
    for (auto& sum : sums) sum.start(decoder.bias1 + part);
    for (int tap = 0; tap < taps.count; ++tap)
      unroll<COUNT>([&](auto p) INLINED {
        const float weight = taps.weight[tap][lanes[p]];
        prefetch<PART * LANES>(texel_at(tap, lanes[COUNT + p]) + part);
        sums[p].add(weight, texel_at(tap, lanes[p]) + part);
      });
    Floats units[COUNT * PART];
    unroll<COUNT * PART>([&](auto i) INLINED { units[i] = sums[i / PART][i % PART]; });
    decoder.activations.softplus(units);
    unroll<COUNT * PART>([&](auto i) INLINED {
      const int channel = part + i % PART * LANES;
      store(hidden[lanes[i / PART]] + channel, units[i]);
      own[i / PART] += units[i] * load(decoder.density + channel);
    });
  }
  for (int p = 0; p < COUNT; ++p) densities[lanes[p]] = own[p];
}

// Adds to COUNT points' colours what their hidden units make of them; no activation.
template <int COUNT>
INLINE void second_layer(const Decoder& decoder, const float* const (&hidden)[COUNT],
                         Floats (&colours)[COUNT * COLOURS]) {
  for (int i = 0; i < HIDDEN; ++i) {
    Floats weight[COLOURS];
    unroll<COLOURS>([&](auto v) INLINED { weight[v] = load(decoder.colour[i] + v * LANES); });
    unroll<COUNT>([&](auto r) INLINED {
      const Floats unit = all(hidden[r][i]);
      unroll<COLOURS>([&](auto v) INLINED { colours[r * COLOURS + v] += unit * weight[v]; });
    });
  }
}

}  // namespace
}  // namespace march::ISA
