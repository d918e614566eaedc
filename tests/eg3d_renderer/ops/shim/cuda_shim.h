// CUDA's language on a CPU, as far as our kernels speak it: g++ -x c++ -std=c++20 -DCUDA_SHIM.
//
// A thread is a fiber that runs until it waits for others: at a barrier, a shuffle, a vote or a
// matrix product. Between two of these no lane sees what another does, unless by luck of the order:
// kernels are run in ascending and in descending order of threads, and must not notice. Shared
// memory starts as NaN, and what is written past its end is found. A warp whose lanes wait for
// different things, or for lanes that never come, is reported and not waited for.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#define __shared__ static  // blocks run one after the other
#define __constant__ static

// Types

#define VECTOR2(name, T) \
  struct alignas(2 * sizeof(T)) name { T x, y; }; \
  inline name make_##name(T x, T y) { return {x, y}; }
#define VECTOR3(name, T) \
  struct name { T x, y, z; }; \
  inline name make_##name(T x, T y, T z) { return {x, y, z}; }
#define VECTOR4(name, T) \
  struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) name { T x, y, z, w; }; \
  inline name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }
VECTOR2(float2, float) VECTOR3(float3, float) VECTOR4(float4, float)
VECTOR2(int2, int) VECTOR3(int3, int) VECTOR4(int4, int)
VECTOR2(uint2, unsigned) VECTOR3(uint3, unsigned) VECTOR4(uint4, unsigned)
#undef VECTOR2
#undef VECTOR3
#undef VECTOR4

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline float half_to_float(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000) << 16;
  const uint32_t magnitude = bits & 0x7fff;
  if (magnitude >= 0x7c00) {  // infinite, or not a number
    return std::bit_cast<float>(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  }
  // the exponent's bias moves from 15 to 127, subnormal halves included
  const float value = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
}

inline uint16_t float_to_half(float value) {  // to nearest, ties to even
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = bits >> 16 & 0x8000;
  const float magnitude = std::fabs(value);
  if (magnitude != magnitude) return sign | 0x7fff;
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  if (magnitude < 0x1p-14f) return sign | uint16_t(std::nearbyintf(magnitude * 0x1p24f));
  const uint32_t whole = (bits & 0x7fffffff) - (112u << 23);
  return sign | uint16_t((whole + 0xfff + (whole >> 13 & 1)) >> 13);
}

struct __half {
  uint16_t bits;
  __half() = default;
  __half(float value) : bits(float_to_half(value)) {}
  operator float() const { return half_to_float(bits); }
};
using half = __half;
struct alignas(4) __half2 { __half x, y; };
using half2 = __half2;
inline float __half2float(__half h) { return h; }
inline __half __float2half(float f) { return f; }
inline __half __float2half_rn(float f) { return f; }
inline float __low2float(__half2 h) { return h.x; }
inline float __high2float(__half2 h) { return h.y; }
inline float2 __half22float2(__half2 h) { return {h.x, h.y}; }
inline __half2 __floats2half2_rn(float x, float y) { return {x, y}; }

inline float bfloat16_to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); }

inline uint16_t float_to_bfloat16(float value) {  // to nearest, ties to even
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (value != value) return 0x7fff;
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

struct __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(float value) : bits(float_to_bfloat16(value)) {}
  operator float() const { return bfloat16_to_float(bits); }
};
inline float __bfloat162float(__nv_bfloat16 b) { return b; }
inline __nv_bfloat16 __float2bfloat16(float f) { return f; }
inline __nv_bfloat16 __float2bfloat16_rn(float f) { return f; }

// Intrinsics

template <typename T> T __ldg(const T* at) { return *at; }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __saturatef(float x) { return x > 0 ? fminf(x, 1) : 0; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float cospif(float x) { return float(std::cos(M_PI * double(x))); }
inline float sinpif(float x) { return float(std::sin(M_PI * double(x))); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __ffs(int x) { return x ? std::countr_zero(unsigned(x)) + 1 : 0; }
inline int __clz(int x) { return std::countl_zero(unsigned(x)); }

// The runtime, as far as a launch asks it

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorInvalidConfiguration };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

namespace shim {

constexpr int MOST_SHARED = 99 << 10;  // bytes for a block that asks for them

inline cudaError_t last_error = cudaSuccess;  // until somebody takes it
inline std::map<const void*, size_t> allowed;  // bytes of shared memory, to kernels that asked

inline cudaError_t returned(cudaError_t status) {
  if (status != cudaSuccess) last_error = status;
  return status;
}

}  // namespace shim

inline cudaError_t cudaGetLastError() { return std::exchange(shim::last_error, cudaSuccess); }
inline const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaErrorInvalidValue ? "invalid value" : "invalid configuration";
}
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  *value = which == cudaDevAttrMultiProcessorCount ? 3 : shim::MOST_SHARED;
  return cudaSuccess;
}
inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int bytes) {
  if (bytes > shim::MOST_SHARED) return shim::returned(cudaErrorInvalidValue);
  shim::allowed[kernel] = size_t(bytes);
  return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel, int, size_t) {
  return *blocks = 1, cudaSuccess;
}

