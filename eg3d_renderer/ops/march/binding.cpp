// march, for torch on a CPU, over its stable ABI. The processor's best kernel is taken.
#include <torch/csrc/stable/library.h>

#include <string>

#include "../native/isa.h"
#include "arguments.h"

namespace march {

using Render = void(const Scene&, const Rays&, const Seen&, int threads);

namespace portable {
Render render;
}
#ifdef __x86_64__
namespace avx2 {
Render render;
}
namespace avx512 {
Render render;
}
#endif

namespace {

// The kernel of an instruction set by its name; without one, the processor's best.
Render* kernel_for(const std::string& isa) {
  switch (native::choose_isa(isa)) {
#ifdef __x86_64__
    case native::AVX512BF16:
    case native::AVX512:
      return avx512::render;
    case native::AVX2:
      return avx2::render;
#endif
    default:
      return portable::render;
  }
}

void run(const Scene& scene, const Rays& rays, const Seen& seen, const Launch& launch) {
  STD_TORCH_CHECK(!scene.weight1, "march: on a CPU texels are premixed, and have no weight1");
  kernel_for(launch.isa)(scene, rays, seen, launch.threads > 0 ? int(launch.threads) : 1);
}

}  // namespace
}  // namespace march

STABLE_TORCH_LIBRARY_IMPL(diffstyle360, CPU, m) {
  m.impl("march", TORCH_BOX(&march::march<march::run>));
}
