"""What stands for a GPU in `test_cuda_logic.py` reports what a GPU would not."""

import subprocess
from pathlib import Path

from tests.eg3d_renderer.ops.shim.compiling import compile_for_cpu

FAULTY = """
#include "native/cuda.h"
__global__ void diverges(int*) {
  if (threadIdx.x < 16) __syncwarp(); else __shfl_xor_sync(~0u, 1, 1);
}
__global__ void locks(int*) {
  if (threadIdx.x < 16) __syncthreads(); else __syncwarp();
}
__global__ void reads_a_stranger(int*) {
  if (threadIdx.x < 16) __shfl_xor_sync(0xffffu, 1, 16);
}
__global__ void overflows(int*) { gpu::dynamic_shared()[128 + threadIdx.x] = 1; }
template <bool SYNCHRONISED>
__global__ void reverses(int* right) {
  int* shared = reinterpret_cast<int*>(gpu::dynamic_shared());
  const int lane = threadIdx.x;
  shared[lane] = lane;
  if (SYNCHRONISED) __syncwarp();
  *right += shared[31 - lane] == 31 - lane;
}
int main() {
  for (auto kernel : {diverges, locks, reads_a_stranger, overflows, reverses<false>,
                      reverses<true>}) {
    int right = 0;
    try {
      gpu::launch("kernel", kernel, 1, 32, 128, nullptr, &right);
      std::printf("%d\\n", right);
    } catch (const std::exception& error) {
      std::puts(error.what());
    }
  }
}
"""


def test_the_shim_reports_what_a_gpu_would_not(tmp_path: Path) -> None:
    source, program = tmp_path / "faulty.cu", tmp_path / "faulty"
    source.write_text(FAULTY)
    compile_for_cpu(source, program)
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "lanes of a warp meet for __syncwarp and for __shfl_xor_sync",
        "deadlock in block 0: 16 threads at __syncthreads; 16 threads at __syncwarp;",
        "a shuffle reads a lane that does not take part",
        "written past the shared memory",
        "16",
        "32",
    ]


LAUNCHES = """
#include "native/cuda.h"
__global__ void does_nothing(int*) {}
template <typename Try>
void tell(Try what) {
  try {
    what();
    std::puts("ran");
  } catch (const std::exception& error) {
    std::puts(error.what());
  }
}
int main() {
  const auto run = [](unsigned grid, int shared) {
    return [=] { gpu::launch("nothing", does_nothing, grid, 32, shared, nullptr, (int*)0); };
  };
  tell(run(0, 0));
  tell(run(1, 64 << 10));
  tell([] { gpu::allow_shared(does_nothing, 1 << 20); });
  tell(run(1, 0));
  tell([] { gpu::allow_shared(does_nothing, 64 << 10); });
  tell(run(1, 64 << 10));
}
"""


def test_a_failure_is_told_once(tmp_path: Path) -> None:
    source, program = tmp_path / "launches.cu", tmp_path / "launches"
    source.write_text(LAUNCHES)
    compile_for_cpu(source, program)
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "nothing: invalid configuration",
        "nothing: invalid configuration",
        "1048576 bytes of shared memory: invalid value",
        "ran",
        "ran",
        "ran",
    ]