// Threads

inline dim3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

namespace shim {

inline bool descending = false;  // the order in which threads run

constexpr size_t STACK = 256 << 10;
constexpr size_t GUARD = 4096;  // bytes past the shared memory
constexpr size_t BROUGHT = 48;  // bytes that a lane brings to a meeting, at most

// Where the lanes of a mask, or the threads of a block, wait for one another.
struct Meeting {
  uint64_t held = 0;  // how often all have come
  uint32_t here = 0;  // lanes that have come this time; of a block, how many
  const char* what = nullptr;
  alignas(16) unsigned char brought[2][32][BROUGHT];  // to even and to odd meetings
};

struct Fiber {
  dim3 thread;
  int warp, lane;
  std::unique_ptr<char[]> stack{new char[STACK]};
  ucontext_t entry;
  jmp_buf at;
  bool started = false, done = false;
  const Meeting* awaits = nullptr;
  uint64_t until = 0;  // that many meetings were held

  bool can_run() const { return !done && (!awaits || awaits->held >= until); }
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<uint32_t> alive;                       // [warps], lanes that have not returned
  std::vector<Meeting> of_warp;                       // [warps], of all lanes
  std::vector<std::map<uint32_t, Meeting>> of_lanes;  // [warps], of fewer, by mask
  Meeting of_threads;
  size_t living = 0;
  std::vector<uint4> shared;
  std::function<void()> body;
  std::string error;
};

inline Block* block = nullptr;
inline Fiber* running = nullptr;
inline jmp_buf scheduler;

inline char* dynamic_shared() { return reinterpret_cast<char*>(block->shared.data()); }

// From a fiber back to the scheduler. setcontext starts a fiber; after that, jumps cost no
// system call.
inline void pause() {
  if (_setjmp(running->at) == 0) _longjmp(scheduler, 1);
}

[[noreturn]] inline void fail(const std::string& why) {
  block->error = why;
  running->done = true;
  _longjmp(scheduler, 1);
}

inline void wait(const Meeting& meeting) {
  running->awaits = &meeting;
  running->until = meeting.held + 1;
  pause();
  running->awaits = nullptr;
}

inline void adjourn(Meeting& meeting) {
  meeting.held += 1;
  meeting.here = 0;
}

// Every lane of the mask brings something; returns what all of them brought.
inline const unsigned char (*meet(uint32_t mask, const char* what, const void* value,
                                  size_t bytes))[BROUGHT] {
  const uint32_t self = 1u << running->lane;
  if (!(mask & self)) fail(std::string(what) + ": a lane is not in its own mask");
  Meeting& meeting = mask == ~0u ? block->of_warp[running->warp]
                                 : block->of_lanes[running->warp][mask];
  if (meeting.here && std::strcmp(meeting.what, what) != 0) {
    fail(std::string("lanes of a warp meet for ") + meeting.what + " and for " + what);
  }
  meeting.what = what;
  const auto brought = meeting.brought[meeting.held % 2];
  std::memcpy(brought[running->lane], value, bytes);
  meeting.here |= self;
  if (meeting.here == (mask & block->alive[running->warp])) {
    adjourn(meeting);
  } else {
    wait(meeting);
  }
  return brought;
}

inline void leave() {  // a thread's end: others no longer wait for it
  running->done = true;
  block->living -= 1;
  uint32_t& alive = block->alive[running->warp];
  alive &= ~(1u << running->lane);
  Meeting& lanes = block->of_warp[running->warp];
  if (lanes.here && lanes.here == alive) adjourn(lanes);
  for (auto& [mask, meeting] : block->of_lanes[running->warp]) {
    if (meeting.here && meeting.here == (mask & alive)) adjourn(meeting);
  }
  Meeting& threads = block->of_threads;
  if (threads.here && threads.here == block->living) adjourn(threads);
  _longjmp(scheduler, 1);
}

inline void begin() {
  block->body();
  leave();
}

inline void resume(Fiber& fiber) {
  running = &fiber;
  threadIdx = fiber.thread;
  if (_setjmp(scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.at, 1);
  fiber.started = true;
  getcontext(&fiber.entry);
  fiber.entry.uc_stack.ss_sp = fiber.stack.get();
  fiber.entry.uc_stack.ss_size = STACK;
  fiber.entry.uc_link = nullptr;
  makecontext(&fiber.entry, begin, 0);
  setcontext(&fiber.entry);
}

inline std::string stuck() {
  std::map<std::string, int> waiting;
  for (const Fiber& fiber : block->fibers) {
    if (!fiber.done) waiting[fiber.awaits->what] += 1;
  }
  std::string report = "deadlock in block " + std::to_string(blockIdx.x) + ":";
  for (const auto& [what, count] : waiting) {
    report += " " + std::to_string(count) + " threads at " + what + ";";
  }
  return report;
}

inline void run_block() {
  const size_t threads = block->fibers.size();
  const size_t warps = (threads + 31) / 32;
  block->of_warp.assign(warps, {});
  block->of_lanes.assign(warps, {});
  block->alive.assign(warps, 0);
  block->of_threads = {};
  block->living = threads;
  std::fill(block->shared.begin(), block->shared.end(), uint4{~0u, ~0u, ~0u, ~0u});
  for (Fiber& fiber : block->fibers) {
    block->alive[fiber.warp] |= 1u << fiber.lane;
    fiber.started = fiber.done = false;
    fiber.awaits = nullptr;
  }
  while (block->living) {
    bool moved = false;
    for (size_t i = 0; i < threads; ++i) {
      Fiber& fiber = block->fibers[descending ? threads - 1 - i : i];
      if (!fiber.can_run()) continue;
      moved = true;
      resume(fiber);
      if (!block->error.empty()) throw std::runtime_error(block->error);
    }
    if (!moved) throw std::runtime_error(stuck());
  }
  const char* memory = dynamic_shared();
  const size_t bytes = block->shared.size() * sizeof(uint4);
  for (size_t i = bytes - GUARD; i < bytes; ++i) {
    if (memory[i] != char(0xff)) throw std::runtime_error("written past the shared memory");
  }
}

inline void launch(const void* kernel, dim3 grid, dim3 threads, size_t shared,
                   std::function<void()> body) {
  const size_t count = size_t(threads.x) * threads.y * threads.z;
  const size_t most = allowed.count(kernel) ? allowed[kernel] : 48 << 10;
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || count < 1 || count > 1024 || shared > most) {
    returned(cudaErrorInvalidConfiguration);
    return;
  }
  Block state;
  state.body = std::move(body);
  state.shared.resize((shared + GUARD + 15) / 16);
  state.fibers = std::vector<Fiber>(count);
  for (size_t i = 0; i < state.fibers.size(); ++i) {
    const unsigned n = unsigned(i);
    state.fibers[i].thread = {n % threads.x, n / threads.x % threads.y, n / threads.x / threads.y};
    state.fibers[i].warp = int(i / 32);
    state.fibers[i].lane = int(i % 32);
  }
  block = &state;
  gridDim = grid;
  blockDim = threads;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        run_block();
      }
    }
  }
}

