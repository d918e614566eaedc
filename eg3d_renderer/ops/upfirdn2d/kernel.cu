// A thread computes a few numbers of a column, straight from the image. Neighbouring threads read
// neighbouring numbers, through the first-level cache. Arithmetic is in float for any type.
#include "kernel.h"

#include "../native/cuda.h"

namespace upfirdn2d {
namespace {

constexpr int THREADS = 128;
constexpr int ROWS = 4;  // of the output, to a thread

// What a thread computes: numbers [first_row, end_row) of a column of a plane.
struct Share {
  int64_t plane, column, channel;
  int64_t first_row, end_row;
};

// False: nothing. Blocks go along a row [x.out, channels], then down, then from plane to plane.
DEVICE bool share_of(const Job& job, Share& share) {
  const unsigned row = unsigned(job.x.out * job.channels);
  const unsigned across = (row + THREADS - 1) / THREADS;
  const unsigned down = unsigned((job.y.out + ROWS - 1) / ROWS);
  const unsigned i = blockIdx.x % across * THREADS + threadIdx.x;
  if (i >= row) return false;
  share.plane = blockIdx.x / across / down;
  share.column = i / unsigned(job.channels);
  share.channel = i % unsigned(job.channels);
  share.first_row = int64_t(blockIdx.x / across % down) * ROWS;
  share.end_row = min(share.first_row + ROWS, job.y.out);
  return true;
}

template <typename T>
DEVICE const T* pixel_at(const Job& job, const Share& share, int64_t x, int64_t y) {
  const int64_t pixel = (share.plane * job.y.in + y) * job.x.in + x;
  return static_cast<const T*>(job.image) + pixel * job.channels + share.channel;
}

template <typename T>
DEVICE void write(const Job& job, const Share& share, int64_t y, float sum) {
  const int64_t pixel = (share.plane * job.y.out + y) * job.x.out + share.column;
  static_cast<T*>(job.out)[pixel * job.channels + share.channel] = T(sum);
}

// Any filter, any factors.
template <typename T>
__global__ void __launch_bounds__(THREADS) general(Job job) {
  Share share;
  if (!share_of(job, share)) return;
  const Taps h = taps_of(job.x, share.column);
  for (int64_t y = share.first_row; y < share.end_row; ++y) {
    const Taps v = taps_of(job.y, y);
    float sum = 0;
    for (int r = 0; r < v.count; ++r) {
      const float* tap = job.filter + (v.tap + r * job.y.up) * job.x.taps + h.tap;
      const T* pixel = pixel_at<T>(job, share, h.pixel, v.pixel + r);
      for (int c = 0; c < h.count; ++c)
        sum += __ldg(tap + c * job.x.up) * float(pixel[c * job.channels]);
    }
    write<T>(job, share, y, sum);
  }
}

// The first pixel, of the image or not, that a tap meets; `tap`, below UP, is that tap.
template <int UP, int DOWN>
DEVICE int64_t first_pixel(const Axis& axis, int64_t output, int& tap) {
  const int64_t start = output * DOWN - axis.before;
  const int64_t first = floor_divide(start + UP - 1, UP);
  tap = int(first * UP - start);
  return first;
}

// Four taps each way, the same factors each way, UP 1 or 2: a thread's taps stay in registers.
template <typename T, int UP, int DOWN>
__global__ void __launch_bounds__(THREADS) four_taps(Job job) {
  constexpr int SIDE = 4, MET = SIDE / UP;  // taps, and those of them that meet pixels
  Share share;
  if (!share_of(job, share)) return;
  int tap;
  const int64_t left = first_pixel<UP, DOWN>(job.x, share.column, tap);
  float taps[SIDE][MET];
#pragma unroll
  for (int r = 0; r < SIDE; ++r) {
#pragma unroll
    for (int c = 0; c < MET; ++c) taps[r][c] = __ldg(job.filter + r * SIDE + tap + c * UP);
  }
#pragma unroll
  for (int row = 0; row < ROWS; ++row) {
    const int64_t y = share.first_row + row;
    if (y >= share.end_row) return;
    const int64_t top = first_pixel<UP, DOWN>(job.y, y, tap);
    float sum = 0;
#pragma unroll
    for (int r = 0; r < MET; ++r) {
      if (top + r < 0 || top + r >= job.y.in) continue;
      const T* pixel = pixel_at<T>(job, share, left, top + r);
#pragma unroll
      for (int c = 0; c < MET; ++c) {
        if (left + c < 0 || left + c >= job.x.in) continue;
        // an index that is no constant would move the taps out of the registers
        const float weight = tap == 0 ? taps[r * UP][c] : taps[r * UP + UP - 1][c];
        sum += weight * float(pixel[c * job.channels]);
      }
    }
    write<T>(job, share, y, sum);
  }
}

template <typename T>
auto kernel_for(const Axis& x, const Axis& y) {
  if (x.taps == 4 && y.taps == 4 && x.up == y.up && x.down == y.down) {
    if (x.up == 1 && x.down == 1) return four_taps<T, 1, 1>;
    if (x.up == 2 && x.down == 1) return four_taps<T, 2, 1>;
    if (x.up == 1 && x.down == 2) return four_taps<T, 1, 2>;
  }
  return general<T>;
}

template <typename T>
void run(const Job& job, cudaStream_t stream) {
  const int64_t row = job.x.out * job.channels, across = (row + THREADS - 1) / THREADS;
  const int64_t blocks = across * ((job.y.out + ROWS - 1) / ROWS) * job.planes;
  if (blocks == 0) return;
  if (row > INT32_MAX || blocks > INT32_MAX) {
    throw std::runtime_error("upfirdn2d: a row, or the blocks, are more than 2^31");
  }
  const auto kernel = kernel_for<T>(job.x, job.y);
  gpu::launch("upfirdn2d", kernel, unsigned(blocks), THREADS, 0, stream, job);
}

}  // namespace
}  // namespace upfirdn2d

