// One pass over memory on a GPU: a thread takes 16 bytes. Arithmetic is in float for any type.
#include "kernel.h"

#include "../native/cuda.h"

namespace bias_act {
namespace {

constexpr int THREADS = 256;
constexpr int ANY = -1;  // activation but the two that a generator is full of: told at run time

template <typename T>
struct alignas(16) Pack {
  static constexpr int SIZE = 16 / sizeof(T);
  T values[SIZE];
};

// y and its slope at v, gain and clamp apart. Inlined for an activation that the compiler knows,
// the switch leaves one case.
DEVICE float value(int activation, float v, float alpha) {
  switch (activation) {
    case RELU: return v < 0 ? 0 : v;
    case LRELU: return v > 0 ? v : v * alpha;
    case TANH: return tanhf(v);
    case SIGMOID: return 1 / (1 + expf(-v));
    case ELU: return v > 0 ? v : expm1f(v);
    case SELU: return (v > 0 ? v : expm1f(v) * SELU_ALPHA) * SELU_SCALE;
    case SOFTPLUS: return v > 20 ? v : log1pf(expf(v));
    case SWISH: return v / (1 + expf(-v));
    default: return v;
  }
}

DEVICE float slope(int activation, float v, float alpha) {
  switch (activation) {
    case RELU: return v <= 0 ? 0 : 1;
    case LRELU: return v > 0 ? 1 : alpha;
    case TANH: {
      const float y = tanhf(v);
      return 1 - y * y;
    }
    case ELU: return v > 0 ? 1 : expf(v);
    case SELU: return (v > 0 ? 1 : expf(v) * SELU_ALPHA) * SELU_SCALE;
    case SIGMOID:
    case SOFTPLUS:
    case SWISH: {
      const float y = 1 / (1 + expf(-v));
      if (activation == SOFTPLUS) return y;
      return activation == SIGMOID ? y * (1 - y) : y * (1 + v * (1 - y));
    }
    default: return 1;
  }
}

// What of a job a number is computed by.
struct Curve {
  int activation;
  float alpha, gain, clamp;
};

// y of v = x + bias; or, with GRADIENT, dx of v and dy.
template <bool GRADIENT>
DEVICE float result(Curve curve, float v, float dy) {
  const float y = value(curve.activation, v, curve.alpha) * curve.gain;
  if constexpr (GRADIENT) {
    const bool passes = curve.clamp < 0 || (y >= -curve.clamp && y <= curve.clamp);
    return (passes ? dy : 0) * curve.gain * slope(curve.activation, v, curve.alpha);
  }
  if (curve.clamp < 0) return y;
  return y > curve.clamp ? curve.clamp : y < -curve.clamp ? -curve.clamp : y;  // NaN stays NaN
}

// The same of an activation that is told at run time, as a call. Kernels for each of the nine took
// 26 s to compile for two architectures, inlined switches 16 s; calls take 11, torch's headers 6.
template <bool GRADIENT>
__device__ __noinline__ float result_of_any(Curve curve, float v, float dy) {
  return result<GRADIENT>(curve, v, dy);
}

DEVICE uint32_t channel_of(const Job& job, int64_t i) {
  if (job.count > UINT32_MAX) return uint32_t(i / job.step % job.channels);
  return uint32_t(i) / uint32_t(job.step) % uint32_t(job.channels);  // several times faster
}

template <typename T>
DEVICE Pack<T> load(const void* from, int64_t i, int count, bool aligned) {
  const T* numbers = static_cast<const T*>(from) + i;
  if (aligned && count == Pack<T>::SIZE) return *reinterpret_cast<const Pack<T>*>(numbers);
  Pack<T> pack = {};
#pragma unroll
  for (int k = 0; k < Pack<T>::SIZE; ++k) {
    if (k < count) pack.values[k] = numbers[k];
  }
  return pack;
}

template <typename T, int ACTIVATION, bool GRADIENT>
__global__ void __launch_bounds__(THREADS) one_pack(Job job, bool aligned) {
  constexpr int SIZE = Pack<T>::SIZE;
  const int64_t i = (int64_t(blockIdx.x) * THREADS + threadIdx.x) * SIZE;
  if (i >= job.count) return;
  const int count = job.count - i < SIZE ? int(job.count - i) : SIZE;
  const Pack<T> x = load<T>(job.x, i, count, aligned);
  const Pack<T> dy = GRADIENT ? load<T>(job.dy, i, count, aligned) : Pack<T>{};
  const T* bias = static_cast<const T*>(job.bias);
  const Curve curve = {ACTIVATION == ANY ? job.activation : ACTIVATION, job.alpha, job.gain,
                       job.clamp};
  const bool one_bias = job.step % SIZE == 0;
  float b = bias && one_bias ? float(bias[channel_of(job, i)]) : -0.0f;
  Pack<T> made;
#pragma unroll
  for (int k = 0; k < SIZE; ++k) {
    if (bias && !one_bias && k < count) b = float(bias[channel_of(job, i + k)]);
    const float v = float(x.values[k]) + b;
    const float d = float(dy.values[k]);
    made.values[k] = T(ACTIVATION == ANY ? result_of_any<GRADIENT>(curve, v, d)
                                         : result<GRADIENT>(curve, v, d));
  }
  T* out = static_cast<T*>(job.out) + i;
  if (aligned && count == SIZE) {
    *reinterpret_cast<Pack<T>*>(out) = made;
    return;
  }
#pragma unroll
  for (int k = 0; k < SIZE; ++k) {
    if (k < count) out[k] = made.values[k];
  }
}

template <typename T, int ACTIVATION>
void start(const Job& job, cudaStream_t stream) {
  const int64_t packs = (job.count + Pack<T>::SIZE - 1) / Pack<T>::SIZE;
  const unsigned blocks = unsigned((packs + THREADS - 1) / THREADS);
  if (blocks == 0) return;
  bool aligned = true;
  for (const void* pointer : {job.x, job.dy, static_cast<const void*>(job.out)})
    aligned = aligned && reinterpret_cast<uintptr_t>(pointer) % sizeof(Pack<T>) == 0;
  const auto kernel = job.dy ? one_pack<T, ACTIVATION, true> : one_pack<T, ACTIVATION, false>;
  gpu::launch("bias_act", kernel, blocks, THREADS, 0, stream, job, aligned);
}

template <typename T>
void run(const Job& job, cudaStream_t stream) {
  switch (job.activation) {
    case LINEAR: return start<T, LINEAR>(job, stream);
    case LRELU: return start<T, LRELU>(job, stream);
    default: return start<T, ANY>(job, stream);
  }
}

}  // namespace
}  // namespace bias_act

