"""The layers of StyleGAN2 (Karras et al., 2020), with its run-time scaling of the weights."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eg3d_renderer.ops.bias_act import bias_act
from eg3d_renderer.ops.convolution import conv2d_resample, modulate, modulated_conv2d
from eg3d_renderer.ops.styled_conv import Prepared, prepare, styled_conv
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

    def scaled(self) -> tuple[Tensor, Tensor]:
        """Weight [outputs, inputs] and bias [outputs] as they act."""
        scale = self.lr_multiplier / math.sqrt(self.weight.shape[1])
        bias = self.bias if self.lr_multiplier == 1 else self.bias * self.lr_multiplier
        return self.weight * scale, bias

    def forward(self, x: Tensor) -> Tensor:
        return bias_act(F.linear(x, *self.scaled()), act=self.act)


class SynthesisLayer(nn.Module):
    """A modulated 3x3 convolution with noise, bias and leaky ReLU; `up` 2 doubles the size.

    `modulate` turns w into the weights, and `prepare` into weights that many images will go
    through; `forward` applies them: an identity's are made once.
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

    def prepare(self, w: Tensor, precision: str) -> Prepared:
        """w [N, w_dim] -> the same weights, ready for the kernels in a precision."""
        return prepare(self.modulate(w), self.resample_filter, self.up, precision)

    def forward(self, x: Tensor, weights: Tensor | Prepared, noise_mode: str = "const") -> Tensor:
        """x [N, inputs, H, W] -> [N, outputs, H * up, W * up]; noise_mode "const" or "none"."""
        noise = self.noise_const * self.noise_strength if noise_mode == "const" else None
        return styled_conv(
            x, weights, self.bias, noise, self.resample_filter, self.up, self.conv_clamp
        )


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
        """x [N, inputs, H, W], in any precision -> [N, outputs, H, W] in float32."""
        return bias_act(modulated_conv2d(x, weights).float(), self.bias, clamp=self.conv_clamp)


class PointwiseConv(nn.Module):
    """A 1x1 convolution without bias, scaled by 1 / sqrt(inputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.register_buffer("resample_filter", binomial_filter())  # in every checkpoint, unused

    def forward(self, x: Tensor) -> Tensor:
        return conv2d_resample(x, self.weight / math.sqrt(self.weight.shape[1]))
