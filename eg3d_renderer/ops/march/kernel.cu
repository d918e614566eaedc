// The marcher on a GPU: a warp takes a ray from its depths to its features, in one kernel.
//
// Nothing of a sample leaves the multiprocessor: texels are read through the caches, decoded in
// registers, and blended in shared memory. There are two decoders, that differ in how a warp shares
// out the work on a sample:
//
//   TensorCores  half texels, in tiles of 16 samples
//   Premixed     float texels with the first layer applied, in lanes of two hidden units
//
// nvcc 13.0 gives them 161 to 168 and 128 registers a thread, from sm_75 to sm_90, and spills none.
// With the 48 and 28 KiB of shared memory that a block of 4 rays takes for a tri-plane and 48 + 48
// samples, 3 and 4 blocks fit a multiprocessor of an H100, 2 and 3 one of an RTX 3090.
//
// Each can `look` (densities of new samples, and what it keeps of them) and `blend` (the features
// of the ray, one per lane, once the weights are known). The rest is in cuda_marching.h.
#include <algorithm>
#include <cmath>

#include "cuda_premixed.h"
#include "cuda_tensor_cores.h"

namespace march {

// Rays in the order of tiles of 8 x 8 pixels, where the view is a square of `side` such: those that
// march at the same time then read the same texels. side 0: as they come.
DEVICE int64_t in_tiles(int64_t i, int side) {
  if (side == 0) return i;
  const int tile = int(i / 64), within = int(i % 64);
  const int y = tile / (side / 8) * 8 + within / 8, x = tile % (side / 8) * 8 + within % 8;
  return int64_t(y) * side + x;
}

constexpr int MOST_WARPS = 4;  // of a block

template <typename Decoder>
__host__ DEVICE int warp_bytes(const Scene& scene, const Rays& rays) {
  const int samples = rays.samples + rays.fine_samples;
  return ray_bytes(scene.kind, samples) + Decoder::bytes(samples);
}

// Blocks stay and take rays in turn, a warp one at a time.
template <typename Decoder>
__global__ void __launch_bounds__(MOST_WARPS* WARP, Decoder::BLOCKS)
    render(const __grid_constant__ Scene scene, const __grid_constant__ Rays rays,
           const __grid_constant__ Seen seen, const int side) {
  char* shared = gpu::dynamic_shared();
  Decoder& decoder = *reinterpret_cast<Decoder*>(shared);
  decoder.load(scene);
  __syncthreads();
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  const int samples = rays.samples + rays.fine_samples;
  char* kept = shared + sizeof(Decoder) + warp * warp_bytes<Decoder>(scene, rays);
  Ray ray = ray_in(kept + Decoder::bytes(samples), scene.kind, samples);
  for (int64_t i = int64_t(blockIdx.x) * warps + warp; i < rays.count;
       i += int64_t(gridDim.x) * warps) {
    const int64_t n = in_tiles(i, side);
    const float *origin = rays.origins + 3 * n, *direction = rays.directions + 3 * n;
    ray.origin = make_float3(origin[0], origin[1], origin[2]);
    ray.direction = make_float3(direction[0], direction[1], direction[2]);
    coarse_depths(rays, n, ray, lane);
    decoder.look(scene, ray, kept, 0, rays.samples, lane);
    interval_weights(ray, rays.samples, lane);
    if (rays.fine_samples) {
      fine_depths(rays, n, ray, lane);
      decoder.look(scene, ray, kept, rays.samples, samples, lane);
      merge(rays, ray, lane);
      interval_weights(ray, samples, lane);
    }
    sample_weights(ray, samples, lane);
    const float opacity = sum_of_weights(ray, samples, lane);
    const float depth = expected_depth(ray, samples, opacity, lane);
    const float2 range = depth_range(ray, samples, lane);
    float feature = decoder.blend(scene, ray, kept, samples, opacity, lane);
    if (rays.white_back) feature += 1 - opacity;
    if (rays.is_signed) feature = feature * 2 - 1;
    seen.features[n * FEATURES + lane] = feature;
    if (lane == 0) {
      seen.depth[n] = depth;
      seen.opacity[n] = opacity;
      seen.nearest[n] = range.x;
      seen.farthest[n] = range.y;
    }
    __syncwarp();  // the next ray takes this one's memory
  }
}

template <typename Decoder>
void render_with(const Scene& scene, const Rays& rays, const Seen& seen, cudaStream_t stream) {
  void (*kernel)(Scene, Rays, Seen, int) = render<Decoder>;
  const int most = gpu::attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  const int each = warp_bytes<Decoder>(scene, rays);
  const auto bytes = [&](int warps) { return int(sizeof(Decoder)) + warps * each; };
  if (bytes(1) > most) {
    throw std::runtime_error("march: " + std::to_string(rays.samples) + " + " +
                             std::to_string(rays.fine_samples) + " samples a ray take " +
                             std::to_string(bytes(1)) + " bytes of shared memory; this GPU has " +
                             std::to_string(most));
  }
  gpu::allow_shared(kernel, most);
  int warps = 1, blocks = 0;
  for (int w = MOST_WARPS; w > 0; --w) {  // as many rays at once as there is memory for
    if (bytes(w) > most) continue;
    const int at_once = gpu::blocks_at_once(kernel, w * WARP, bytes(w));
    if (w * at_once > warps * blocks) warps = w, blocks = at_once;
  }
  int side = int(std::sqrt(double(rays.count)) + 0.5);
  if (int64_t(side) * side != rays.count || side % 8) side = 0;
  const int64_t needed = (rays.count + warps - 1) / warps;
  const unsigned grid = unsigned(std::min<int64_t>(needed, blocks));
  gpu::launch("march", kernel, grid, warps * WARP, bytes(warps), stream, scene, rays, seen, side);
}

void render_cuda(const Scene& scene, const Rays& rays, const Seen& seen, cudaStream_t stream) {
  if (rays.samples < 4 || rays.samples > MOST_SAMPLES || rays.fine_samples < 0 ||
      rays.fine_samples > MOST_SAMPLES) {
    throw std::runtime_error("march: takes 4 to 256 samples a ray and up to 256 fine ones");
  }
  const int planes = scene.kind == SPHERICAL ? 6 : 3;
  if (int64_t(planes) * scene.height * scene.width * scene.depth > INT32_MAX) {
    throw std::runtime_error("march: the planes have too many texels");
  }
  if (bool(scene.half) != bool(scene.weight1)) {
    throw std::runtime_error("march: texels are half and not premixed, or float and premixed");
  }
  if (reinterpret_cast<uintptr_t>(scene.texels) % 16) {
    throw std::runtime_error("march: the texels do not start at a multiple of 16 bytes");
  }
  if (rays.count == 0) return;
  if (scene.half) render_with<TensorCores>(scene, rays, seen, stream);
  else render_with<Premixed>(scene, rays, seen, stream);
}

}  // namespace march

