"""The synthesis network: StyleGAN2 with skip connections, from 4x4 up."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eg3d_renderer.networks.layers import SynthesisLayer, ToRGB
from eg3d_renderer.ops.styled_conv import Prepared
from eg3d_renderer.ops.upfirdn2d import binomial_filter, upsample2d


class SynthesisBlock(nn.Module):
    """Two modulated convolutions at one resolution (one at the first), added to the skip image.

    `up` False is a block that keeps the size of its input. `precision` "exact" is float32; "fast"
    allows float16 on CUDA to a block that was trained for it (`fp16`), and bfloat16 products to a
    CPU that has them.
    """

    resample_filter: Tensor
    const: Tensor
    conv0: SynthesisLayer
    conv1: SynthesisLayer
    torgb: ToRGB
    precision = "exact"

    def __init__(
        self,
        inputs: int,  # 0: the first block, from a learned constant
        outputs: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        *,
        up: bool = True,
        conv_clamp: float | None = None,
        fp16: bool = False,
    ) -> None:
        super().__init__()
        self.up = up
        self.fp16 = fp16
        self.register_buffer("resample_filter", binomial_filter())
        if inputs == 0:
            self.const = nn.Parameter(torch.randn(outputs, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(
                inputs, outputs, w_dim, resolution, 2 if up else 1, conv_clamp
            )
        self.conv1 = SynthesisLayer(outputs, outputs, w_dim, resolution, 1, conv_clamp)
        self.torgb = ToRGB(outputs, img_channels, w_dim, conv_clamp)

    @property
    def layers(self) -> list[SynthesisLayer]:
        return [self.conv0, self.conv1] if "conv0" in self._modules else [self.conv1]

    def modulate(self, ws: Tensor) -> list[Tensor]:
        """ws [N, L + 1, w_dim], one for each of the L convolutions and one for the image."""
        layers: list[SynthesisLayer | ToRGB] = [*self.layers, self.torgb]
        assert ws.shape[1] == len(layers), f"{ws.shape[1]} ws for {len(layers)} layers"
        return [layer.modulate(w) for layer, w in zip(layers, ws.unbind(1), strict=True)]

    def prepare(self, ws: Tensor) -> list[Tensor | Prepared]:
        """The same weights, ready for the kernels in the block's precision."""
        *convolutions, image = ws.unbind(1)
        pairs = zip(self.layers, convolutions, strict=True)
        return [
            *(layer.prepare(w, self.precision) for layer, w in pairs),
            self.torgb.modulate(image),
        ]

    def forward(
        self,
        x: Tensor | None,
        img: Tensor | None,
        weights: Sequence[Tensor | Prepared],
        noise_mode: str = "const",
    ) -> tuple[Tensor, Tensor]:
        """x [N, inputs, h, w], img [N, img_channels, h, w] -> the same at this resolution."""
        if x is None:
            x = self.const[None].repeat(len(weights[0]), 1, 1, 1)
        if self.precision == "fast" and self.fp16 and x.is_cuda:
            x = x.to(torch.float16, memory_format=torch.channels_last)
        elif x.dtype == torch.float16:
            x = x.float()
        for layer, weight in zip(self.layers, weights[:-1], strict=True):
            x = layer(x, weight, noise_mode)
        rgb = self.torgb(x, weights[-1])
        if img is None:
            return x, rgb
        return x, rgb.add_(upsample2d(img, self.resample_filter) if self.up else img)


class Synthesis(nn.Module):
    """ws [N, num_ws, w_dim] -> an image of any number of channels, [N, img_channels, R, R]."""

    def __init__(
        self,
        w_dim: int,
        resolution: int,
        img_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        conv_clamp: float | None = None,
        num_fp16_res: int = 0,
    ) -> None:
        super().__init__()
        self.resolutions = [2**i for i in range(2, resolution.bit_length())]
        fp16_from = max(resolution >> (num_fp16_res - 1), 8) if num_fp16_res else resolution + 1
        inputs = 0
        for r in self.resolutions:
            outputs = min(channel_base // r, channel_max)
            block = SynthesisBlock(
                inputs, outputs, w_dim, r, img_channels, conv_clamp=conv_clamp, fp16=r >= fp16_from
            )
            setattr(self, f"b{r}", block)
            inputs = outputs
        self.num_ws = 2 * len(self.resolutions)

    def forward(self, ws: Tensor, noise_mode: str = "const") -> Tensor:
        x = img = None
        first = 0
        for r in self.resolutions:
            block = getattr(self, f"b{r}")
            layers = len(block.layers)
            # the image layer's w is also that of the next block's first convolution
            weights = block.modulate(ws[:, first : first + layers + 1])
            x, img = block(x, img, weights, noise_mode)
            first += layers
        assert img is not None
        return img


class Backbone(nn.Module):
    """Mapping and synthesis under the names of the checkpoints."""

    def __init__(self, mapping: nn.Module, synthesis: Synthesis) -> None:
        super().__init__()
        self.synthesis = synthesis
        self.mapping = mapping
