// The op for torch on a CPU, over its stable ABI. The processor's best kernels are taken.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <string>

#include "../native/isa.h"
#include "kernel.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Run = void (*)(const bias_act::Job&, int);

// The kernels of an instruction set by its name; without one, the processor's best.
Run kernels_for(const std::string& isa) {
  switch (native::choose_isa(isa)) {
#ifdef __x86_64__
    case native::AVX512BF16:
    case native::AVX512:
      return bias_act::avx512::run;
    case native::AVX2:
      return bias_act::avx2::run;
#endif
    default:
      return bias_act::portable::run;
  }
}

void run(Tensor out, Tensor x, std::optional<Tensor> bias, std::optional<Tensor> dy, int64_t step,
         int64_t activation, double alpha, double gain, double clamp, int64_t threads,
         std::string isa) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float && out.scalar_type() == ScalarType::Float);
  STD_TORCH_CHECK(out.numel() == x.numel() && (!dy || dy->numel() == x.numel()));
  bias_act::Job job = {};
  job.count = x.numel(), job.step = step, job.channels = bias ? bias->numel() : 1;
  job.x = x.data_ptr(), job.bias = bias ? bias->data_ptr() : nullptr;
  job.dy = dy ? dy->data_ptr() : nullptr, job.out = out.data_ptr();
  job.activation = int(activation), job.alpha = float(alpha);
  job.gain = float(gain), job.clamp = float(clamp);
  kernels_for(isa)(job, int(threads));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffstyle360, CPU, m) { m.impl("bias_act", TORCH_BOX(&run)); }