#ifdef CUDA_SHIM

// Renders on a CPU; returns what went wrong, or null.
extern "C" const char* render_in_shim(const march::Scene* scene, const march::Rays* rays,
                                      const march::Seen* seen, int descending) {
  static std::string error;
  shim::descending = descending != 0;
  try {
    march::render_cuda(*scene, *rays, *seen, nullptr);
  } catch (const std::exception& caught) {
    error = caught.what();
    return error.c_str();
  }
  return nullptr;
}

#else

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <type_traits>
#include <utility>

#include "arguments.h"

static void launch(const march::Scene& scene, const march::Rays& rays, const march::Seen& seen,
                   const march::Launch& on) {
  const torch::stable::accelerator::DeviceGuard guard(on.device);
  march::render_cuda(scene, rays, seen, reinterpret_cast<cudaStream_t>(on.threads));
}

// An op that first makes sure that its tensors are all on one GPU: an address of the CPU, or of
// another GPU, would end the process's use of the device, and not say why.
template <auto Op>
struct OnOneDevice;

template <typename... Arguments, void (*Op)(Arguments...)>
struct OnOneDevice<Op> {
  static void run(Arguments... arguments) {
    std::optional<int32_t> device;
    (check(arguments, device), ...);
    Op(std::move(arguments)...);
  }

  template <typename T>
  static void check(const T& argument, std::optional<int32_t>& device) {
    if constexpr (std::is_same_v<T, torch::stable::Tensor>) {
      const int32_t index = argument.is_cuda() ? int32_t(argument.get_device_index()) : -1;
      STD_TORCH_CHECK(index >= 0 && device.value_or(index) == index,
                      "march: tensors are not all on one GPU");
      device = index;
    } else if constexpr (std::is_same_v<T, std::optional<torch::stable::Tensor>>) {
      if (argument) check(*argument, device);
    }
  }
};

STABLE_TORCH_LIBRARY_IMPL(diffstyle360, CUDA, m) {
  m.impl("march", TORCH_BOX(&OnOneDevice<&march::march<launch>>::run));
}

#endif
