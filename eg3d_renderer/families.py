"""EG3D, PanoHead and SphereHead: each in one class, what sets it apart from the others."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from eg3d_renderer import cameras
from eg3d_renderer.errors import RendererError
from eg3d_renderer.marching import planes as sampling
from eg3d_renderer.networks.decoder import FEATURES
from eg3d_renderer.networks.layers import PointwiseConv, ToRGB
from eg3d_renderer.networks.mapping import Mapping
from eg3d_renderer.networks.superresolution import NoSuperResolution, resize
from eg3d_renderer.networks.synthesis import Synthesis
from eg3d_renderer.options import option
from eg3d_renderer.triplane import TriPlaneGenerator


class EG3D(TriPlaneGenerator):
    """EG3D (Chan et al., 2022): a tri-plane of 256 x 256, colours through a sigmoid."""

    family = "eg3d"
    default_axes = sampling.EG3D_AXES
    sampler = "triplane"
    backbone_resolution = 256
    backbone_channels = 3 * FEATURES
    decoder_activation = "sigmoid"

    @property
    def camera(self) -> dict[str, Any]:
        pivot = option(self.rendering_kwargs, "avg_camera_pivot", (0.0, 0.0, 0.0))
        return published_camera(self.rendering_kwargs, pivot)

    def arrange(self, img: Tensor) -> Tensor:
        return img.unflatten(1, (3, FEATURES))

    def features(self, planes: Tensor, points: Tensor) -> Tensor:
        return sampling.sample_triplane(planes, points, self.axes)

    def background(self, ws: Tensor, resolution: int) -> None:
        return None

    def raw_image(self, features: Tensor, ws: Tensor) -> Tensor:
        return features[:, :3]

    def mask(self, opacity: Tensor) -> Tensor:
        return opacity


class PanoHead(TriPlaneGenerator):
    """PanoHead (An et al., 2023): tri-grids, a background of its own, heads from all around."""

    family = "panohead"
    default_axes = sampling.PANOHEAD_AXES
    sampler = "trigrid"
    triplane_crop = 0.1

    def __init__(self, **init_kwargs: Any) -> None:
        super().__init__(**init_kwargs)
        self.bcg_synthesis = None
        if option(self.rendering_kwargs, "use_background", False):
            if isinstance(self.superresolution, NoSuperResolution):
                raise RendererError(
                    "rendering_kwargs.use_background: a background has the size of the "
                    "super-resolution's input, and superresolution_module is 'none'"
                )
            self.bcg_synthesis = Synthesis(
                self.w_dim,
                self.superresolution.plan.input_resolution,
                FEATURES,
                init_kwargs.get("channel_base", 32768) // 2,
                **self.synthesis_kwargs,
            )
        raw = option(self.rendering_kwargs, "use_torgb_raw", False)
        self.torgb = ToRGB(FEATURES, 3, self.w_dim) if raw else None
        self.t_mapping = Mapping(
            self.z_dim, self.c_dim, 3, None, num_layers=2, lr_multiplier=1, last_act="linear"
        )

    @property
    def backbone_resolution(self) -> int:
        return option(self.rendering_kwargs, "triplane_size", 256)

    @property
    def backbone_channels(self) -> int:
        return 3 * FEATURES * option(self.rendering_kwargs, "triplane_depth", 1)

    @property
    def decoder_activation(self) -> str:
        return option(self.rendering_kwargs, "decoder_activation", "sigmoid")

    @property
    def camera(self) -> dict[str, Any]:
        return published_camera(self.rendering_kwargs, (0.0, 0.0, 0.0))

    def arrange(self, img: Tensor) -> Tensor:
        return img.unflatten(1, (3, -1))

    def for_sampling(self, planes: Tensor) -> Tensor:
        return sampling.by_slice(planes)

    def features(self, planes: Tensor, points: Tensor) -> Tensor:
        return sampling.sample_trigrid(planes, points, self.axes)

    def background(self, ws: Tensor, resolution: int) -> Tensor | None:
        if self.bcg_synthesis is None:
            return None
        missing = max(0, self.bcg_synthesis.num_ws - self.num_ws)
        ws = torch.cat([ws, ws[:, -1:].repeat(1, missing, 1)], dim=1)
        image = self.bcg_synthesis(ws[:, : self.bcg_synthesis.num_ws], "const")
        if image.shape[-1] == resolution:
            return image
        return resize(image, resolution, option(self.rendering_kwargs, "sr_antialias", True))

    def raw_image(self, features: Tensor, ws: Tensor) -> Tensor:
        if self.torgb is None:
            return features[:, :3]
        return self.torgb(features, self.torgb.modulate(ws[:, -1]))

    def mask(self, opacity: Tensor) -> Tensor:
        return opacity * 1.002 - 0.001

    def shift_camera(
        self,
        z: Tensor,
        c: Tensor,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """With the translation (entries 3, 7 and 11) that `t_mapping` adds."""
        shift = self.t_mapping(z, self._conditioning(z, c), truncation_psi, truncation_cutoff)
        moved = c.clone()
        moved[:, [3, 7, 11]] += shift
        return moved


class SphereHead(PanoHead):
    """SphereHead (Li et al., 2024): two spherical tri-planes in place of the tri-grid."""

    family = "spherehead"
    sampler = "spherical"
    backbone_channels = 512

    def __init__(self, **init_kwargs: Any) -> None:
        super().__init__(**init_kwargs)
        widths = self.backbone_channels, self.backbone_channels // 2, 3 * FEATURES
        self.ConvA, self.ConvB = (
            nn.Sequential(*(PointwiseConv(*pair) for pair in pairwise(widths))) for _ in "AB"
        )

    def arrange(self, img: Tensor) -> Tensor:
        spheres = torch.stack([self.ConvA(img), self.ConvB(img)], dim=1)
        return spheres.unflatten(2, (3, FEATURES))

    def for_sampling(self, planes: Tensor) -> Tensor:
        return planes

    def features(self, planes: Tensor, points: Tensor) -> Tensor:
        return sampling.sample_spherical(planes, points, self.axes)


FAMILIES: dict[str, type[TriPlaneGenerator]] = {
    family.family: family for family in (EG3D, PanoHead, SphereHead)
}


def published_camera(rendering_kwargs: dict[str, Any], pivot: Sequence[float]) -> dict[str, Any]:
    """radius, pivot and focal of a camera, the radius as the checkpoint has it."""
    radius = option(rendering_kwargs, "avg_camera_radius", cameras.RADIUS)
    return {"radius": radius, "pivot": tuple(pivot), "focal": cameras.FOCAL}
