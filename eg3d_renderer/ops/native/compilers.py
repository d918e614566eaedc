"""The compilers of this machine, and the flags that they are given."""

import os
import platform
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from eg3d_renderer.errors import RendererError

TORCH = Path(torch.__file__).parent
STABLE_ABI = "0x020a000000000000"  # of torch 2.10: a library works with that release and later ones

OLDEST_GPU = 75  # that the kernels, and CUDA 13, know

# what a CPU kernel is compiled for; the processor chooses among them at run time
X86_ISAS = {
    "portable": ["-march=x86-64"],
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "avx512bf16": ["-march=x86-64-v4", "-mprefer-vector-width=512", "-mavx512bf16"],
}
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
ISAS = X86_ISAS if IS_X86 else {"portable": []}

KERNEL_FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math"]  # a NaN stays a NaN
OPENMP_FLAGS = [] if platform.system() == "Darwin" else ["-fopenmp"]
BINDING_FLAGS = ["-O2", f"-DTORCH_TARGET_VERSION={STABLE_ABI}", "-isystem", "$torch/include"]
TORCH_LIBRARIES = ["-L$torch/lib", "-ltorch_cpu", "-ltorch", "-lc10"]  # $torch: ninja knows it


class Compiler(NamedTuple):
    path: str
    version: str  # the line that it prints of itself


def cpp_compiler() -> Compiler:
    """$CXX, or the machine's usual. Raises RendererError where there is none."""
    named = os.environ.get("CXX")
    for name in [named] if named else ["c++", "g++", "clang++"]:
        if path := shutil.which(name):
            return Compiler(path, _version(path, 0))
    raise RendererError(
        f"CXX={named}: no such program" if named
        else "no C++ compiler; install one ('apt install g++', version 11 or newer)"
    )  # fmt: skip


def cuda_compiler() -> Compiler:
    """The nvcc of $CUDA_HOME, of the path, or of /usr/local/cuda.

    Raises RendererError for none, and for one whose programs this machine's driver cannot run.
    """
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    places = [Path(home) / "bin" / "nvcc"] if home else ["nvcc", "/usr/local/cuda/bin/nvcc"]
    for place in places:
        if path := shutil.which(place):
            version = _version(path, -1)
            _check_driver(version)
            return Compiler(path, version)
    raise RendererError(
        f"CUDA_HOME={home}: it holds no bin/nvcc" if home
        else "no nvcc; install the CUDA toolkit, or set CUDA_HOME to where it is"
    )  # fmt: skip


def cuda_architectures() -> list[str]:
    """Flags for $TORCH_CUDA_ARCH_LIST ("8.0 9.0+PTX"), or else for the GPUs of this machine.

    Those older than OLDEST_GPU are left out. Raises RendererError where none remains, or the list
    is none.
    """
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()
    if not listed:
        found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        listed = [f"{major}.{minor}" for major, minor in sorted(found)]
    flags = []
    for entry in listed:
        version, _, ptx = entry.partition("+")
        number = version.replace(".", "")
        if not number.rstrip("af").isdigit() or ptx not in ("", "PTX"):
            raise RendererError(f"TORCH_CUDA_ARCH_LIST: {entry!r} is not like 8.0 or 9.0+PTX")
        if int(number.rstrip("af")) < OLDEST_GPU:
            continue
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if ptx:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    if not flags:
        raise RendererError(
            "no GPU of compute capability 7.5 or newer to compile for; name some: "
            "TORCH_CUDA_ARCH_LIST='8.0 9.0'"
        )
    return flags


def cuda_flags(architectures: list[str]) -> list[str]:
    """Those of nvcc for a kernel.cu, which holds its own binding."""
    host = ["-Xcompiler", "-fPIC", "--expt-relaxed-constexpr", "-DUSE_CUDA", "--threads=0"]
    return [*BINDING_FLAGS, "-std=c++20", *host, *architectures]


def _check_driver(nvcc: str) -> None:
    """nvcc's last line is like "Build cuda_13.0.r13.0/compiler.36424714_0"."""
    release = re.search(r"cuda_(\d+)\.", nvcc)
    if release and torch.cuda.is_available():
        driver = torch._C._cuda_getDriverVersion() // 1000  # type: ignore[attr-defined]
        if int(release[1]) > driver:
            raise RendererError(
                f"nvcc is of CUDA {release[1]}, the driver of CUDA {driver}; update the driver, or "
                "set CUDA_HOME to an older toolkit"
            )


@cache
def _version(path: str, line: int) -> str:
    done = subprocess.run([path, "--version"], capture_output=True, text=True)
    return (done.stdout.strip().splitlines() or ["unknown version"])[line]
