// Which texels a point is made of, and with what weights: for LANES points at once.
#pragma once

#include "../native/simd.h"
#include "kernel.h"

namespace march::ISA {
namespace {

constexpr int MOST_TAPS = 3 * 4 * 2;  // planes, corners, and slices or spheres
constexpr float PI = 3.14159265f;

struct Point {  // LANES of them
  Floats at[3];
};

// The texels whose weighted sum is what a plane, or three, or six, have at each of LANES points.
struct Taps {
  int count;
  alignas(64) int32_t texel[MOST_TAPS][LANES];
  alignas(64) float weight[MOST_TAPS][LANES];

  INLINED void add(Ints texels, Floats weights) {
    store(texel[count], texels);
    store(weight[count++], weights);
  }
};

// The two texels of a row of `size` that a coordinate in [-1, 1] lies between, and their weights:
// texel centres at (i + 0.5) / size, zeros outside. The indices are within the row whatever the
// coordinate is; the weights of NaN are NaN.
struct Between {
  Ints index[2];
  Floats weight[2];
};

INLINE Between between(Floats coordinate, int size) {
  const float last = float(size - 1);
  Floats x = (coordinate + 1) * (0.5f * size) - 0.5f;
  x = max(all(-2), min(all(last + 2), x));
  Floats low = floor(x), part = x - low;
  Ints index = __builtin_convertvector(low, Ints), next = index + 1;
  auto inside = [&](Ints i) { i = i < 0 ? 0 : i; return i < size ? i : size - 1; };
  return {{inside(index), inside(next)},
          {(x < 0) | (x >= last + 1) ? 0 : 1 - part, (x < -1) | (x >= last) ? 0 : part}};
}

// The texels of a plane in a frame of axes, their weights times `share`.
INLINE void plane_taps(const Scene& scene, int plane, int frame, const Point& point, Floats share,
                       Taps& taps) {
  auto along = [&](int k) { return point.at[scene.axis[frame][k]] * scene.sign[frame][k]; };
  const Between x = between(along(0), scene.width), y = between(along(1), scene.height);
  const bool deep = scene.kind == TRIGRID;
  const Between z = deep ? between(along(2), scene.depth) : Between{};
  for (int j = 0; j < 2; ++j) {
    for (int i = 0; i < 2; ++i) {
      Ints row = plane * scene.height + y.index[j];
      Ints texel = (row * scene.width + x.index[i]) * scene.depth;
      Floats weight = share * y.weight[j] * x.weight[i];
      if (deep)
        for (int k = 0; k < 2; ++k) taps.add(texel + z.index[k], weight * z.weight[k]);
      else
        taps.add(texel, weight);
    }
  }
}

// Of two spheres, read in their angles and radius. A sphere's weight is (1 + cos(pi theta)) *
// (1 + cos(pi phi)) / 4, which here needs no cosine: pi theta is twice the polar angle minus pi.
INLINE void spherical_taps(const Scene& scene, const Point& point, Taps& taps) {
  const Floats x = point.at[0], y = point.at[1], z = point.at[2];
  const Point frames[2] = {{{z, y, -x}}, {{-z, -x, y}}};
  const Floats square = x * x + y * y + z * z;
  const Floats radius = sqrt(square) * 1.15470054f - 1;  // 2 / sqrt(3)
  Floats across[2], weight[2];
  for (int s = 0; s < 2; ++s) {
    const auto& [a, b, c] = frames[s].at;
    across[s] = sqrt(a * a + b * b);
    weight[s] = square > 0 ? across[s] * (across[s] + a) / (2 * square) : 0;
  }
  const Floats scale = 1 / (weight[0] + weight[1] + 1e-8f);
  for (int s = 0; s < 2; ++s) {
    const auto& [a, b, c] = frames[s].at;
    const Point at = {{atan2(across[s], c) * (2 / PI) - 1, atan2(b, a) * (1 / PI), radius}};
    for (int k = 0; k < 3; ++k) plane_taps(scene, 3 * s + k, k, at, weight[s] * scale, taps);
  }
}

// point: in [-1, 1].
INLINE void find_taps(const Scene& scene, const Point& point, Taps& taps) {
  taps.count = 0;
  if (scene.kind == SPHERICAL)
    spherical_taps(scene, point, taps);
  else
    for (int k = 0; k < 3; ++k) plane_taps(scene, k, k, point, all(1), taps);
}

}  // namespace
}  // namespace march::ISA
