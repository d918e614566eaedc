// A decoder of float texels with the first layer applied: a lane has two of the 64 hidden units.
#pragma once

#include "cuda_marching.h"

namespace march {

// Most samples of sigmoid colours may be left out: what they could add is below half a step of an
// 8-bit image by far, even from all of a ray's.
constexpr float NEGLIGIBLE = 1e-7f;

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

}  // namespace march