template <typename T>
T take(const unsigned char (*brought)[BROUGHT], uint32_t mask, int lane) {
  if (!(mask >> lane & 1)) fail("a shuffle reads a lane that does not take part");
  T value;
  std::memcpy(&value, brought[lane], sizeof value);
  return value;
}

template <typename T>
T shuffle(uint32_t mask, const char* what, T value, int from, int width) {
  const auto brought = meet(mask, what, &value, sizeof value);
  const int first = running->lane / width * width;
  return from < first || from >= first + width ? value : take<T>(brought, mask, from);
}

inline void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  float mine[12];  // a's four pairs, b's two
  const uint32_t registers[6] = {a[0], a[1], a[2], a[3], b0, b1};
  for (int i = 0; i < 6; ++i) {
    mine[2 * i] = half_to_float(registers[i] & 0xffff);
    mine[2 * i + 1] = half_to_float(registers[i] >> 16);
  }
  const auto brought = meet(0xffffffffu, "mma", mine, sizeof mine);
  const int g = running->lane / 4, t = running->lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int upper = i / 2;                // row g + 8
    const int column = 2 * t + i % 2;
    for (int k = 0; k < 16; ++k) {
      const int owner = k % 8 / 2, later = k / 8, odd = k % 2;
      float left, right;
      std::memcpy(&left, brought[4 * g + owner] + 4 * (2 * (2 * later + upper) + odd), 4);
      std::memcpy(&right, brought[4 * column + owner] + 4 * (2 * (4 + later) + odd), 4);
      c[i] += left * right;
    }
  }
}

}  // namespace shim

inline void __syncthreads() {
  shim::Meeting& meeting = shim::block->of_threads;
  meeting.here += 1;
  if (meeting.here == shim::block->living) {
    shim::adjourn(meeting);
  } else {
    meeting.what = "__syncthreads";
    shim::wait(meeting);
  }
}

inline void __syncwarp(unsigned mask = 0xffffffffu) { shim::meet(mask, "__syncwarp", "", 0); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
  const int first = shim::running->lane / width * width;
  return shim::shuffle(mask, "__shfl_sync", value, first + (from & (width - 1)), width);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
  return shim::shuffle(mask, "__shfl_up_sync", value, shim::running->lane - int(by), width);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
  return shim::shuffle(mask, "__shfl_down_sync", value, shim::running->lane + int(by), width);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int by, int width = 32) {
  return shim::shuffle(mask, "__shfl_xor_sync", value, shim::running->lane ^ by, width);
}

inline unsigned __ballot_sync(unsigned mask, bool vote) {
  const auto brought = shim::meet(mask, "__ballot_sync", &vote, sizeof vote);
  unsigned votes = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1) votes |= unsigned(shim::take<bool>(brought, mask, lane)) << lane;
  }
  return votes;
}

inline bool __any_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) != 0; }
inline bool __all_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) == mask; }
