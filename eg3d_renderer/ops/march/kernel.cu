// The marcher on a GPU: a warp takes a ray from its depths to its features, in one kernel.
//
// Nothing of a sample leaves the multiprocessor: texels are read through the caches, decoded in
// registers, and blended in shared memory. There are two decoders, that differ in how a warp shares
// out the work on a sample:
//
//   TensorCores  half texels; a tile of 16 samples is a matrix, its products run on tensor cores
//   Premixed     float texels with the first layer applied; a lane has two of the 64 hidden units
//
// nvcc 13.0 gives them 161 to 168 and 128 registers a thread, from sm_75 to sm_90, and spills none.
// With the 48 and 28 KiB of shared memory that a block of 4 rays takes for a tri-plane and 48 + 48
// samples, 3 and 4 blocks fit a multiprocessor of an H100, 2 and 3 one of an RTX 3090.
//
// Each can `look` (densities of new samples, and what it keeps of them) and `blend` (the features
// of the ray, one per lane, once the weights are known). The rest is in cuda_marching.h.
#include <algorithm>
#include <cmath>

#include "cuda_marching.h"

namespace march {

// Most samples of sigmoid colours may be left out: what they could add is below half a step of an
// 8-bit image by far, even from all of a ray's.
constexpr float NEGLIGIBLE = 1e-7f;

// Lane 4 * g + t has channels 8t .. 8t + 7, of texels and of colours, and rows g and g + 8 of a
// tile. As pairs (8t + 4s, + 1) and (8t + 4s + 2, + 3), s = 0 and 1, they are the registers of two
// matrices A with 16 of the 32 channels each: in what order the channels are summed is free, as
// long as the weights come in the same. The hidden units that a lane computes, rows g and g + 8,
// columns 2t and 2t + 1 of 8 matrices C, are the A of the second product as they are.
struct TensorCores {
  static constexpr int BLOCKS = 3;  // on a multiprocessor, that registers are to allow

  uint4 weight1[HIDDEN / 8][WARP];        // of tile i: unit 8i + g, channels 8t .. 8t + 7
  uint2 weight2[HIDDEN / 16][4][WARP];    // of step j, tile n: colour 8 (g / 2) + 2n + g % 2,
                                          // units 16j + 2t, + 1, + 8, + 9
  float bias1[HIDDEN], density[HIDDEN];   // density: row 0 of the second layer
  float bias2[1 + FEATURES];

  static __host__ DEVICE int bytes(int samples) { return samples * FEATURES * 2; }

  DEVICE void load(const Scene& scene) {
    for (int i = threadIdx.x; i < HIDDEN / 8 * WARP; i += blockDim.x) {
      const int lane = i % WARP, unit = i / WARP * 8 + lane / 4;
      const float* w = scene.weight1 + unit * FEATURES + lane % 4 * 8;
      weight1[0][i] =
          make_uint4(gpu::pack(w[0], w[1]), gpu::pack(w[2], w[3]), gpu::pack(w[4], w[5]),
                     gpu::pack(w[6], w[7]));
    }
    for (int i = threadIdx.x; i < HIDDEN / 16 * 4 * WARP; i += blockDim.x) {
      const int lane = i % WARP, n = i / WARP % 4, j = i / WARP / 4, g = lane / 4;
      const int colour = 8 * (g / 2) + 2 * n + g % 2;
      const float* w = scene.weight2 + (1 + colour) * HIDDEN + 16 * j + lane % 4 * 2;
      weight2[0][0][i] = make_uint2(gpu::pack(w[0], w[1]), gpu::pack(w[8], w[9]));
    }
    for (int i = threadIdx.x; i < HIDDEN; i += blockDim.x) {
      bias1[i] = scene.bias1[i];
      density[i] = scene.weight2[i];
    }
    for (int i = threadIdx.x; i < 1 + FEATURES; i += blockDim.x) bias2[i] = scene.bias2[i];
  }

  static DEVICE float softplus(float x) {  // near enough for halves
    return fmaxf(x, 0.0f) + __logf(1 + __expf(-fabsf(x)));
  }

  static DEVICE float activate(float x, int activation) {
    if (activation == SIGMOID) return __fdividef(1.002f, 1 + __expf(-x)) - 0.001f;
    if (activation == LRELU) return (x > 0 ? x : 0.2f * x) * 1.41421356f;
    return x;
  }