#ifdef CUDA_SHIM

extern "C" void upfirdn2d_run(const upfirdn2d::Job* job, int bytes) {
  bytes == 2 ? upfirdn2d::run<__half>(*job, nullptr) : upfirdn2d::run<float>(*job, nullptr);
}

#else

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using upfirdn2d::Axis;

// out and image [N, C, H, W], both contiguous or both channels last; filter [fh, fw] of floats.
void run(Tensor out, Tensor image, Tensor filter, bool channels_last, int64_t up_x, int64_t up_y,
         int64_t down_x, int64_t down_y, int64_t left, int64_t top, int64_t stream, std::string) {
  STD_TORCH_CHECK(out.scalar_type() == image.scalar_type());
  STD_TORCH_CHECK(filter.scalar_type() == ScalarType::Float);
  STD_TORCH_CHECK(image.size(0) == out.size(0) && image.size(1) == out.size(1));
  const torch::stable::accelerator::DeviceGuard guard(image.get_device_index());
  const int64_t channels = channels_last ? image.size(1) : 1;
  const int64_t planes = channels_last ? image.size(0) : image.size(0) * image.size(1);
  const Axis x = {image.size(3), out.size(3), int(up_x), int(down_x), int(left),
                  int(filter.size(1))};
  const Axis y = {image.size(2), out.size(2), int(up_y), int(down_y), int(top),
                  int(filter.size(0))};
  const float* taps = static_cast<const float*>(filter.data_ptr());
  const upfirdn2d::Job job = {planes, channels, x, y, image.data_ptr(), taps, out.data_ptr()};
  const auto on = reinterpret_cast<cudaStream_t>(stream);
  switch (image.scalar_type()) {
    case ScalarType::Float: return upfirdn2d::run<float>(job, on);
    case ScalarType::Half: return upfirdn2d::run<__half>(job, on);
    case ScalarType::BFloat16: return upfirdn2d::run<__nv_bfloat16>(job, on);
    default: STD_TORCH_CHECK(false, "upfirdn2d: no kernel for this type");
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffstyle360, CUDA, m) { m.impl("upfirdn2d", TORCH_BOX(&run)); }

#endif
