// The op for torch on a CPU, over its stable ABI. The processor's best kernels are taken.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <string>
#include <vector>

#include "../native/isa.h"
#include "kernel.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using upfirdn2d::Axis;
using upfirdn2d::Taps;
using Run = void (*)(const upfirdn2d::Job&, const Taps*, const Taps*, int);

// The kernels of an instruction set by its name; without one, the processor's best.
Run kernels_for(const std::string& isa) {
  switch (native::choose_isa(isa)) {
#ifdef __x86_64__
    case native::AVX512BF16:
    case native::AVX512:
      return upfirdn2d::avx512::run;
    case native::AVX2:
      return upfirdn2d::avx2::run;
#endif
    default:
      return upfirdn2d::portable::run;
  }
}

std::vector<Taps> table_of(const Axis& axis) {
  std::vector<Taps> taps;
  for (int64_t i = 0; i < axis.out; ++i) taps.push_back(upfirdn2d::taps_of(axis, i));
  return taps;
}

// out and image [N, C, H, W], both contiguous or both channels last; filter [fh, fw].
void run(Tensor out, Tensor image, Tensor filter, bool channels_last, int64_t up_x, int64_t up_y,
         int64_t down_x, int64_t down_y, int64_t left, int64_t top, int64_t threads,
         std::string isa) {
  for (const Tensor& tensor : {out, image, filter})
    STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float);
  STD_TORCH_CHECK(image.size(0) == out.size(0) && image.size(1) == out.size(1));
  const int64_t channels = channels_last ? image.size(1) : 1;
  const int64_t planes = channels_last ? image.size(0) : image.size(0) * image.size(1);
  const Axis x = {image.size(3), out.size(3), int(up_x), int(down_x), int(left),
                  int(filter.size(1))};
  const Axis y = {image.size(2), out.size(2), int(up_y), int(down_y), int(top),
                  int(filter.size(0))};
  const auto columns = table_of(x), rows = table_of(y);
  const float* taps = static_cast<const float*>(filter.data_ptr());
  kernels_for(isa)({planes, channels, x, y, image.data_ptr(), taps, out.data_ptr()},
                   columns.data(), rows.data(), int(threads));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffstyle360, CPU, m) { m.impl("upfirdn2d", TORCH_BOX(&run)); }