  // Rows g and g + 8 of a tile: their 8 channels, summed over planes, as A.
  static DEVICE void gather(const Scene& scene, const Ray& ray, int lane, uint32_t (&a)[2][4]) {
    const uint4* texels = static_cast<const uint4*>(scene.texels) + lane % 4;
    const int footprints = 3 * parts(scene.kind);
    float sum[2][8] = {};
    for (int i = 0; i < footprints; i += 3) {
#pragma unroll
      for (int plane = 0; plane < 3; ++plane) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const Footprint& at = ray.footprints[(lane / 4 + 8 * r) * footprints + i + plane];
          add(sum[r], texels + int64_t(at.texel.x) * 4, at.weight.x);
          add(sum[r], texels + int64_t(at.texel.y) * 4, at.weight.y);
          add(sum[r], texels + int64_t(at.texel.z) * 4, at.weight.z);
          add(sum[r], texels + int64_t(at.texel.w) * 4, at.weight.w);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {  // register i % 4 of A: row g or g + 8, first or second pair
      const int s = i / 4, r = i % 2, c = 4 * s + i % 4 / 2 * 2;
      a[s][i % 4] = gpu::pack(sum[r][c], sum[r][c + 1]);
    }
  }

  static DEVICE void add(float (&sum)[8], const uint4* texel, float weight) {
    const uint4 halves = __ldg(texel);
    const uint32_t pairs[4] = {halves.x, halves.y, halves.z, halves.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = gpu::unpack(pairs[i]);
      sum[2 * i] += pair.x * weight;
      sum[2 * i + 1] += pair.y * weight;
    }
  }

  // Densities of the slots [first, last), and their colours [S, 32] as halves.
  DEVICE void look(const Scene& scene, const Ray& ray, char* colours, int first, int last,
                   int lane) const {
    const int g = lane / 4, t = lane % 4;
#pragma unroll 1
    for (int tile = first; tile < last; tile += TILE) {
      find_footprints(scene, ray, lane, [&](int row) { return min(tile + row, last - 1); });
      uint32_t a[2][4];
      gather(scene, ray, lane, a);
      float colour[4][4] = {};  // tile n: colours 8t + 2n, + 1, of rows g, g + 8
      float sigma[2] = {};      // rows g, g + 8
#pragma unroll
      for (int j = 0; j < HIDDEN / 16; ++j) {
        uint32_t units[4];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint4 w = weight1[2 * j + i][lane];
          float c[4] = {};  // units 16j + 8i + 2t, + 1, of rows g, g + 8
          gpu::mma_m16n8k16(c, a[0], w.x, w.y);
          gpu::mma_m16n8k16(c, a[1], w.z, w.w);
          const int unit = 16 * j + 8 * i + 2 * t;
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            c[k] = softplus(c[k] + bias1[unit + k % 2]);
            sigma[k / 2] += c[k] * density[unit + k % 2];
          }
          units[2 * i] = gpu::pack(c[0], c[1]);
          units[2 * i + 1] = gpu::pack(c[2], c[3]);
        }
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          const uint2 w = weight2[j][n][lane];
          gpu::mma_m16n8k16(colour[n], units, w.x, w.y);
        }
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        sigma[r] += __shfl_xor_sync(ALL, sigma[r], 1);
        sigma[r] += __shfl_xor_sync(ALL, sigma[r], 2);
        uint32_t pairs[4];
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          const int channel = 1 + 8 * t + 2 * n;
          pairs[n] = gpu::pack(
              activate(colour[n][2 * r] + bias2[channel], scene.activation),
              activate(colour[n][2 * r + 1] + bias2[channel + 1], scene.activation));
        }
        const int slot = tile + g + 8 * r;
        if (slot < last) {
          reinterpret_cast<uint4*>(colours)[slot * 4 + t] =
              make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
          if (t == r) {
            const float3 point = point_at(ray, ray.depth[slot]);
            ray.sigma[slot] = limited(scene, point, sigma[r] + bias2[0]);
          }
        }
      }
    }
    __syncwarp();
  }

  DEVICE float blend(const Scene&, const Ray& ray, const char* colours, int samples, float,
                     int lane) const {
    const __half* colour = reinterpret_cast<const __half*>(colours) + lane;
    float sum = 0;
#pragma unroll 4
    for (int i = 0; i < samples; ++i) sum += ray.share[i] * __half2float(colour[i * FEATURES]);
    return sum;
  }
};

