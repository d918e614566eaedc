// One pass over memory on a GPU: a thread takes 16 bytes. Arithmetic is in float for any type.
#include "kernel.h"

#include "../native/cuda.h"

namespace bias_act {
namespace {

constexpr int THREADS = 256;

template <typename T>
struct alignas(16) Pack {
  static constexpr int SIZE = 16 / sizeof(T);
  T values[SIZE];
};

// y and its slope at v, gain and clamp apart.
template <int ACTIVATION>
DEVICE float value(float v, float alpha) {
  if constexpr (ACTIVATION == RELU) return v < 0 ? 0 : v;
  if constexpr (ACTIVATION == LRELU) return v > 0 ? v : v * alpha;
  if constexpr (ACTIVATION == TANH) return tanhf(v);
  if constexpr (ACTIVATION == SIGMOID) return 1 / (1 + expf(-v));
  if constexpr (ACTIVATION == ELU) return v > 0 ? v : expm1f(v);
  if constexpr (ACTIVATION == SELU) return (v > 0 ? v : expm1f(v) * SELU_ALPHA) * SELU_SCALE;
  if constexpr (ACTIVATION == SOFTPLUS) return v > 20 ? v : log1pf(expf(v));
  if constexpr (ACTIVATION == SWISH) return v * value<SIGMOID>(v, alpha);
  return v;
}

template <int ACTIVATION>
DEVICE float slope(float v, float alpha) {
  const float y = value<ACTIVATION == TANH ? TANH : SIGMOID>(v, alpha);
  if constexpr (ACTIVATION == RELU) return v <= 0 ? 0 : 1;
  if constexpr (ACTIVATION == LRELU) return v > 0 ? 1 : alpha;
  if constexpr (ACTIVATION == TANH) return 1 - y * y;
  if constexpr (ACTIVATION == SIGMOID) return y * (1 - y);
  if constexpr (ACTIVATION == ELU) return v > 0 ? 1 : expf(v);
  if constexpr (ACTIVATION == SELU) return (v > 0 ? 1 : expf(v) * SELU_ALPHA) * SELU_SCALE;
  if constexpr (ACTIVATION == SOFTPLUS) return y;
  if constexpr (ACTIVATION == SWISH) return y * (1 + v * (1 - y));
  return 1;
}

// y of v = x + bias; or, with GRADIENT, dx of v and dy.
template <int ACTIVATION, bool GRADIENT>
DEVICE float result(const Job& job, float v, float dy) {
  const float y = value<ACTIVATION>(v, job.alpha) * job.gain;
  if constexpr (GRADIENT) {
    const bool passes = job.clamp < 0 || (y >= -job.clamp && y <= job.clamp);
    return (passes ? dy : 0) * job.gain * slope<ACTIVATION>(v, job.alpha);
  }
  if (job.clamp < 0) return y;
  return y > job.clamp ? job.clamp : y < -job.clamp ? -job.clamp : y;  // a NaN stays one
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
  const bool one_bias = job.step % SIZE == 0;
  float b = bias && one_bias ? float(bias[channel_of(job, i)]) : -0.0f;
  Pack<T> made;
#pragma unroll
  for (int k = 0; k < SIZE; ++k) {
    if (bias && !one_bias && k < count) b = float(bias[channel_of(job, i + k)]);
    const float v = float(x.values[k]) + b;
    made.values[k] = T(result<ACTIVATION, GRADIENT>(job, v, float(dy.values[k])));
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
  LAUNCH(kernel, blocks, THREADS, 0, stream, job, aligned);
}

template <typename T>
void run(const Job& job, cudaStream_t stream) {
  switch (job.activation) {
    case RELU: return start<T, RELU>(job, stream);
    case LRELU: return start<T, LRELU>(job, stream);
    case TANH: return start<T, TANH>(job, stream);
    case SIGMOID: return start<T, SIGMOID>(job, stream);
    case ELU: return start<T, ELU>(job, stream);
    case SELU: return start<T, SELU>(job, stream);
    case SOFTPLUS: return start<T, SOFTPLUS>(job, stream);
    case SWISH: return start<T, SWISH>(job, stream);
    default: return start<T, LINEAR>(job, stream);
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
