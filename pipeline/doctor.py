"""What this machine computes with, and whether its kernels agree with their references."""

import os
import platform
from collections.abc import Callable
from pathlib import Path

import torch

from eg3d_renderer.errors import RendererError
from eg3d_renderer.ops import native
from eg3d_renderer.ops.native import build, compilers
from eg3d_renderer.ops.selftest import TOLERANCE, disagreement
from pipeline.devices import describe_device, processor_name
from pipeline.shards.files import write_whole


def examine(device: torch.device) -> bool:
    """Print machine, compilers and the state of each op; False where a kernel is wrong."""
    facts = describe_device(device)
    print(f"diffstyle360 {facts['program']}, Python {facts['python']}, torch {facts['torch']}")
    print(f"processor  {processor_name()}, {os.cpu_count()} cores, {platform.system()}")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f"gpu        {', '.join(gpus) or 'none that torch can use'}")
    print(f"C++        {_describe(compilers.cpp_compiler)}")
    print(f"CUDA       {_describe(compilers.cuda_compiler)}")
    print(f"libraries  {build.cache_folder() / 'ops'}")
    agree = True
    for op, kernels in native.OPS.items():
        if device.type not in kernels.backends:
            state = f"reference: there is no kernel for {device.type}"
        elif reason := native.load(op, device.type):
            state = f"reference: {reason}"
        else:
            error = disagreement(op, device)
            right = error <= TOLERANCE
            agree = agree and right
            verdict = "agrees with" if right else "IS WRONG, it differs from"
            state = f"native, {verdict} the reference to {error:.1e} of its range"
        print(f"  {op:12} {state}")
    return agree


def compile_ops(into: Path | None) -> None:
    """Compile every kernel: into the user's cache, or for a wheel into a folder of the package.

    CUDA kernels are compiled where there is a GPU, or TORCH_CUDA_ARCH_LIST names architectures.
    Raises RendererError where one does not compile.
    """
    cuda = torch.cuda.is_available() or bool(os.environ.get("TORCH_CUDA_ARCH_LIST"))
    for op, kernels in native.OPS.items():
        for backend in kernels.backends if cuda else ("cpu",):
            library = build.build(op, backend, kernels.isas, build.cache_folder())
            if into is not None:
                content, library = library.read_bytes(), into / build.library_name(op, backend)
                into.mkdir(parents=True, exist_ok=True)
                write_whole(library, content)
            print(library)


def _describe(find: Callable[[], compilers.Compiler]) -> str:
    try:
        found = find()
    except RendererError as error:
        return str(error)
    return f"{found.path}: {found.version}"
