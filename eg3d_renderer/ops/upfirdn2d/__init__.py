"""Upsample by zeros, pad or crop, filter, downsample: the resampling of StyleGAN2 and 3."""

from typing import Any

import torch
from torch import Tensor

from eg3d_renderer.errors import RendererError
from eg3d_renderer.ops import native
from eg3d_renderer.ops.upfirdn2d import reference
from eg3d_renderer.ops.upfirdn2d.reference import (
    Pair,
    binomial_filter,
    filter_size,
    margins,
    pair,
)

__all__ = [
    "Pair",
    "binomial_filter",
    "downsample2d",
    "filter_size",
    "margins",
    "pair",
    "upfirdn2d",
    "upsample2d",
]

# image, out: [N, C, H, W] of one memory format; filter [fh, fw] float32, correlated
native.define(
    "upfirdn2d(Tensor(a!) out, Tensor image, Tensor filter, bool channels_last, int up_x, int up_y,"
    " int down_x, int down_y, int left, int top, int launch, str isa) -> ()"
)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    *,
    up: Pair = 1,
    down: Pair = 1,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
    impl: str = "auto",
) -> Tensor:
    """Zeros between the pixels, padding, a FIR filter, every `down`-th pixel.

    x [N, C, H, W]; f [fh, fw], [taps] for a separable filter, or None for the identity. `up` and
    `down` are an int or (x, y); `padding` is an int, (x, y) or (x before, x after, y before,
    y after) in pixels of the upsampled image, negative to crop. The filter is convolved (flipped
    against the image) unless `flip_filter`. Returns [N, C, H', W'] with
    H' = (H * up + padding - fh) // down + 1. `impl` is "auto", "native" or "reference"; all orders
    of gradients by x are there for each, those by f in the reference alone.
    """
    if f is not None and f.requires_grad and torch.is_grad_enabled():
        if impl == "native":
            raise RendererError("upfirdn2d: the kernel has no gradient by f; use the reference")
        impl = "reference"
    if not native.use("upfirdn2d", impl, *(t for t in (x, f) if t is not None)):
        return reference.upfirdn2d(
            x, f, up=up, down=down, padding=padding, flip_filter=flip_filter, gain=gain
        )
    (up_x, up_y), (down_x, down_y) = pair(up), pair(down)
    left, right, top, bottom = margins(padding)
    if f is None:
        f = torch.ones(1, 1, device=x.device)
    taps = f.float() * gain ** (f.ndim / 2)
    if not flip_filter:
        taps = taps.flip(list(range(f.ndim)))
    if f.ndim == 1:
        x = _resample(x, taps[None], (up_x, 1), (down_x, 1), (left, right, 0, 0))
        return _resample(x, taps[:, None], (1, up_y), (1, down_y), (0, 0, top, bottom))
    return _resample(x, taps, (up_x, up_y), (down_x, down_y), (left, right, top, bottom))


def upsample2d(
    x: Tensor, f: Tensor, up: Pair = 2, padding: Pair = 0, *, impl: str = "auto"
) -> Tensor:
    """[N, C, H, W] -> [N, C, H * up, W * up], filtered; `padding` is on top of what centres it."""
    (up_x, up_y), (fw, fh) = pair(up), filter_size(f)
    left, right, top, bottom = margins(padding)
    centred = (
        left + (fw + up_x - 1) // 2,
        right + (fw - up_x) // 2,
        top + (fh + up_y - 1) // 2,
        bottom + (fh - up_y) // 2,
    )
    return upfirdn2d(x, f, up=up, padding=centred, gain=up_x * up_y, impl=impl)


def downsample2d(
    x: Tensor,
    f: Tensor,
    down: Pair = 2,
    padding: Pair = 0,
    flip_filter: bool = False,
    *,
    impl: str = "auto",
) -> Tensor:
    """[N, C, H, W] -> [N, C, H / down, W / down], filtered first."""
    (down_x, down_y), (fw, fh) = pair(down), filter_size(f)
    left, right, top, bottom = margins(padding)
    centred = (
        left + (fw - down_x + 1) // 2,
        right + (fw - down_x) // 2,
        top + (fh - down_y + 1) // 2,
        bottom + (fh - down_y) // 2,
    )
    return upfirdn2d(x, f, down=down, padding=centred, flip_filter=flip_filter, impl=impl)


def _resample(
    x: Tensor,
    taps: Tensor,  # [fh, fw], correlated
    up: tuple[int, int],  # all pairs: x, y
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
) -> Tensor:
    left, right, top, bottom = padding
    width = (x.shape[3] * up[0] + left + right - taps.shape[1]) // down[0] + 1
    height = (x.shape[2] * up[1] + top + bottom - taps.shape[0]) // down[1] + 1
    assert min(width, height) > 0, f"{list(taps.shape)} taps, {list(x.shape)} padded by {padding}"
    return _Resample.apply(x, taps, (width, height), up, down, (left, top))


class _Resample(torch.autograd.Function):
    """Its gradient is the same with `up` and `down` exchanged, the filter turned round."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        taps: Tensor,
        size: tuple[int, int],
        up: tuple[int, int],
        down: tuple[int, int],
        before: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(taps)
        ctx.geometry = (x.shape[3], x.shape[2]), up, down, before
        # a few channels, those of a picture, go faster plane by plane
        channels_last = (
            not x.is_contiguous()
            and x.is_contiguous(memory_format=torch.channels_last)
            and x.shape[1] >= 16
        )
        order = torch.channels_last if channels_last else torch.contiguous_format
        x = x.contiguous(memory_format=order)
        out = torch.empty(
            (*x.shape[:2], *reversed(size)), dtype=x.dtype, device=x.device, memory_format=order
        )
        torch.ops.diffstyle360.upfirdn2d(
            out,
            x,
            taps.contiguous(),
            channels_last,
            *up,
            *down,
            *before,
            native.launch_argument(x),
            native.isa(),
        )
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (taps,) = ctx.saved_tensors
        size, up, down, (left, top) = ctx.geometry
        before = (taps.shape[1] - 1 - left, taps.shape[0] - 1 - top)
        dx = _Resample.apply(dy, taps.flip([0, 1]), size, down, up, before)
        return dx, None, None, None, None, None
