// A decoder of half texels: a tile of 16 samples is a matrix, its products run on tensor cores.
#pragma once

#include "cuda_marching.h"

namespace march {

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

}  // namespace march
