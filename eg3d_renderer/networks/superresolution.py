"""The super-resolution modules: rendered features to the image, two synthesis blocks each."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from eg3d_renderer.errors import RendererError
from eg3d_renderer.networks.decoder import FEATURES
from eg3d_renderer.networks.synthesis import SynthesisBlock
from eg3d_renderer.ops.styled_conv import Prepared
from eg3d_renderer.ops.upfirdn2d import binomial_filter


class Plan(NamedTuple):
    """What sets one module apart from the others."""

    input_resolution: int  # features are resized to it
    channels: tuple[int, int]
    first_up: bool  # does the first block double the size, as the second does?
    own_filter: bool = True  # a resample_filter of the module itself, in the checkpoint, unused
    enlarge_only: bool = False  # larger inputs are not resized, and do not fit

    @property
    def output_resolution(self) -> int:
        return self.input_resolution * (4 if self.first_up else 2)


PLANS = {
    "SuperresolutionHybrid8XDC": Plan(128, (256, 128), True, own_filter=False),
    "SuperresolutionHybrid8X": Plan(128, (128, 64), True),
    "SuperresolutionHybrid4X": Plan(128, (128, 64), False, enlarge_only=True),
    "SuperresolutionHybridDeepfp32": Plan(128, (128, 64), False, enlarge_only=True),
    "SuperresolutionHybrid2X": Plan(64, (128, 64), False),
}
NO_MODULE = "none"
CLAMP = 256.0  # of activations, where the module may run in half precision


class SuperResolution(nn.Module):
    """One of PLANS by its class name, with or without a module path in front of it."""

    block0: SynthesisBlock
    block1: SynthesisBlock

    def __init__(
        self,
        name: str,
        img_resolution: int,
        w_dim: int = 512,
        sr_num_fp16_res: int = 0,
        antialias: bool = True,
    ) -> None:
        super().__init__()
        plan = PLANS.get(name.rpartition(".")[2])
        if plan is None:
            raise RendererError(
                f"rendering_kwargs.superresolution_module: {name!r} is not known; "
                f"known: {', '.join((*PLANS, NO_MODULE))}"
            )
        if img_resolution != plan.output_resolution:
            raise RendererError(
                f"img_resolution: {img_resolution}, but {name.rpartition('.')[2]} makes images "
                f"of {plan.output_resolution}"
            )
        self.plan = plan
        self.antialias = antialias
        fp16 = sr_num_fp16_res > 0
        inputs, resolution = FEATURES, plan.input_resolution
        if plan.own_filter:
            self.register_buffer("resample_filter", binomial_filter())
        for i, (channels, up) in enumerate(zip(plan.channels, (plan.first_up, True), strict=True)):
            resolution *= 2 if up else 1
            block = SynthesisBlock(
                inputs,
                channels,
                w_dim,
                resolution,
                img_channels=3,
                up=up,
                conv_clamp=CLAMP if fp16 else None,
                fp16=fp16,
            )
            setattr(self, f"block{i}", block)
            inputs = channels

    @property
    def bytes_per_view(self) -> int:
        """Of what a view's activations take."""
        return 4 * 4 * max(self.plan.channels) * self.plan.output_resolution**2

    def set_precision(self, precision: str) -> None:
        """That of both blocks, "exact" or "fast"."""
        self.block0.precision = self.block1.precision = precision

    def prepare(self, ws: Tensor) -> list[list[Tensor | Prepared]]:
        """ws [N, num_ws, w_dim] -> the weights of both blocks; every layer takes the last w."""
        return [block.prepare(ws[:, -1:].repeat(1, 3, 1)) for block in (self.block0, self.block1)]

    def forward(
        self,
        rgb: Tensor,
        x: Tensor,
        weights: list[list[Tensor | Prepared]],
        noise_mode: str = "none",
    ) -> Tensor:
        """rgb [N, 3, h, w], features x [N, 32, h, w], weights of `prepare` -> [N, 3, R, R]."""
        wanted = self.plan.input_resolution
        if x.shape[-1] > wanted and self.plan.enlarge_only:
            raise RendererError(
                f"neural_rendering_resolution: {x.shape[-1]} is more than the {wanted} that this "
                "generator's super-resolution takes"
            )
        if x.shape[-1] != wanted:
            x, rgb = (resize(t, wanted, self.antialias) for t in (x, rgb))
        x, rgb = self.block0(x, rgb, weights[0], noise_mode)
        x, rgb = self.block1(x, rgb, weights[1], noise_mode)
        return rgb


class NoSuperResolution(nn.Module):
    """For a generator whose image is what it renders, at any resolution."""

    bytes_per_view = 4 * 4 * FEATURES * 128**2  # of the rendered features, about

    def set_precision(self, precision: str) -> None:
        """There is nothing to compute."""

    def prepare(self, ws: Tensor) -> list[list[Tensor | Prepared]]:
        return []

    def forward(
        self,
        rgb: Tensor,
        x: Tensor,
        weights: list[list[Tensor | Prepared]],
        noise_mode: str = "none",
    ) -> Tensor:
        return rgb


def resize(x: Tensor, resolution: int, antialias: bool = True) -> Tensor:
    """[N, C, h, w] -> [N, C, resolution, resolution], bilinear, pixel centres aligned."""
    return F.interpolate(
        x, (resolution, resolution), mode="bilinear", align_corners=False, antialias=antialias
    )
