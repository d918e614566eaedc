// The reference's planes, depths, compositing and density, for a ray, by the lanes of a warp.
//
// Lanes take samples in turn. What one writes to the ray's arrays, others read only after a
// __syncwarp, with which every function here ends that wrote to them.
#pragma once

#include "../native/cuda.h"
#include "kernel.h"

namespace march {

using gpu::ALL;
using gpu::WARP;

constexpr int TILE = 16;        // samples looked at together
constexpr float EPSILON = 1e-5f;  // of depths.py
constexpr float EMPTY = -1e3f;  // a density that renders nothing; its opposite is solid

// What a bilinear sample of a plane reads: four texels, counted through all planes.
struct Footprint {
  int4 texel;
  float4 weight;
};

// A ray in shared memory, of S = samples + fine_samples. A sample's slot is its place as drawn, the
// coarse ones first; intervals lie between neighbours along the ray.
struct Ray {
  Footprint* footprints;  // [TILE, parts, 3]
  float* depth;           // [S], by slot
  float* sigma;           // [S], by slot
  float* share;           // [S], by slot
  float* weight;          // [S], by interval
  float* cumulated;       // [S]
  uint16_t* order;        // [S], slots along the ray
  uint16_t* list;         // [S], slots, of other lists
  float3 origin, direction;
};

// Footprints of a sample: a tri-grid's three planes are read in two slices, and there are two
// spheres of three planes.
__host__ DEVICE int parts(int kind) { return kind == TRIPLANE ? 1 : 2; }

__host__ DEVICE int ray_bytes(int kind, int samples) {
  const int each = 5 * sizeof(float) + 2 * sizeof(uint16_t);
  return TILE * parts(kind) * 3 * int(sizeof(Footprint)) + (samples * each + 15) / 16 * 16;
}

DEVICE Ray ray_in(char* memory, int kind, int samples) {
  Ray ray;
  ray.footprints = reinterpret_cast<Footprint*>(memory);
  ray.depth = reinterpret_cast<float*>(ray.footprints + TILE * parts(kind) * 3);
  ray.sigma = ray.depth + samples;
  ray.share = ray.sigma + samples;
  ray.weight = ray.share + samples;
  ray.cumulated = ray.weight + samples;
  ray.order = reinterpret_cast<uint16_t*>(ray.cumulated + samples);
  ray.list = ray.order + samples;
  return ray;
}

// Rounded as the reference rounds it, without a fused product: crop then leaves out the same.
DEVICE float3 point_at(const Ray& ray, float depth) {
  return make_float3(__fadd_rn(ray.origin.x, __fmul_rn(depth, ray.direction.x)),
                     __fadd_rn(ray.origin.y, __fmul_rn(depth, ray.direction.y)),
                     __fadd_rn(ray.origin.z, __fmul_rn(depth, ray.direction.z)));
}

// -- planes --

// The two pixels of `size` around a coordinate in [-1, 1], kept inside, and their weights: those of
// F.grid_sample, zero outside, NaN where there is no such place. Slices of a tri-grid the same.
struct Neighbours {
  int at[2];
  float weight[2];
};

DEVICE Neighbours neighbours(float x, int size) {
  const float pixel = ((x + 1) * float(size) - 1) * 0.5f;
  const float below = floorf(pixel);
  const float part = pixel - below;
  // as a float: an int holds neither NaN, of which fmaxf makes -2, nor what is far away
  const int first = int(fminf(fmaxf(below, -2.0f), float(size)));
  Neighbours two;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const bool inside = first + i >= 0 && first + i < size;
    two.at[i] = min(max(first + i, 0), size - 1);
    two.weight[i] = (i ? part : 1 - part) * (inside ? 1.0f : 0.0f);
  }
  return two;
}

DEVICE Footprint bilinear(const Scene& scene, int plane, int slice, float x, float y,
                          float weight) {
  const Neighbours across = neighbours(x, scene.width), down = neighbours(y, scene.height);
  const int upper = (plane * scene.height + down.at[0]) * scene.width;
  const int lower = (plane * scene.height + down.at[1]) * scene.width;
  const float above = down.weight[0] * weight, below = down.weight[1] * weight;
  return {make_int4((upper + across.at[0]) * scene.depth + slice,
                    (upper + across.at[1]) * scene.depth + slice,
                    (lower + across.at[0]) * scene.depth + slice,
                    (lower + across.at[1]) * scene.depth + slice),
          make_float4(above * across.weight[0], above * across.weight[1],
                      below * across.weight[0], below * across.weight[1])};
}

DEVICE float along(float3 p, const Scene& scene, int plane, int k) {
  const int axis = scene.axis[plane][k];
  return (axis == 0 ? p.x : axis == 1 ? p.y : p.z) * scene.sign[plane][k];
}