#ifdef CUDA_SHIM

extern "C" void bias_act_run(const bias_act::Job* job, int bytes) {
  bytes == 2 ? bias_act::run<__half>(*job, nullptr) : bias_act::run<float>(*job, nullptr);
}

#else

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

void run(Tensor out, Tensor x, std::optional<Tensor> bias, std::optional<Tensor> dy, int64_t step,
         int64_t activation, double alpha, double gain, double clamp, int64_t stream, std::string) {
  STD_TORCH_CHECK(out.numel() == x.numel() && (!dy || dy->numel() == x.numel()));
  STD_TORCH_CHECK(out.scalar_type() == x.scalar_type());
  STD_TORCH_CHECK(!bias || bias->scalar_type() == x.scalar_type());
  STD_TORCH_CHECK(!dy || dy->scalar_type() == x.scalar_type());
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  bias_act::Job job = {};
  job.count = x.numel(), job.step = step, job.channels = bias ? bias->numel() : 1;
  job.x = x.data_ptr(), job.bias = bias ? bias->data_ptr() : nullptr;
  job.dy = dy ? dy->data_ptr() : nullptr, job.out = out.data_ptr();
  job.activation = int(activation), job.alpha = float(alpha);
  job.gain = float(gain), job.clamp = float(clamp);
  const auto on = reinterpret_cast<cudaStream_t>(stream);
  switch (x.scalar_type()) {
    case ScalarType::Float: return bias_act::run<float>(job, on);
    case ScalarType::Half: return bias_act::run<__half>(job, on);
    case ScalarType::BFloat16: return bias_act::run<__nv_bfloat16>(job, on);
    default: STD_TORCH_CHECK(false, "bias_act: no kernel for this type");
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffstyle360, CUDA, m) { m.impl("bias_act", TORCH_BOX(&run)); }

#endif
