// What the kernels are told, on a CPU and on a GPU.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define ANYWHERE __host__ __device__
#else
#define ANYWHERE
#endif

namespace upfirdn2d {

// One direction, x or y, of images and filter.
struct Axis {
  int64_t in, out;  // pixels
  int up, down;
  int before;       // zeros (or, negative, what is cropped) before the upsampled image
  int taps;         // of the filter
};

// The taps that meet pixels, not zeros, for one output coordinate: tap, tap + up, ... meet pixel,
// pixel + 1, ...
struct Taps {
  int64_t pixel;
  int tap, count;
};

ANYWHERE inline int64_t floor_divide(int64_t a, int64_t b) { return a / b - (a % b < 0); }

ANYWHERE inline Taps taps_of(const Axis& axis, int64_t output) {
  const int64_t start = output * axis.down - axis.before;  // in the upsampled image
  int64_t first = floor_divide(start + axis.up - 1, axis.up);
  int64_t last = floor_divide(start + axis.taps - 1, axis.up);
  first = first < 0 ? 0 : first;
  last = last < axis.in ? last : axis.in - 1;
  const int count = last < first ? 0 : int(last - first + 1);
  return {first, int(first * axis.up - start), count};
}

// x [planes, y.in, x.in, channels] -> out [planes, y.out, x.out, channels]. A plane is a channel of
// an image and `channels` is 1; or, where the channels are last in memory, an image.
struct Job {
  int64_t planes, channels;
  Axis x, y;
  const void* image;
  const float* filter;  // [y.taps, x.taps], correlated
  void* out;
};

// Of floats, by `threads` at most; columns [x.out] and rows [y.out] are taps of job.x and job.y.
namespace portable { void run(const Job&, const Taps* columns, const Taps* rows, int threads); }
namespace avx2 { void run(const Job&, const Taps* columns, const Taps* rows, int threads); }
namespace avx512 { void run(const Job&, const Taps* columns, const Taps* rows, int threads); }

}  // namespace upfirdn2d
