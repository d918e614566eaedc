"""What a machine can do at most: rates to hold a kernel against, measured in the same run."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from pipeline.bench.figures import median_seconds


def measure_ceilings(device: torch.device) -> dict[str, dict[str, float]]:
    """GFLOP/s of matrix products and of 3x3 convolutions, GB/s of a copy (read and written)."""
    on_gpu = device.type == "cuda"
    size = 8192 if on_gpu else 2048

    def rate(call: Callable[[], object], amount: float) -> float:
        def whole() -> None:
            call()
            if on_gpu:
                torch.cuda.synchronize(device)

        whole()
        return amount / median_seconds(whole, 5) / 1e9

    figures: dict[str, dict[str, float]] = {}
    half = torch.float16 if on_gpu else torch.bfloat16
    for dtype in (torch.float32, half):
        name = str(dtype).removeprefix("torch.")
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in "ab")
        figures[f"matrix product, {name}"] = {"GFLOP/s": rate(lambda: a @ b, 2 * size**3)}  # noqa: B023
        x = torch.randn(1, 256, 128, 128, device=device).to(dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        weight = torch.randn(256, 256, 3, 3, device=device).to(dtype)
        work = 2 * 9 * 256 * 256 * 128 * 128
        figures[f"convolution, {name}"] = {
            "GFLOP/s": rate(lambda: F.conv2d(x, weight, padding=1), work)  # noqa: B023
        }
    source = torch.randn(1 << 26, device=device)
    target = torch.empty_like(source)
    figures["copy"] = {"GB/s": rate(lambda: target.copy_(source), 2 * 4 * source.numel())}
    return figures