// A point as a sphere has it, its angles and radius in [-1, 1]; and its weight there.
DEVICE float3 on_sphere(float3 p, int sphere, float& weight) {
  constexpr float PI = 3.14159265f, SQRT3 = 1.73205081f;
  const float a = sphere == 0 ? p.z : -p.z;
  const float b = sphere == 0 ? p.y : -p.x;
  const float c = sphere == 0 ? -p.x : p.y;
  const float theta = 2 * atan2f(sqrtf(a * a + b * b), c) / PI - 1;
  const float phi = atan2f(b, a) / PI;
  weight = (1 + cospif(theta)) * (1 + cospif(phi)) / 4;
  return make_float3(theta, phi, 2 * sqrtf(p.x * p.x + p.y * p.y + p.z * p.z) / SQRT3 - 1);
}

// Footprints of the samples slot(0) ... slot(TILE - 1). A lane finds a sample's part: of a tri-grid
// the slice before or after it, of spheres one; of a tri-plane all, and half of the lanes idle.
template <typename Slot>
DEVICE void find_footprints(const Scene& scene, const Ray& ray, int lane, Slot slot) {
  __syncwarp();  // the tile before has been read
  const int row = lane % TILE, part = lane / TILE;
  const float3 world = point_at(ray, ray.depth[slot(row)]);
  float3 p = make_float3(world.x * scene.scale, world.y * scene.scale, world.z * scene.scale);
  float weight = 1;
  if (scene.kind == SPHERICAL) {
    p = on_sphere(p, part, weight);
    weight /= weight + __shfl_xor_sync(ALL, weight, TILE) + 1e-8f;
  }
  if (part < parts(scene.kind)) {
    Footprint* footprints = ray.footprints + (row * parts(scene.kind) + part) * 3;
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      int slice = 0;
      if (scene.kind == TRIGRID) {
        const Neighbours slices = neighbours(along(p, scene, i, 2), scene.depth);
        slice = part ? slices.at[1] : slices.at[0];
        weight = part ? slices.weight[1] : slices.weight[0];
      }
      const int plane = scene.kind == SPHERICAL ? 3 * part + i : i;
      footprints[i] =
          bilinear(scene, plane, slice, along(p, scene, i, 0), along(p, scene, i, 1), weight);
    }
  }
  __syncwarp();
}

// -- density --

DEVICE float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

// crop, cull and binarize: what the scene leaves of a density.
DEVICE float limited(const Scene& scene, float3 point, float sigma) {
  const bool inside = fabsf(point.x) <= scene.crop && fabsf(point.z) <= scene.crop;
  if (scene.crop < INFINITY && !inside) sigma = EMPTY;
  const float alpha = 1 - expf(-softplus(sigma - 1));
  if (scene.cull >= 0 && alpha < scene.cull) sigma = EMPTY;
  if (scene.binarize >= 0) sigma = alpha < scene.binarize ? EMPTY : -EMPTY;
  return sigma;
}

// -- depths --

DEVICE void coarse_depths(const Rays& rays, int64_t n, const Ray& ray, int lane) {
  const float start = rays.start[n * rays.limit_step], end = rays.end[n * rays.limit_step];
  const float step = 1.0f / float(rays.samples - 1);
  for (int i = lane; i < rays.samples; i += WARP) {
    const bool early = i < rays.samples / 2;  // torch.linspace counts from both ends
    const float bin = early ? step * float(i) : 1 - step * float(rays.samples - 1 - i);
    const float draw = rays.coarse[n * rays.coarse_row + i * rays.coarse_step];
    if (rays.disparity) {
      const float along = bin + draw * step;
      ray.depth[i] = 1 / (1 / start * (1 - along) + 1 / end * along);
    } else {
      ray.depth[i] = start + bin * (end - start) + draw * ((end - start) * step);
    }
    ray.order[i] = uint16_t(i);
  }
  __syncwarp();
}

// How many of 0 ... count - 1 come before the first for which `holds` does not hold.
template <typename Holds>
DEVICE int first_without(int count, Holds holds) {
  int low = 0;
  while (low < count) {
    const int middle = (low + count) / 2;
    if (holds(middle)) low = middle + 1;
    else count = middle;
  }
  return low;
}

// The greater, or NaN where either is.
DEVICE float maximum(float a, float b) { return a > b || a != a ? a : b; }
DEVICE float minimum(float a, float b) { return a < b || a != a ? a : b; }

// The coarse intervals' weights -> the fine samples' depths.
DEVICE void fine_depths(const Rays& rays, int64_t n, const Ray& ray, int lane) {
  const int bins = rays.samples - 3;  // of interval i + 1, over mid-points i and i + 1
  const auto density = [&](int i) {
    const float* w = ray.weight + i;
    return (maximum(w[0], w[1]) + maximum(w[1], w[2])) / 2 + 0.01f + EPSILON;
  };
  float total = 0;
  for (int i = lane; i < bins; i += WARP) total += density(i);
  total = gpu::warp_sum(total);
  float before = 0;
  for (int first = 0; first < bins; first += WARP) {
    const int i = first + lane;
    const float share = i < bins ? density(i) / total : 0;
    const float sum = gpu::warp_scan(share, lane, [](float a, float b) { return a + b; });
    if (i < bins) ray.cumulated[i + 1] = before + sum;
    before += __shfl_sync(ALL, sum, WARP - 1);
  }
  if (lane == 0) ray.cumulated[0] = 0;
  __syncwarp();
  const auto middle = [&](int i) { return (ray.depth[i] + ray.depth[i + 1]) / 2; };
  for (int i = lane; i < rays.fine_samples; i += WARP) {
    const float u = rays.fine[n * rays.fine_row + i];
    const int index = first_without(bins + 1, [&](int k) { return !(ray.cumulated[k] > u); });
    const int below = max(index - 1, 0), above = min(index, bins);
    const float low = ray.cumulated[below];
    float width = ray.cumulated[above] - low;
    if (width < EPSILON) width = 1;
    const float start = middle(below), end = middle(above);
    ray.depth[rays.samples + i] = start + (u - low) / width * (end - start);
  }
  __syncwarp();
}

