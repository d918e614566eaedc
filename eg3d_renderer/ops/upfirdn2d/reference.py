"""Upsample by zeros, pad or crop, filter, downsample: the resampling of StyleGAN2 and 3."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = int | Sequence[int]


def binomial_filter() -> Tensor:
    """The low-pass filter of every resampling layer: [1, 3, 3, 1] by itself, sum 1; [4, 4]."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / 64


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    *,
    up: Pair = 1,
    down: Pair = 1,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Zeros between the pixels, padding, a FIR filter, every `down`-th pixel.

    x [N, C, H, W]; f [fh, fw], [taps] for a separable filter, or None for the identity. `up` and
    `down` are an int or (x, y); `padding` is an int, (x, y) or (x before, x after, y before,
    y after) in pixels of the upsampled image, negative to crop. The filter is convolved (flipped
    against the image) unless `flip_filter`. Returns [N, C, H', W'] with
    H' = (H * up + padding - fh) // down + 1.
    """
    (up_x, up_y), (down_x, down_y) = pair(up), pair(down)
    left, right, top, bottom = margins(padding)
    n, c, h, w = x.shape
    if up_x > 1 or up_y > 1:
        x = F.pad(x.reshape(n, c, h, 1, w, 1), [0, up_x - 1, 0, 0, 0, up_y - 1])
        x = x.reshape(n, c, h * up_y, w * up_x)
    x = F.pad(x, [left, right, top, bottom])
    if f is not None:
        f = (f * gain ** (f.ndim / 2)).to(x.dtype)
        if not flip_filter:
            f = f.flip(list(range(f.ndim)))
        for kernel in (f[None], f[:, None]) if f.ndim == 1 else (f,):
            x = F.conv2d(x, kernel.expand(c, 1, *kernel.shape).contiguous(), groups=c)
    elif gain != 1:
        x = x * gain
    return x[:, :, ::down_y, ::down_x]


def filter_size(f: Tensor) -> tuple[int, int]:
    """Width and height of a filter."""
    return f.shape[-1], f.shape[0]


def pair(value: Pair) -> tuple[int, int]:
    """An int or (x, y) as (x, y)."""
    x, y = (value, value) if isinstance(value, int) else value
    return x, y


def margins(padding: Pair) -> tuple[int, int, int, int]:
    """An int, (x, y) or four ints as (left, right, top, bottom)."""
    if isinstance(padding, int):
        padding = (padding, padding)
    if len(padding) == 2:
        padding = (padding[0], padding[0], padding[1], padding[1])
    left, right, top, bottom = padding
    return left, right, top, bottom
