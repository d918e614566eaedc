// What torch passes to the op, over its stable ABI, to what kernel.h has: checked, on any device.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <string>
#include <vector>

#include "kernel.h"

namespace march {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// How to start a kernel.
struct Launch {
  int32_t device;   // index of the GPU
  int64_t threads;  // of the CPU; on a GPU the stream
  std::string isa;  // of the CPU, or empty
};

// A contiguous tensor of `size` floats; its address.
float* floats(const Tensor& tensor, int64_t size) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float && tensor.is_contiguous() &&
                      tensor.numel() == size,
                  "march: expected ", size, " contiguous floats, not ", tensor.numel());
  return static_cast<float*>(tensor.data_ptr());
}

Scene scene_of(const Tensor& texels, const std::vector<int64_t>& layout,
               const std::vector<int64_t>& axes, const std::vector<double>& signs, double scale,
               const std::optional<Tensor>& weight1, const Tensor& bias1, const Tensor& weight2,
               const Tensor& bias2, int64_t activation, const std::vector<double>& limits) {
  STD_TORCH_CHECK(layout.size() == 4 && axes.size() == 9 && signs.size() == 9 &&
                  limits.size() == 3);
  STD_TORCH_CHECK(layout[0] >= TRIPLANE && layout[0] <= SPHERICAL, "march: kind ", layout[0]);
  STD_TORCH_CHECK(activation >= NONE && activation <= LRELU, "march: activation ", activation);
  Scene scene = {};
  scene.kind = int(layout[0]);
  scene.height = int(layout[1]), scene.width = int(layout[2]), scene.depth = int(layout[3]);
  const int64_t planes = scene.kind == SPHERICAL ? 6 : 3;
  const int64_t count = planes * layout[1] * layout[2] * layout[3];
  const int64_t channels = weight1 ? FEATURES : HIDDEN;
  scene.half = texels.scalar_type() == ScalarType::Half;
  STD_TORCH_CHECK(scene.half || texels.scalar_type() == ScalarType::Float);
  STD_TORCH_CHECK(layout[1] > 0 && layout[2] > 0 && layout[3] > 0 && count <= INT32_MAX &&
                      (scene.kind == TRIGRID || scene.depth == 1) && texels.is_contiguous() &&
                      texels.numel() == count * channels,
                  "march: texels are not contiguous, or not of their layout, or too many");
  scene.texels = texels.data_ptr();
  for (int i = 0; i < 9; ++i) {
    STD_TORCH_CHECK(axes[i] >= 0 && axes[i] < 3, "march: axis ", axes[i]);
    scene.axis[i / 3][i % 3] = int(axes[i]);
    scene.sign[i / 3][i % 3] = float(signs[i]);
  }
  scene.scale = float(scale);
  scene.weight1 = weight1 ? floats(*weight1, HIDDEN * FEATURES) : nullptr;
  scene.bias1 = floats(bias1, HIDDEN);
  scene.weight2 = floats(weight2, (1 + FEATURES) * HIDDEN);
  scene.bias2 = floats(bias2, 1 + FEATURES);
  scene.activation = int(activation);
  scene.crop = float(limits[0]);
  scene.cull = float(limits[1]);
  scene.binarize = float(limits[2]);
  return scene;
}

Rays rays_of(const Tensor& origins, const Tensor& directions, const Tensor& start,
             const Tensor& end, const Tensor& coarse, const Tensor& fine, int64_t samples,
             int64_t fine_samples, const std::vector<int64_t>& flags) {
  STD_TORCH_CHECK(samples >= 4 && samples <= MOST_SAMPLES && fine_samples >= 0 &&
                      fine_samples <= MOST_SAMPLES,
                  "march: ", samples, " + ", fine_samples, " samples");
  STD_TORCH_CHECK(flags.size() == 3);
  Rays rays = {};
  const int64_t count = rays.count = origins.size(0);
  rays.samples = int(samples), rays.fine_samples = int(fine_samples);
  rays.origins = floats(origins, 3 * count);
  rays.directions = floats(directions, 3 * count);
  const int64_t limits = start.numel() == 1 ? 1 : count;
  rays.limit_step = limits != 1;
  rays.start = floats(start, limits);
  rays.end = floats(end, limits);
  const bool same = coarse.numel() == 1;
  rays.coarse_row = same ? 0 : samples;
  rays.coarse_step = !same;
  rays.coarse = floats(coarse, same ? 1 : count * samples);
  if (fine_samples) {
    const int64_t rows = fine.size(0) == 1 ? 1 : count;
    rays.fine_row = rows == 1 ? 0 : fine_samples;
    rays.fine = floats(fine, rows * fine_samples);
  }
  rays.disparity = flags[0] != 0, rays.white_back = flags[1] != 0, rays.is_signed = flags[2] != 0;
  return rays;
}

// The op, for TORCH_BOX; writes to the last five tensors.
template <void (*Render)(const Scene&, const Rays&, const Seen&, const Launch&)>
void march(Tensor texels, std::vector<int64_t> layout, std::vector<int64_t> axes,
           std::vector<double> signs, double scale, std::optional<Tensor> weight1, Tensor bias1,
           Tensor weight2, Tensor bias2, int64_t activation, std::vector<double> limits,
           Tensor origins, Tensor directions, Tensor start, Tensor end, Tensor coarse, Tensor fine,
           int64_t samples, int64_t fine_samples, std::vector<int64_t> flags, int64_t threads,
           std::string isa, Tensor features, Tensor depth, Tensor opacity, Tensor nearest,
           Tensor farthest) {
  const Scene scene = scene_of(texels, layout, axes, signs, scale, weight1, bias1, weight2, bias2,
                               activation, limits);
  const Rays rays = rays_of(origins, directions, start, end, coarse, fine, samples, fine_samples,
                            flags);
  const Seen seen = {floats(features, rays.count * FEATURES), floats(depth, rays.count),
                     floats(opacity, rays.count), floats(nearest, rays.count),
                     floats(farthest, rays.count)};
  Render(scene, rays, seen, {texels.get_device_index(), threads, isa});
}

}  // namespace
}  // namespace march
