"""Convolutions that resample, and convolutions whose weights a style modulates."""

import torch
import torch.nn.functional as F
from torch import Tensor

from eg3d_renderer.ops.upfirdn2d import Pair, filter_size, margins, upfirdn2d

DEMODULATION_EPSILON = 1e-8


def conv2d_resample(
    x: Tensor,
    weight: Tensor,
    f: Tensor | None = None,
    *,
    up: int = 1,
    down: int = 1,
    padding: Pair = 0,
    groups: int = 1,
    flip_weight: bool = True,
) -> Tensor:
    """Upsample by `up`, convolve, downsample by `down`; `f` is the low-pass of the resampling.

    x [N, I, H, W], weight [O, I / groups, k, k]; `padding` is in pixels of the upsampled image.
    `flip_weight` True is what `torch.nn.functional.conv2d` does (correlation), False a true
    convolution. Returns [N, O, H', W'].
    """
    left, right, top, bottom = margins(padding)
    k = weight.shape[-1]
    fused = up == 2 and down == 1 and groups == 1 and k == 3 and f is not None
    if fused and (left, right, top, bottom) == 4 * (k // 2,):
        assert f is not None
        # zeros are not worth multiplying: a transposed convolution [2H + 1], then the filter
        transposed = weight.flip([2, 3]) if flip_weight else weight
        x = F.conv_transpose2d(x, transposed.transpose(0, 1), stride=2)
        fw, fh = filter_size(f)
        around = ((fw - 1) // 2, fw // 2 - 1, (fh - 1) // 2, fh // 2 - 1)
        return upfirdn2d(x, f, padding=around, gain=4)
    if up > 1:
        assert f is not None, "resampling needs a filter"
        fw, fh = filter_size(f)
        left, right = left + (fw + up - 1) // 2, right + (fw - up) // 2
        top, bottom = top + (fh + up - 1) // 2, bottom + (fh - up) // 2
    if down > 1:
        assert f is not None, "resampling needs a filter"
        fw, fh = filter_size(f)
        left, right = left + (fw - down + 1) // 2, right + (fw - down) // 2
        top, bottom = top + (fh - down + 1) // 2, bottom + (fh - down) // 2
    if not flip_weight:
        weight = weight.flip([2, 3])
    if up == 1 and down == 1 and left == right and top == bottom and min(left, top) >= 0:
        return F.conv2d(x, weight, padding=(top, left), groups=groups)
    around = (left, right, top, bottom)
    x = upfirdn2d(x, f if up > 1 else None, up=up, padding=around, gain=up**2)
    x = F.conv2d(x, weight, groups=groups)
    return upfirdn2d(x, f, down=down) if down > 1 else x


def modulate(weight: Tensor, styles: Tensor, demodulate: bool = True) -> Tensor:
    """Weights of StyleGAN2's modulated convolution (Karras et al., 2020, equations 1 and 3).

    weight [O, I, k, k], styles [N, I] -> [N, O, I, k, k]: input channels scaled by the style, then
    every output channel normalised to unit length unless told otherwise.
    """
    assert styles.shape[1:] == weight.shape[1:2], f"{list(styles.shape)}, {list(weight.shape)}"
    modulated = weight[None] * styles[:, None, :, None, None]
    if demodulate:
        length = modulated.square().sum(dim=[2, 3, 4], keepdim=True)
        modulated = modulated * (length + DEMODULATION_EPSILON).rsqrt()
    return modulated


def modulated_conv2d(
    x: Tensor,
    weights: Tensor,
    f: Tensor | None = None,
    *,
    up: int = 1,
    padding: int = 0,
    flip_weight: bool = True,
) -> Tensor:
    """Each image by its own weights, or all by the same.

    x [N, I, H, W]; weights of `modulate`, [N, O, I, k, k] or [1, O, I, k, k]. Returns
    [N, O, H * up, W * up]. An image's result does not depend on the others.
    """
    weights = weights.to(x.dtype)
    if len(weights) == 1:
        return conv2d_resample(x, weights[0], f, up=up, padding=padding, flip_weight=flip_weight)
    assert len(weights) == len(x), f"{len(weights)} weights for {len(x)} images"
    return torch.cat(
        [
            conv2d_resample(x[n : n + 1], w, f, up=up, padding=padding, flip_weight=flip_weight)
            for n, w in enumerate(weights)
        ]
    )