// A lane has units 2 * lane and 2 * lane + 1: a warp reads 256 contiguous bytes of a texel.
//
// Colours are made in a second pass, for what has a share of the ray, from texels read again: most
// samples lie before or behind the surface and have none, while the hidden units of all of them
// would take 24 KiB of shared memory for 96 samples, and leave room for few rays at once.
struct Premixed {
  static constexpr int BLOCKS = 4;
  static constexpr int GROUP = 4;  // samples at once: their loads overlap

  float4 weight2[HIDDEN / 4][FEATURES];  // of colour c: units 4i .. 4i + 3 at [i][c]
  float2 bias1[WARP], density[WARP];     // by lane
  float bias2[1 + FEATURES];

  static __host__ DEVICE int bytes(int) { return GROUP * HIDDEN * 4; }  // hidden [GROUP, 64]

  DEVICE void load(const Scene& scene) {
    for (int i = threadIdx.x; i < HIDDEN / 4 * FEATURES; i += blockDim.x) {
      const float* w = scene.weight2 + (1 + i % FEATURES) * HIDDEN + i / FEATURES * 4;
      weight2[0][i] = make_float4(w[0], w[1], w[2], w[3]);
    }
    for (int i = threadIdx.x; i < WARP; i += blockDim.x) {
      bias1[i] = make_float2(scene.bias1[2 * i], scene.bias1[2 * i + 1]);
      density[i] = make_float2(scene.weight2[2 * i], scene.weight2[2 * i + 1]);
    }
    for (int i = threadIdx.x; i < 1 + FEATURES; i += blockDim.x) bias2[i] = scene.bias2[i];
  }

  static DEVICE float activate(float x, int activation) {
    if (activation == SIGMOID) return 1.002f / (1 + expf(-x)) - 0.001f;
    if (activation == LRELU) return (x > 0 ? x : 0.2f * x) * 1.41421356f;
    return x;
  }

  // The lane's units of rows [row, row + GROUP) of a tile.
  DEVICE void gather(const Scene& scene, const Ray& ray, int row, int lane,
                     float2 (&units)[GROUP]) const {
    const float2* texels = static_cast<const float2*>(scene.texels) + lane;
    const int footprints = 3 * parts(scene.kind);
#pragma unroll
    for (int k = 0; k < GROUP; ++k) units[k] = bias1[lane];
#pragma unroll 1
    for (int i = 0; i < footprints; ++i) {
#pragma unroll
      for (int k = 0; k < GROUP; ++k) {
        const Footprint& at = ray.footprints[(row + k) * footprints + i];
        add(units[k], texels + int64_t(at.texel.x) * WARP, at.weight.x);
        add(units[k], texels + int64_t(at.texel.y) * WARP, at.weight.y);
        add(units[k], texels + int64_t(at.texel.z) * WARP, at.weight.z);
        add(units[k], texels + int64_t(at.texel.w) * WARP, at.weight.w);
      }
    }
#pragma unroll
    for (int k = 0; k < GROUP; ++k) {
      units[k] = make_float2(softplus(units[k].x), softplus(units[k].y));
    }
  }

  static DEVICE void add(float2& sum, const float2* texel, float weight) {
    const float2 pair = __ldg(texel);
    sum.x += pair.x * weight;
    sum.y += pair.y * weight;
  }

  // Densities of the slots [first, last).
  DEVICE void look(const Scene& scene, const Ray& ray, char*, int first, int last,
                   int lane) const {
#pragma unroll 1
    for (int tile = first; tile < last; tile += TILE) {
      find_footprints(scene, ray, lane, [&](int row) { return min(tile + row, last - 1); });
#pragma unroll 1
      for (int row = 0; row < min(TILE, last - tile); row += GROUP) {
        float2 units[GROUP];
        gather(scene, ray, row, lane, units);
#pragma unroll
        for (int k = 0; k < GROUP; ++k) {
          const float sum =
              gpu::warp_sum(units[k].x * density[lane].x + units[k].y * density[lane].y);
          const int slot = tile + row + k;
          if (lane == k && slot < last) {
            const float3 point = point_at(ray, ray.depth[slot]);
            ray.sigma[slot] = limited(scene, point, sum + bias2[0]);
          }
        }
      }
    }
    __syncwarp();
  }

