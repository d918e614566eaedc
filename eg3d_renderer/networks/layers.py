"""The layers of StyleGAN2 (Karras et al., 2020), with its run-time scaling of the weights."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eg3d_renderer.ops.bias_act import bias_act
from eg3d_renderer.ops.convolution import conv2d_resample, modulate, modulated_conv2d
from eg3d_renderer.ops.upfirdn2d import binomial_filter


class FullyConnected(nn.Module):
    """y = act(x W^T lr / sqrt(inputs) + b lr), x [..., inputs] -> [..., outputs]."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        act: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.act = act
        self.lr_multiplier = lr_multiplier
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([outputs], bias_init / lr_multiplier))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.lr_multiplier / math.sqrt(self.weight.shape[1])
        bias = self.bias if self.lr_multiplier == 1 else self.bias * self.lr_multiplier
        x = F.linear(x, self.weight * scale, bias)
        return bias_act(x, act=self.act)


class SynthesisLayer(nn.Module):
    """A modulated 3x3 convolution with noise, bias and leaky ReLU; `up` 2 doubles the size.

    `modulate` turns w into the weights, `forward` applies them: an identity's are made once.
    """

    resample_filter: Tensor
    noise_const: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        w_dim: int,
        resolution: int,
        up: int = 1,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.up = up
        self.conv_clamp = conv_clamp
        self.affine = FullyConnected(w_dim, inputs, bias_init=1)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("resample_filter", binomial_filter())
        self.register_buffer("noise_const", torch.randn(resolution, resolution))

    def modulate(self, w: Tensor) -> Tensor:
        """w [N, w_dim] -> weights [N, outputs, inputs, 3, 3]."""
        return modulate(self.weight, self.affine(w))

    def forward(self, x: Tensor, weights: Tensor, noise_mode: str = "const") -> Tensor:
        """x [N, inputs, H, W] -> [N, outputs, H * up, W * up]; noise_mode "const" or "none"."""
        # an upsampling layer convolves truly, the others correlate: so the weights were trained
        x = modulated_conv2d(
            x, weights, self.resample_filter, up=self.up, padding=1, flip_weight=self.up == 1
        )
        if noise_mode == "const":
            x = x + (self.noise_const * self.noise_strength).to(x.dtype)
        return bias_act(x, self.bias, "lrelu", clamp=self.conv_clamp)


class ToRGB(nn.Module):
    """A modulated 1x1 convolution to the channels of the image, without demodulation."""

    def __init__(
        self, inputs: int, outputs: int, w_dim: int, conv_clamp: float | None = None
    ) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = FullyConnected(w_dim, inputs, bias_init=1)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def modulate(self, w: Tensor) -> Tensor:
        """w [N, w_dim] -> weights [N, outputs, inputs, 1, 1]."""
        styles = self.affine(w) / math.sqrt(self.weight.shape[1])
        return modulate(self.weight, styles, demodulate=False)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """x [N, inputs, H, W] -> [N, outputs, H, W]."""
        return bias_act(modulated_conv2d(x, weights), self.bias, clamp=self.conv_clamp)


class PointwiseConv(nn.Module):
    """A 1x1 convolution without bias, scaled by 1 / sqrt(inputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.register_buffer("resample_filter", binomial_filter())  # in every checkpoint, unused

    def forward(self, x: Tensor) -> Tensor:
        return conv2d_resample(x, self.weight / math.sqrt(self.weight.shape[1]))
