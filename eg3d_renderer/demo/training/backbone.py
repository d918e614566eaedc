"""The synthesis network as it is trained: a batch of different heads through shared weights.

Rendering modulates the weights, once an identity. In training each identity is new, and it is
cheaper to scale the inputs and outputs of convolutions whose weights all share (Karras et al.,
2020, equation 2 in front of the convolution and 3 behind it): the same function, up to rounding.
"""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from eg3d_renderer.networks.layers import SynthesisLayer, ToRGB
from eg3d_renderer.networks.synthesis import Synthesis
from eg3d_renderer.ops.convolution import DEMODULATION_EPSILON


def synthesize(
    synthesis: Synthesis, ws: Tensor, channels: Tensor, size: int, dtype: torch.dtype
) -> Tensor:
    """ws [N, num_ws, w_dim] -> [N, size, size, C] in `dtype`: those `channels` [C], in that order.

    There is no noise. The blocks above `size` take no part.
    """
    x = img = None
    at = 0
    for resolution in synthesis.resolutions:
        if resolution > size:
            break
        block = getattr(synthesis, f"b{resolution}")
        if x is None:
            x = block.const.to(dtype).expand(len(ws), -1, -1, -1)
            x = x.contiguous(memory_format=torch.channels_last)
        for layer in block.layers:
            x = convolve(layer, x, ws[:, at])
            at += 1
        rgb = to_image(block.torgb, x, ws[:, at], channels)
        img = rgb if img is None else rgb.add_(enlarge(img))
    assert img is not None
    return img.permute(0, 2, 3, 1)


def convolve(layer: SynthesisLayer, x: Tensor, w: Tensor) -> Tensor:
    """A modulated 3x3 convolution with bias and leaky ReLU: x [N, I, h, w], w [N, w_dim].

    The gain of sqrt 2 behind the leaky ReLU is taken before it.
    """
    styles = layer.affine(w)  # [N, I]
    energy = layer.weight.square().sum([2, 3])  # [O, I]
    scale = (styles.square() @ energy.T + DEMODULATION_EPSILON).rsqrt()  # [N, O]
    weight = layer.weight.to(x.dtype).contiguous(memory_format=torch.channels_last)
    x = x * over_pixels(styles, x)
    if layer.up == 2:
        y = filter_doubled(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
    else:
        y = F.conv2d(x, weight, padding=1)
    gain = math.sqrt(2)
    y = torch.addcmul(over_pixels(layer.bias[None] * gain, x), y, over_pixels(scale * gain, x))
    return F.leaky_relu_(y, 0.2)


def to_image(layer: ToRGB, x: Tensor, w: Tensor, channels: Tensor) -> Tensor:
    styles = layer.affine(w) / math.sqrt(layer.weight.shape[1])
    weight, bias = layer.weight[channels].to(x.dtype), layer.bias[channels].to(x.dtype)
    return F.conv2d(x * over_pixels(styles, x), weight, bias)


def over_pixels(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x.dtype)[:, :, None, None]


def enlarge(x: Tensor) -> Tensor:
    """[N, C, h, w] -> [N, C, 2 h, 2 w] through the filter 1 3 3 1."""
    _, _, height, width = x.shape
    return along_axes(x, enlargement(height, x.dtype), enlargement(width, x.dtype))


def filter_doubled(x: Tensor) -> Tensor:
    """What a transposed convolution of stride 2 gives, [N, C, 2 h + 1, 2 w + 1], through the filter
    1 3 3 1: [N, C, 2 h, 2 w]. The convolution is four times cheaper here than behind the filter."""
    _, _, height, width = x.shape
    return along_axes(x, smoothing(height, x.dtype), smoothing(width, x.dtype))


def along_axes(x: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """x [N, C, h, w] and matrices [H, h], [W, w] -> [N, C, H, W], channels last."""
    n, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1)
    tall = (down.to(x.device) @ rows.reshape(n, height, width * channels)).view(-1, width, channels)
    wide = across.to(x.device) @ tall
    return wide.view(n, len(down), -1, channels).permute(0, 3, 1, 2)


@cache
def enlargement(size: int, dtype: torch.dtype) -> Tensor:
    """[2 * size, size]: a pixel is 3/4 of the nearest one and 1/4 of the one beyond."""
    matrix = torch.zeros(2 * size, size + 2)  # with a pixel outside at either end
    for row in range(len(matrix)):
        nearest = row // 2 + 1
        matrix[row, nearest] = 0.75
        matrix[row, nearest + (1 if row % 2 else -1)] = 0.25
    return matrix[:, 1:-1].to(dtype)


@cache
def smoothing(size: int, dtype: torch.dtype) -> Tensor:
    """[size - 1, size]: a pixel is 1 3 3 1 quarters of those around."""
    matrix = torch.zeros(size - 1, size + 2)  # with a pixel outside at either end
    for row in range(len(matrix)):
        matrix[row, row : row + 4] = torch.tensor([0.25, 0.75, 0.75, 0.25])
    return matrix[:, 1:-1].to(dtype)
