// What the CUDA kernels share: launching, errors, warps and one matrix product.
//
// With -DCUDA_SHIM, a kernel.cu is plain C++ that a CPU runs thread by thread: cuda_shim.h, which
// only the tests have, stands in for CUDA's headers. What the two do differently is all here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

#ifdef CUDA_SHIM
#include "cuda_shim.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#define DEVICE __device__ __forceinline__

namespace gpu {

constexpr int WARP = 32;
constexpr unsigned ALL = 0xffffffffu;  // lanes

// On the host

inline void check(cudaError_t status, const std::string& what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // else the next launch would find this error, and take it for its own
  throw std::runtime_error(what + ": " + cudaGetErrorString(status));
}

inline int attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

// More than 48 KiB of dynamic shared memory has to be asked for, once per kernel and device.
template <typename... Parameters>
void allow_shared(void (*kernel)(Parameters...), size_t bytes) {
  const void* function = reinterpret_cast<const void*>(kernel);
  check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
        std::to_string(bytes) + " bytes of shared memory");
}

// As many blocks as the device runs at once.
template <typename... Parameters>
int blocks_at_once(void (*kernel)(Parameters...), int threads, size_t shared) {
  int blocks = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared),
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  return blocks * attribute(cudaDevAttrMultiProcessorCount);
}

// Runs a kernel, or throws and says why, under `name`. Waits for nothing: what goes wrong while it
// runs is told by whatever asks the device next.
template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
            [[maybe_unused]] cudaStream_t stream, Arguments... arguments) {
#ifdef CUDA_SHIM
  shim::launch(reinterpret_cast<const void*>(kernel), grid, block, shared,
               [&] { kernel(arguments...); });
#else
  kernel<<<grid, block, shared, stream>>>(arguments...);
#endif
  check(cudaGetLastError(), name);
}

// On the device

// The block's dynamic shared memory, aligned for 16-byte loads.
DEVICE char* dynamic_shared() {
#ifdef CUDA_SHIM
  return shim::dynamic_shared();
#else
  extern __shared__ uint4 memory[];
  return reinterpret_cast<char*>(memory);
#endif
}

// x combined over all lanes, to all lanes.
template <typename T, typename Combine>
DEVICE T warp_reduce(T x, Combine combine) {
#pragma unroll
  for (int step = WARP / 2; step > 0; step /= 2) x = combine(x, __shfl_xor_sync(ALL, x, step));
  return x;
}

DEVICE float warp_sum(float x) {
  return warp_reduce(x, [](float a, float b) { return a + b; });
}

// x combined over the lanes up to and with one's own.
template <typename T, typename Combine>
DEVICE T warp_scan(T x, int lane, Combine combine) {
#pragma unroll
  for (int step = 1; step < WARP; step *= 2) {
    const T before = __shfl_up_sync(ALL, x, step);
    if (lane >= step) x = combine(before, x);
  }
  return x;
}

// Two floats to two halves in a register, and back; the first in the low bits.
DEVICE uint32_t pack(float low, float high) {
  const __half2 halves = __floats2half2_rn(low, high);
  uint32_t pair;
  memcpy(&pair, &halves, sizeof pair);
  return pair;
}

DEVICE float2 unpack(uint32_t pair) {
  __half2 halves;
  memcpy(&halves, &pair, sizeof pair);
  return __half22float2(halves);
}

// c [16, 8] += a [16, 16] b [16, 8], halves accumulated in float, by a whole warp. Of lane
// 4 * g + t, each register of halves a pair along k:
//   a: rows g and g + 8 at k = 2t; rows g and g + 8 at k = 2t + 8
//   b: column g at k = 2t; column g at k = 2t + 8
//   c: row g, columns 2t and 2t + 1; row g + 8, the same columns
DEVICE void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(CUDA_SHIM)
  shim::mma_m16n8k16(c, a, b0, b1);
#elif __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else  // Turing: half of k at a time
  const uint32_t halves[2][3] = {{a[0], a[1], b0}, {a[2], a[3], b1}};
#pragma unroll
  for (const auto& half : halves) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(half[0]), "r"(half[1]), "r"(half[2]));
  }
#endif
}

}  // namespace gpu
