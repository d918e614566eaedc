// Which of its kernels a processor runs. For bindings alone: it may use the standard library.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include <string>

namespace native {

enum Isa { PORTABLE, AVX2, AVX512, AVX512BF16 };

// The best instruction set of this processor, of those that kernels are compiled for.
inline Isa best_isa() {
#ifdef __x86_64__
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512) return __builtin_cpu_supports("avx512bf16") ? AVX512BF16 : AVX512;
  if (avx2) return AVX2;
#endif
  return PORTABLE;
}

// The one of this name, "" the best. Throws for a name that is none, or not of this processor.
inline Isa choose_isa(const std::string& name) {
  static const Isa best = best_isa();
  if (name.empty()) return best;
  const char* names[] = {"portable", "avx2", "avx512", "avx512bf16"};
  for (int isa = PORTABLE; isa <= best; ++isa)
    if (name == names[isa]) return Isa(isa);
  STD_TORCH_CHECK(false, "this processor does not run kernels for ", name);
}

}  // namespace native
