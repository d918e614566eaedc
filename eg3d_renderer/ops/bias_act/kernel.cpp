// One pass over memory, a vector at a time. A vector that is not full goes through the same
// instructions, so that it changes no bit which thread or vector a number falls to.
#include "kernel.h"

#include "../native/simd.h"

namespace bias_act::ISA {
namespace {

constexpr int64_t LEAST = 1 << 15;  // numbers that are worth a thread

// y and its slope at v, gain and clamp apart.
template <int ACTIVATION>
INLINE Floats value(Floats v, float alpha) {
  if constexpr (ACTIVATION == RELU) return v < 0.0f ? Floats{} : v;
  if constexpr (ACTIVATION == LRELU) return v > 0.0f ? v : v * alpha;
  if constexpr (ACTIVATION == TANH) return tanh(v);
  if constexpr (ACTIVATION == SIGMOID) return sigmoid(v);
  if constexpr (ACTIVATION == ELU) return v > 0.0f ? v : expm1(v);
  if constexpr (ACTIVATION == SELU)
    return (v > 0.0f ? v : expm1(v) * SELU_ALPHA) * SELU_SCALE;
  if constexpr (ACTIVATION == SOFTPLUS) return softplus(v);
  if constexpr (ACTIVATION == SWISH) return v * sigmoid(v);
  return v;
}

template <int ACTIVATION>
INLINE Floats slope(Floats v, float alpha) {
  const Floats one = all(1.0f);
  if constexpr (ACTIVATION == RELU) return v <= 0.0f ? Floats{} : one;
  if constexpr (ACTIVATION == LRELU) return v > 0.0f ? one : all(alpha);
  if constexpr (ACTIVATION == TANH) return one - tanh(v) * tanh(v);
  if constexpr (ACTIVATION == SIGMOID) return sigmoid(v) * (one - sigmoid(v));
  if constexpr (ACTIVATION == ELU) return v > 0.0f ? one : exp(v);
  if constexpr (ACTIVATION == SELU) return (v > 0.0f ? one : exp(v) * SELU_ALPHA) * SELU_SCALE;
  if constexpr (ACTIVATION == SOFTPLUS) return sigmoid(v);
  if constexpr (ACTIVATION == SWISH) return sigmoid(v) * (one + v * (one - sigmoid(v)));
  return one;
}

// y of v = x + bias; or, with GRADIENT, dx of v and dy.
template <int ACTIVATION, bool GRADIENT>
INLINE Floats result(const Job& job, Floats v, Floats dy) {
  const Floats most = all(job.clamp), least = -most;
  Floats y = value<ACTIVATION>(v, job.alpha) * job.gain;
  if constexpr (GRADIENT) {
    if (job.clamp >= 0) dy = y >= least ? (y <= most ? dy : Floats{}) : Floats{};
    return dy * job.gain * slope<ACTIVATION>(v, job.alpha);
  }
  return job.clamp < 0 ? y : max(least, min(most, y));  // in this order, a NaN stays one
}

// Numbers [i, end) of one bias, or, with ALONG, of bias[0], bias[1], ...
template <int ACTIVATION, bool GRADIENT, bool ALONG>
INLINE void stretch(const Job& job, int64_t i, int64_t end, const float* bias) {
  const float *x = static_cast<const float*>(job.x), *dy = static_cast<const float*>(job.dy);
  float* out = static_cast<float*>(job.out);
  const Floats same = all(*bias);
  const int64_t full = end - (end - i) % LANES;
  for (; i < full; i += LANES) {
    const Floats b = ALONG ? load(bias) : same;
    store(out + i, result<ACTIVATION, GRADIENT>(job, load(x + i) + b,
                                                GRADIENT ? load(dy + i) : Floats{}));
    if (ALONG) bias += LANES;
  }
  if (const int64_t rest = end - i) {
    const Floats b = ALONG ? load_some(bias, rest) : same;
    const Floats some = GRADIENT ? load_some(dy + i, rest) : Floats{};
    store_some(out + i, result<ACTIVATION, GRADIENT>(job, load_some(x + i, rest) + b, some), rest);
  }
}

// Numbers [i, last), stretch by stretch.
template <int ACTIVATION, bool GRADIENT>
void part(const Job& job, int64_t i, int64_t last) {
  static const float nothing = -0.0f;  // adding it changes no number, not even -0
  const float* bias = static_cast<const float*>(job.bias);
  while (i < last) {
    int64_t end = last;
    if (!bias) {
      stretch<ACTIVATION, GRADIENT, false>(job, i, end, &nothing);
    } else if (job.step == 1) {
      const int64_t channel = i % job.channels;
      if (end > i + job.channels - channel) end = i + job.channels - channel;
      stretch<ACTIVATION, GRADIENT, true>(job, i, end, bias + channel);
    } else {
      const int64_t row = i / job.step;
      if (end > (row + 1) * job.step) end = (row + 1) * job.step;
      stretch<ACTIVATION, GRADIENT, false>(job, i, end, bias + row % job.channels);
    }
    i = end;
  }
}

template <int ACTIVATION>
void parts(const Job& job, int threads) {
  const int64_t worth = (job.count + LEAST - 1) / LEAST;
  if (threads > worth) threads = int(worth);
  if (threads < 1) return;
  int64_t size = (job.count + threads - 1) / threads;
  size += (LANES - size % LANES) % LANES;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int t = 0; t < threads; ++t) {
    const int64_t first = t * size, next = first + size;
    const int64_t last = next < job.count ? next : job.count;
    job.dy ? part<ACTIVATION, true>(job, first, last) : part<ACTIVATION, false>(job, first, last);
  }
}

}  // namespace

void run(const Job& job, int threads) {
  switch (job.activation) {
    case RELU: return parts<RELU>(job, threads);
    case LRELU: return parts<LRELU>(job, threads);
    case TANH: return parts<TANH>(job, threads);
    case SIGMOID: return parts<SIGMOID>(job, threads);
    case ELU: return parts<ELU>(job, threads);
    case SELU: return parts<SELU>(job, threads);
    case SOFTPLUS: return parts<SOFTPLUS>(job, threads);
    case SWISH: return parts<SWISH>(job, threads);
    default: return parts<LINEAR>(job, threads);
  }
}

}  // namespace bias_act::ISA