// In torch.sort's order NaN comes last.
DEVICE bool before(float a, float b) { return a < b || (b != b && a == a); }

// The slots [first, first + count) -> list, by depth; equal ones as they were. Mostly they come in
// order: else each lane counts what comes before its own, which is no less than sorting well while
// there are few.
DEVICE void sort_slots(const Ray& ray, int first, int count, int lane) {
  const float* depth = ray.depth + first;
  bool in_order = true;
  for (int i = lane + 1; i < count; i += WARP) in_order &= !before(depth[i], depth[i - 1]);
  in_order = __all_sync(ALL, in_order);
  for (int i = lane; i < count; i += WARP) {
    int rank = i;
    if (!in_order) {
      rank = 0;
      for (int k = 0; k < count; ++k) {
        rank += before(depth[k], depth[i]) || (k < i && !before(depth[i], depth[k]));
      }
    }
    ray.list[first + rank] = uint16_t(first + i);
  }
}

// The order of all samples along the ray; of equal ones the coarse come first.
DEVICE void merge(const Rays& rays, const Ray& ray, int lane) {
  const int coarse = rays.samples, fine = rays.fine_samples;
  sort_slots(ray, 0, coarse, lane);
  sort_slots(ray, coarse, fine, lane);
  __syncwarp();
  for (int i = lane; i < coarse + fine; i += WARP) {
    const uint16_t slot = ray.list[i];
    const float depth = ray.depth[slot];
    const auto other = [&](int k) { return ray.depth[ray.list[k]]; };
    const int ahead =  // in the other list
        i < coarse
            ? first_without(fine, [&](int k) { return before(other(coarse + k), depth); })
            : first_without(coarse, [&](int k) { return !before(depth, other(k)); }) - coarse;
    ray.order[i + ahead] = slot;
  }
  __syncwarp();
}

// -- compositing --

// The densities of the first `samples` in the ray's order -> the weights of the intervals between.
DEVICE void interval_weights(const Ray& ray, int samples, int lane) {
  float clear = 1;  // the transmittance up to here
  for (int first = 0; first < samples - 1; first += WARP) {
    const int i = first + lane;
    float alpha = 0, passing = 1;
    if (i < samples - 1) {
      const int a = ray.order[i], b = ray.order[i + 1];
      const float density = softplus((ray.sigma[a] + ray.sigma[b]) / 2 - 1);
      alpha = 1 - expf(-density * (ray.depth[b] - ray.depth[a]));
      passing = 1 - alpha + 1e-10f;
    }
    const float product =
        gpu::warp_scan(passing, lane, [](float a, float b) { return a * b; });
    const float up_to = __shfl_up_sync(ALL, product, 1);
    if (i < samples - 1) ray.weight[i] = alpha * (lane ? clear * up_to : clear);
    clear *= __shfl_sync(ALL, product, WARP - 1);
  }
  __syncwarp();
}

// Half of each neighbouring interval's.
DEVICE void sample_weights(const Ray& ray, int samples, int lane) {
  for (int i = lane; i < samples; i += WARP) {
    const float before = i > 0 ? ray.weight[i - 1] : 0;
    const float after = i < samples - 1 ? ray.weight[i] : 0;
    ray.share[ray.order[i]] = (before + after) / 2;
  }
  __syncwarp();
}

DEVICE float sum_of_weights(const Ray& ray, int samples, int lane) {
  float sum = 0;
  for (int i = lane; i < samples - 1; i += WARP) sum += ray.weight[i];
  return gpu::warp_sum(sum);
}

DEVICE float expected_depth(const Ray& ray, int samples, float opacity, int lane) {
  float sum = 0;
  for (int i = lane; i < samples - 1; i += WARP) {
    sum += ray.weight[i] * (ray.depth[ray.order[i]] + ray.depth[ray.order[i + 1]]) / 2;
  }
  const float depth = gpu::warp_sum(sum) / opacity;
  return depth == depth ? depth : INFINITY;
}

// The nearest and the farthest of a ray's samples.
DEVICE float2 depth_range(const Ray& ray, int samples, int lane) {
  float nearest = INFINITY, farthest = -INFINITY;
  for (int i = lane; i < samples; i += WARP) {
    nearest = minimum(nearest, ray.depth[i]);
    farthest = maximum(farthest, ray.depth[i]);
  }
  return make_float2(gpu::warp_reduce(nearest, minimum), gpu::warp_reduce(farthest, maximum));
}

}  // namespace march
