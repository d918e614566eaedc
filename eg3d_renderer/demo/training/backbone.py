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
        img = rgb if img is None else enlarge(img) + rgb
    assert img is not None
    return img.permute(0, 2, 3, 1)


def convolve(layer: SynthesisLayer, x: Tensor, w: Tensor) -> Tensor:
    """A modulated 3x3 convolution with bias and leaky ReLU: x [N, I, h, w], w [N, w_dim]."""
    styles = layer.affine(w)  # [N, I]
    energy = layer.weight.square().sum([2, 3])  # [O, I]
    scale = (styles.square() @ energy.T + DEMODULATION_EPSILON).rsqrt()  # [N, O]
    weight = layer.weight.to(x.dtype).contiguous(memory_format=torch.channels_last)
    x = x * over_pixels(styles, x)
    if layer.up == 2:
        y = F.conv2d(enlarge(x, margin=1), weight.flip([2, 3]))
    else:
        y = F.conv2d(x, weight, padding=1)
    y = y * over_pixels(scale, x) + over_pixels(layer.bias[None], x)
    return F.leaky_relu(y, 0.2) * math.sqrt(2)


def to_image(layer: ToRGB, x: Tensor, w: Tensor, channels: Tensor) -> Tensor:
    styles = layer.affine(w) / math.sqrt(layer.weight.shape[1])
    y = F.conv2d(x * over_pixels(styles, x), layer.weight[channels].to(x.dtype))
    return y + over_pixels(layer.bias[None, channels], x)


def over_pixels(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x.dtype)[:, :, None, None]


def enlarge(x: Tensor, margin: int = 0) -> Tensor:
    """Twice the size through the filter 1 3 3 1, and `margin` pixels of what spills over."""
    n, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1)
    up = enlargement(height, margin, x.dtype).to(x.device)
    tall = (up @ rows.reshape(n, height, width * channels)).view(-1, width, channels)
    wide = enlargement(width, margin, x.dtype).to(x.device) @ tall
    return wide.view(n, len(up), -1, channels).permute(0, 3, 1, 2)


@cache
def enlargement(size: int, margin: int, dtype: torch.dtype) -> Tensor:
    """The filter along one axis as a matrix, [2 * size + 2 * margin, size]."""
    matrix = torch.zeros(2 * size + 2 * margin, size + 4)  # with two pixels outside at either end
    for row in range(len(matrix)):
        position = row - margin
        nearest = position // 2 + 2
        matrix[row, nearest] = 0.75
        matrix[row, nearest + (1 if position % 2 else -1)] = 0.25
    return matrix[:, 2:-2].to(dtype)
