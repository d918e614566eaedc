// What the marcher's kernels are told, on a CPU and on a GPU.
#pragma once

#include <cstdint>

namespace march {

constexpr int FEATURES = 32;      // of a texel, and of what is rendered
constexpr int HIDDEN = 64;        // units of the decoder
constexpr int MOST_SAMPLES = 256;  // of a ray, coarse and fine each

enum Kind : int { TRIPLANE = 0, TRIGRID = 1, SPHERICAL = 2 };
enum Activation : int { NONE = 0, SIGMOID = 1, LRELU = 2 };

// One identity. "Premixed" texels have the decoder's first layer applied (it is linear, and so is
// the sampling): HIDDEN channels, a third of what the first layer makes of a texel, without bias.
struct Scene {
  int kind;
  int height, width, depth;  // depth: slices of a tri-grid, else 1
  const void* texels;        // [planes, height, width, depth, channels]; planes: 3, spherical 2 * 3
  int half;                  // 1: texels are IEEE half precision, 0: float
  int axis[3][3];            // of each of three planes: which coordinate runs along its width, its
  float sign[3][3];          // height and its depth; times the sign
  float scale;               // world units to [-1, 1]
  const float* weight1;      // [HIDDEN, FEATURES], a third of the first layer; null if premixed
  const float* bias1;        // [HIDDEN]
  const float* weight2;      // [1 + FEATURES, HIDDEN]; row 0 makes the density
  const float* bias2;        // [1 + FEATURES]
  int activation;
  float crop;                // no density where |x| or |z| in world units is beyond; or infinite
  float cull;                // no density where alpha over a unit is below; or negative
  float binarize;            // the same, and solid elsewhere; or negative
};

struct Rays {
  int64_t count;                       // M
  const float *origins, *directions;   // [M, 3]
  const float *start, *end;            // [M], or [1] with limit_step 0
  int64_t limit_step;
  const float* coarse;                 // [M, samples], or [1, 1] with both steps 0
  int64_t coarse_row, coarse_step;
  const float* fine;                   // [M, fine_samples], or [1, fine_samples] with fine_row 0
  int64_t fine_row;
  int samples, fine_samples;           // samples >= 4, fine_samples >= 0
  int disparity, white_back, is_signed;
};

struct Seen {
  float* features;             // [M, FEATURES]
  float *depth, *opacity;      // [M]; depth is not yet clamped, infinite where all is clear
  float *nearest, *farthest;   // [M], of all samples of a ray
};

}  // namespace march
