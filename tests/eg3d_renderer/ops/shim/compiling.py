"""A kernel.cu as plain C++: cuda_shim.h has a fiber for each of its threads."""

import shutil
import subprocess
from pathlib import Path

import pytest

from eg3d_renderer import ops

OPS = Path(ops.__file__).parent
SHIM = Path(__file__).parent


def compile_for_cpu(source: Path, target: Path, *flags: str) -> None:
    """Compile with the shim; skips the test where there is no g++."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to compile the kernels with")
    # jumps between fibers' stacks are what _FORTIFY_SOURCE takes for an attack
    language = "-x c++ -std=c++20 -O2 -w -fno-strict-aliasing -ffp-contract=off -U_FORTIFY_SOURCE"
    language = f"{language} -DCUDA_SHIM -I{SHIM} -I{OPS}"
    subprocess.run([compiler, *language.split(), *flags, source, "-o", target], check=True)
