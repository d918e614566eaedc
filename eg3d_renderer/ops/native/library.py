"""Loads the library of an op once, and decides between it and the reference."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from eg3d_renderer.errors import RendererError
from eg3d_renderer.ops.native.build import find_or_build

IMPLS = ("auto", "native", "reference")


class Op(NamedTuple):
    """What the kernels of an op can do."""

    isas: tuple[str, ...] = ("portable", "avx2", "avx512")  # that kernel.cpp is compiled for
    backends: tuple[str, ...] = ("cpu", "cuda")
    gradient: bool = False
    cpu_dtypes: tuple[torch.dtype, ...] = (torch.float32,)
    cuda_dtypes: tuple[torch.dtype, ...] = (torch.float32,)


_HALVES = (torch.float32, torch.float16, torch.bfloat16)
OPS = {
    "bias_act": Op(gradient=True, cuda_dtypes=_HALVES),
    "upfirdn2d": Op(gradient=True, cuda_dtypes=_HALVES),
    "styled_conv": Op(
        isas=("portable", "avx2", "avx512", "avx512bf16"),
        backends=("cpu",),
        cpu_dtypes=(torch.float32, torch.bfloat16),
    ),
    "march": Op(),
}

_chosen: ContextVar[tuple[str, str]] = ContextVar("chosen", default=("auto", ""))
_library = torch.library.Library("diffstyle360", "FRAGMENT")


def define(schema: str) -> None:
    """Declares an op as ``torch.ops.diffstyle360.NAME``; its kernels come when it is loaded."""
    _library.define(schema)


@contextmanager
def chosen(impl: str, isa: str = "") -> Iterator[None]:
    """Within it "auto" means `impl`, and CPU kernels run as compiled for `isa` ("": the best)."""
    token = _chosen.set((impl, isa))
    try:
        yield
    finally:
        _chosen.reset(token)


def isa() -> str:
    """The instruction set that a CPU kernel is to use; empty: the best that there is."""
    return _chosen.get()[1]


def resolve(impl: str) -> str:
    """What "auto" means here. Raises RendererError for what is no implementation."""
    if impl not in IMPLS:
        raise RendererError(f"impl: {impl!r} is not one of {', '.join(IMPLS)}")
    return _chosen.get()[0] if impl == "auto" else impl


def use(op: str, impl: str, *tensors: Tensor) -> bool:
    """Whether the native op is to be called for these tensors; if so, it has been loaded.

    `impl` "reference": never. "native": always, or RendererError says why it cannot be. "auto":
    where it can be; where its library cannot be had, one line on stderr says so, once a process.
    """
    impl = resolve(impl)
    if impl == "reference":
        return False
    backend = tensors[0].device.type
    reason = _unfit(OPS[op], backend, tensors)
    if reason is None:
        reason = load(op, backend)
        if reason is not None and impl == "auto":
            _tell_once(op, backend, reason)
    if reason is not None and impl == "native":
        raise RendererError(f"{op}: {reason}")
    return reason is None


@cache
def load(op: str, backend: str) -> str | None:
    """Load the library of an op for "cpu" or "cuda", once; if it cannot be, the reason."""
    try:
        torch.ops.load_library(find_or_build(op, backend, OPS[op].isas))
    except RendererError as error:
        return str(error)
    except OSError as error:  # not a library of this machine, or of this torch
        return " ".join(str(error).split())[:300]
    return None


def launch_argument(tensor: Tensor) -> int:
    """What a kernel is started with: threads on a CPU, the current stream on a GPU."""
    if tensor.is_cuda:
        return torch.cuda.current_stream(tensor.device).cuda_stream
    return torch.get_num_threads()


def implementations(device: torch.device) -> dict[str, str]:
    """For each op, what runs it on this device by default: "native", or "reference"."""
    return {
        op: "native"
        if device.type in facts.backends and load(op, device.type) is None
        else "reference"
        for op, facts in OPS.items()
    }


def _unfit(facts: Op, backend: str, tensors: tuple[Tensor, ...]) -> str | None:
    """Why an op's kernels cannot take these tensors."""
    if backend not in facts.backends:
        return f"there is no kernel for {backend}"
    dtypes = facts.cpu_dtypes if backend == "cpu" else facts.cuda_dtypes
    for tensor in tensors:
        if tensor.device != tensors[0].device:
            return f"tensors on {tensors[0].device} and on {tensor.device}"
        if tensor.dtype not in dtypes:
            return f"there is no kernel for {tensor.dtype} on {backend}"
    if not facts.gradient and torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return "the kernel has no gradient; use torch.no_grad(), or the reference"
    return None


@cache
def _tell_once(op: str, backend: str, reason: str) -> None:
    print(
        f"diffstyle360: {op} runs as plain PyTorch on {backend}, slower, since {reason}; "
        "`diffstyle360 doctor` tells more",
        file=sys.stderr,
    )