  // Feature `lane` of N samples whose units are in shared memory, without its bias.
  template <int N>
  DEVICE void second_layer(const float4* hidden, int lane, float (&feature)[N]) const {
#pragma unroll
    for (int k = 0; k < N; ++k) feature[k] = 0;
#pragma unroll 2
    for (int i = 0; i < HIDDEN / 4; ++i) {
      const float4 w = weight2[i][lane];
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const float4 h = hidden[k * (HIDDEN / 4) + i];
        feature[k] += h.x * w.x + h.y * w.y + h.z * w.z + h.w * w.w;
      }
    }
  }

  // The slots whose share is more than a minimum, or NaN, -> the ray's list; returns how many.
  static DEVICE int list_shares(const Ray& ray, int samples, float minimum, int lane) {
    int listed = 0;
    for (int first = 0; first < samples; first += WARP) {
      const int slot = first + lane;
      const bool counts = slot < samples && !(fabsf(ray.share[slot]) <= minimum);
      const unsigned votes = __ballot_sync(ALL, counts);
      if (counts) ray.list[listed + __popc(votes & ((1u << lane) - 1))] = uint16_t(slot);
      listed += __popc(votes);
    }
    __syncwarp();
    return listed;
  }

  DEVICE float blend(const Scene& scene, const Ray& ray, char* scratch, int samples,
                     float opacity, int lane) const {
    const bool linear = scene.activation == NONE;
    const float minimum = scene.activation == SIGMOID ? NEGLIGIBLE : 0;
    const int listed = list_shares(ray, samples, minimum, lane);
    float2* mine = reinterpret_cast<float2*>(scratch) + lane;  // [GROUP, 32]
    const float4* hidden = reinterpret_cast<const float4*>(scratch);
    const float bias = bias2[1 + lane];
    float2 mixed = {0, 0};
    float sum = 0;
#pragma unroll 1
    for (int tile = 0; tile < listed; tile += TILE) {
      const auto slot = [&](int row) { return int(ray.list[min(tile + row, listed - 1)]); };
      find_footprints(scene, ray, lane, slot);
#pragma unroll 1
      for (int row = 0; row < min(TILE, listed - tile); row += GROUP) {
        float2 units[GROUP];
        float share[GROUP], feature[GROUP];
        gather(scene, ray, row, lane, units);
#pragma unroll
        for (int k = 0; k < GROUP; ++k) {
          share[k] = tile + row + k < listed ? ray.share[slot(row + k)] : 0;
          mixed.x += share[k] * units[k].x;
          mixed.y += share[k] * units[k].y;
        }
        if (linear) continue;
#pragma unroll
        for (int k = 0; k < GROUP; ++k) mine[k * WARP] = units[k];
        __syncwarp();
        second_layer(hidden, lane, feature);
        __syncwarp();
#pragma unroll
        for (int k = 0; k < GROUP; ++k) {
          sum += share[k] * activate(feature[k] + bias, scene.activation);
        }
      }
    }
    if (!linear) return sum;
    mine[0] = mixed;  // the second layer of the mixture is the mixture of second layers
    __syncwarp();
    float feature[1];
    second_layer(hidden, lane, feature);
    __syncwarp();
    return feature[0] + bias * opacity;
  }
};

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
  LAUNCH(kernel, grid, warps * WARP, bytes(warps), stream, scene, rays, seen, side);
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

#include "arguments.h"

static void launch(const march::Scene& scene, const march::Rays& rays, const march::Seen& seen,
                   const march::Launch& on) {
  const torch::stable::accelerator::DeviceGuard guard(on.device);
  march::render_cuda(scene, rays, seen, reinterpret_cast<cudaStream_t>(on.threads));
}

STABLE_TORCH_LIBRARY_IMPL(diffstyle360, CUDA, m) {
  m.impl("march", TORCH_BOX(&march::march<launch>));
}

#endif
