// Winograd's convolution F(4 x 4, 3 x 3): a tile of 4 x 4 pixels for 36 multiplications a channel
// in place of 144 (Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016).
//
// In one dimension, by Toom and Cook: let m(z) = z (z^2 - a^2) (z^2 - b^2), with the roots
// p_i = 0, a, -a, b, -b; infinity is the sixth point. The product of two polynomials of 4 and 3
// coefficients is known by its values at six points; transposed, that product is the correlation
// with 3 taps at 4 pixels: y = A^T ((G g) * (B^T d)), of taps g and 6 inputs d, with
//   G    row i: 1, p_i, p_i^2 over m'(p_i);             last: 0, 0, 1
//   B^T  row i: the coefficients of m(z) / (z - p_i);   last: those of m(z)
//   A^T  column i: 1, p_i, p_i^2, p_i^3;                last: 0, 0, 0, 1
// In two dimensions each acts on columns and on rows. The usual points 1 and 2 round more than
// a = 3/4 and b = 3/2, whose powers are exact too and closer together.
//
// An upsampling layer is a transposed convolution of stride 2 and a filter of 4 x 4. Seen from one
// of the four pixels that an input pixel becomes, both together are a correlation of the input with
// 3 x 3 taps: four sets of output channels ("phases"), and no pass over an image of four times the
// size.
#pragma once

#include "../native/simd.h"
#include "kernel.h"

namespace styled_conv {
namespace {

constexpr int TILE = 4, WINDOW = 6, TAPS = 9;
constexpr float A = 0.75f, B = 1.5f;

// matrix [36, 9]: from the taps of a weight to its frequencies, for a phase of an upsampling.
void weight_transform(const Layer& layer, const float* filter, int phase, float* matrix) {
  constexpr double a2 = A * A, b2 = B * B;
  constexpr double at_a = 2 * a2 * (a2 - b2), at_b = 2 * b2 * (b2 - a2);
  const double g[WINDOW][3] = {{1 / (a2 * b2), 0, 0},
                               {1 / at_a, A / at_a, a2 / at_a},
                               {1 / at_a, -A / at_a, a2 / at_a},
                               {1 / at_b, B / at_b, b2 / at_b},
                               {1 / at_b, -B / at_b, b2 / at_b},
                               {0, 0, 1}};
  double compose[TAPS][TAPS] = {};  // [tap of the phase's kernel, tap of the weight]
  for (int tap = 0; tap < TAPS; ++tap)
    for (int of = 0; of < TAPS; ++of) {
      if (layer.up == 1) {
        compose[tap][of] = tap == of;
        continue;
      }
      // pixel 2 j + phase sees input j + tap - 1 through filter tap s and weight tap k where
      // s + k = 4 + phase - 2 tap
      int y = 4 + phase / 2 - 2 * (tap / 3) - of / 3, x = 4 + phase % 2 - 2 * (tap % 3) - of % 3;
      if (y >= 0 && y < 4 && x >= 0 && x < 4) compose[tap][of] = 4.0 * filter[4 * y + x];
    }
  for (int f = 0; f < FREQUENCIES; ++f)
    for (int of = 0; of < TAPS; ++of) {
      double total = 0;
      for (int tap = 0; tap < TAPS; ++tap)
        total += g[f / WINDOW][tap / 3] * g[f % WINDOW][tap % 3] * compose[tap][of];
      matrix[TAPS * f + of] = float(total);
    }
}

// B^T of one column or row.
INLINE void forward(const Floats d[WINDOW], Floats v[WINDOW]) {
  constexpr float a2 = A * A, b2 = B * B;
  v[0] = d[4] - (a2 + b2) * d[2] + (a2 * b2) * d[0];
  Floats even_a = d[4] - b2 * d[2], odd_a = d[3] - b2 * d[1];
  v[1] = even_a + A * odd_a;
  v[2] = even_a - A * odd_a;
  Floats even_b = d[4] - a2 * d[2], odd_b = d[3] - a2 * d[1];
  v[3] = even_b + B * odd_b;
  v[4] = even_b - B * odd_b;
  v[5] = d[5] - (a2 + b2) * d[3] + (a2 * b2) * d[1];
}

// A^T of one column or row.
INLINE void backward(const Floats m[WINDOW], Floats y[TILE]) {
  Floats even_a = m[1] + m[2], odd_a = m[1] - m[2];
  Floats even_b = m[3] + m[4], odd_b = m[3] - m[4];
  y[0] = m[0] + even_a + even_b;
  y[1] = A * odd_a + B * odd_b;
  y[2] = (A * A) * even_a + (B * B) * even_b;
  y[3] = (A * A * A) * odd_a + (B * B * B) * odd_b + m[5];
}

}  // namespace
}  // namespace styled_conv
