"""The device that a stage computes on, and what its records say about it."""

import ctypes
import importlib.metadata
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import PipelineError

# On a CPU the order of a sum, and so its last bit, depends on the number of threads. Each stage
# therefore has a fixed number: bytes must not depend on the machine's cores. Shards are what runs
# in parallel.
RENDER_THREADS = 1
STYLIZE_THREADS = 1
EVALUATE_THREADS = 1
FINETUNE_THREADS = 2


def open_device(name: str, threads: int) -> torch.device:
    """``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Sets the number of CPU threads. Raises PipelineError for a device that is not there.
    """
    torch.set_num_threads(threads)
    _keep_freed_memory()
    torch.use_deterministic_algorithms(True, warn_only=True)
    # nothing here reads memory that was never written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.allow_tf32 = False  # ten bits of a float32's mantissa; off for matmuls
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise PipelineError(f"--device {name}: {reason}; use auto, cpu or cuda[:N]") from None
    return device


def _keep_freed_memory() -> None:
    """Have glibc reuse the memory of large tensors, which it otherwise maps anew, page by page."""
    mmap_threshold, trim_threshold = -3, -1  # of malloc.h
    with suppress(OSError, AttributeError):  # another libc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 1 << 30) or mallopt(mmap_threshold, 1 << 25)  # before glibc 2.35
        mallopt(trim_threshold, 2**31 - 1)


def encoder_threads(device: torch.device) -> int:
    """How many threads encode beside the rendering: a GPU is served by the cores that are there."""
    return max(2, min(8, len(os.sched_getaffinity(0)) // 2)) if device.type == "cuda" else 2


def to_host(tensors: dict[str, torch.Tensor]) -> Callable[[], dict[str, torch.Tensor]]:
    """Start copying tensors to the CPU; the function returned waits for them and gives them.

    From a GPU they go into pinned memory while it computes on; a CPU's are given as they are.
    """
    gpus = {t.device for t in tensors.values() if t.is_cuda}
    if not gpus:
        return lambda: tensors
    copies = {
        name: torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True)
        for name, t in tensors.items()
    }
    copied = [torch.cuda.current_stream(gpu).record_event() for gpu in gpus]

    def wait() -> dict[str, torch.Tensor]:
        for event in copied:
            event.synchronize()
        return copies

    return wait


def describe_device(device: torch.device) -> dict[str, Any]:
    """What made the bytes, for a shard's record: program, versions, device and threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    return {
        "program": importlib.metadata.version("diffstyle360"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device.type,
        "device_name": name,
        "threads": torch.get_num_threads(),
    }


def processor_name() -> str:
    """The processor's model, as far as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
