"""Native kernels: found, compiled on first use, loaded; and what to do where that cannot be.

compilers   the C++ compiler and nvcc of this machine, and their flags
build       sources to a shared library in a cache that all jobs of a user share
library     loads it once a process; says once why an op runs as plain PyTorch instead
simd.h      vectors of any width for the CPU kernels; cuda.h the same for the CUDA ones
"""

from eg3d_renderer.ops.native.library import (
    OPS,
    Op,
    chosen,
    define,
    implementations,
    isa,
    launch_argument,
    load,
    resolve,
    use,
)

__all__ = [
    "OPS",
    "Op",
    "chosen",
    "define",
    "implementations",
    "isa",
    "launch_argument",
    "load",
    "resolve",
    "use",
]
