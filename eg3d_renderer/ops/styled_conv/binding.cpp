// The ops of kernel.h for torch, over its stable ABI. The processor's best kernels are taken.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cmath>
#include <optional>
#include <string>

#include "../native/isa.h"
#include "kernel.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The kernels of an instruction set by its name; without one, the processor's best.
const styled_conv::Kernels& kernels_for(const std::string& isa) {
  switch (native::choose_isa(isa)) {
#ifdef __x86_64__
    case native::AVX512BF16:
      return styled_conv::avx512bf16::kernels;
    case native::AVX512:
      return styled_conv::avx512::kernels;
    case native::AVX2:
      return styled_conv::avx2::kernels;
#endif
    default:
      return styled_conv::portable::kernels;
  }
}

const float* floats(const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float && tensor.is_contiguous());
  return static_cast<const float*>(tensor.data_ptr());
}

bool is_half(const Tensor& tensor) {
  const bool half = tensor.scalar_type() == ScalarType::BFloat16;
  STD_TORCH_CHECK(half || tensor.scalar_type() == ScalarType::Float);
  STD_TORCH_CHECK(tensor.is_contiguous());
  return half;
}

// New memory in pages of 2 MiB: the kernel clears a 128 MiB output faster than in pages of 4 KiB.
void ask_for_huge_pages(const Tensor& tensor) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t page = 2 << 20;
  const uintptr_t start = reinterpret_cast<uintptr_t>(tensor.data_ptr());
  const uintptr_t first = (start + page - 1) / page * page;
  const uintptr_t end = (start + tensor.numel() * tensor.element_size()) / page * page;
  if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

// weights [N, O, I, 3, 3] -> [N, what kernels of this instruction set take for one image].
Tensor prepare(Tensor weights, Tensor filter, int64_t up, bool fast, int64_t threads,
               std::string isa) {
  const auto& kernels = kernels_for(isa);
  const bool half = fast && kernels.half;
  const styled_conv::Layer layer = {weights.size(2), weights.size(1), int(up), half};
  const int64_t images = weights.size(0);
  Tensor packed = torch::stable::new_empty(weights, {images, kernels.packed_size(layer)},
                                           half ? ScalarType::BFloat16 : ScalarType::Float);
  kernels.prepare(
      {layer, images, floats(weights), floats(filter), packed.data_ptr(), int(threads)});
  return packed;
}

// x [N, H, W, I] -> out [N, H * up, W * up, O]; `packed` of prepare, for the same instruction set.
void run(Tensor x, Tensor packed, Tensor bias, std::optional<Tensor> noise, int64_t up,
         std::optional<double> clamp, Tensor out, int64_t threads, std::string isa) {
  const auto& kernels = kernels_for(isa);
  styled_conv::Job job = {};
  job.layer = {x.size(3), out.size(3), int(up), is_half(packed)};
  job.images = x.size(0), job.height = x.size(1), job.width = x.size(2);
  job.x = x.data_ptr(), job.x_half = is_half(x);
  job.packed = packed.data_ptr(), job.packed_images = packed.size(0);
  job.bias = floats(bias), job.noise = noise ? floats(*noise) : nullptr;
  job.clamp = clamp ? float(*clamp) : INFINITY;
  job.out = out.data_ptr(), job.out_half = is_half(out);
  job.threads = int(threads);
  ask_for_huge_pages(out);
  STD_TORCH_CHECK(job.layer.half ? kernels.half : !job.x_half && !job.out_half);
  STD_TORCH_CHECK(packed.size(1) == kernels.packed_size(job.layer));
  const int64_t bytes = threads * kernels.scratch_size(job);
  Tensor scratch = torch::stable::new_empty(x, {bytes}, ScalarType::Byte);
  job.scratch = static_cast<char*>(scratch.data_ptr());
  kernels.run(job);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffstyle360, CPU, m) {
  m.impl("styled_conv_prepare", TORCH_BOX(&prepare));
  m.impl("styled_conv", TORCH_BOX(&run));
}
