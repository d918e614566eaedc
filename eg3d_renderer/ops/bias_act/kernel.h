// What the kernels are told, on a CPU and on a GPU.
#pragma once

#include <cstdint>

namespace bias_act {

// In the order of ACTIVATIONS in reference.py.
enum Activation : int { LINEAR, RELU, LRELU, TANH, SIGMOID, ELU, SELU, SOFTPLUS, SWISH };

constexpr float SELU_ALPHA = 1.6732632423543772f;
constexpr float SELU_SCALE = 1.0507009873554805f;

// The numbers of a tensor in the order of its memory: number i has bias[i / step % channels].
struct Job {
  int64_t count;
  int64_t step, channels;
  const void* x;     // [count]
  const void* bias;  // [channels], or null for none
  const void* dy;    // [count], or null. Given: `out` is the gradient by x, else y
  void* out;         // [count]
  int activation;
  float alpha;       // the slope of LRELU below 0
  float gain;
  float clamp;       // of what the gain made; below 0: none
};

// `threads` at most; floats only.
namespace portable { void run(const Job& job, int threads); }
namespace avx2 { void run(const Job& job, int threads); }
namespace avx512 { void run(const Job& job, int threads); }

}  // namespace bias_act
