"""From a latent to views: what EG3D and the generators that came of it have in common."""

import math
from abc import ABC, abstractmethod
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from eg3d_renderer import cameras, mesh
from eg3d_renderer.errors import RendererError
from eg3d_renderer.marching import density
from eg3d_renderer.marching.depths import Draws, coarse_depths
from eg3d_renderer.marching.planes import Axes, check_axes
from eg3d_renderer.networks.decoder import Decoder
from eg3d_renderer.networks.mapping import Mapping
from eg3d_renderer.networks.superresolution import NO_MODULE, NoSuperResolution, SuperResolution
from eg3d_renderer.networks.synthesis import Backbone, Synthesis
from eg3d_renderer.ops import native
from eg3d_renderer.ops.march import Limits, prepare
from eg3d_renderer.ops.march.reference import Field
from eg3d_renderer.ops.styled_conv import check_precision
from eg3d_renderer.options import marching_settings, noise_mode, option
from eg3d_renderer.views import Identity, render_views, together


class TriPlaneGenerator(nn.Module, ABC):
    """Mapping, backbone, planes, decoder, marching, super-resolution (Chan et al., 2022).

    Arguments and state-dict keys are those of the published code. Everything is differentiable;
    `load_generator` returns generators that do not require gradients.
    """

    family: str
    default_axes: Axes
    sampler: str  # how planes are read: one of ops.march.KINDS
    style = "natural"
    precision = "exact"  # see `set_precision`
    truncation_psi = 0.7  # of the published samples
    digest = ""  # of the checkpoint, where there is one
    triplane_crop: float | None = None  # width of the margin in x and z where nothing is rendered
    cull_clouds: float | None = None  # a threshold: see marching.density
    binarize_clouds: float | None = None

    def __init__(
        self,
        *,
        rendering_kwargs: dict[str, Any],
        img_resolution: int,
        z_dim: int = 512,
        c_dim: int = 25,
        w_dim: int = 512,
        mapping_kwargs: dict[str, Any] | None = None,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        conv_clamp: float | None = None,
        sr_num_fp16_res: int = 0,
        neural_rendering_resolution: int = 64,
        plane_axes: Axes | None = None,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.img_resolution: int | None = img_resolution
        self.neural_rendering_resolution = neural_rendering_resolution
        self.rendering_kwargs = rendering_kwargs
        self.axes = check_axes(plane_axes or self.default_axes)
        self.instance = slice(z_dim, z_dim)  # one style: no part of z sets an instance of it
        self.settings = marching_settings(rendering_kwargs, self.decoder_activation == "sigmoid")
        self.sr_noise_mode = noise_mode(rendering_kwargs)
        self.synthesis_kwargs: dict[str, Any] = {
            "channel_max": channel_max,
            "conv_clamp": conv_clamp,
            "num_fp16_res": num_fp16_res,
        }
        synthesis = Synthesis(
            w_dim,
            self.backbone_resolution,
            self.backbone_channels,
            channel_base=channel_base,
            **self.synthesis_kwargs,
        )
        self.num_ws = synthesis.num_ws
        mapping = Mapping(z_dim, c_dim, w_dim, self.num_ws, **(mapping_kwargs or {}))
        self.backbone = Backbone(mapping, synthesis)
        module = option(rendering_kwargs, "superresolution_module")
        if module == NO_MODULE:
            self.img_resolution = None
            self.superresolution: SuperResolution | NoSuperResolution = NoSuperResolution()
        else:
            self.superresolution = SuperResolution(
                module,
                img_resolution,
                w_dim,
                sr_num_fp16_res,
                option(rendering_kwargs, "sr_antialias", True),
            )
        lr_multiplier = option(rendering_kwargs, "decoder_lr_mul", 1)
        self.decoder = Decoder(self.decoder_activation, lr_multiplier)

    # What a family says of itself

    @property
    @abstractmethod
    def backbone_resolution(self) -> int:
        """Pixels on a side of the backbone's image."""

    @property
    @abstractmethod
    def backbone_channels(self) -> int: ...

    @property
    @abstractmethod
    def decoder_activation(self) -> str:
        """One of `networks.decoder.ACTIVATIONS`."""

    @property
    @abstractmethod
    def camera(self) -> dict[str, Any]:
        """radius, pivot and focal of the cameras this generator was published with."""

    @abstractmethod
    def arrange(self, img: Tensor) -> Tensor:
        """The backbone's image [N, C, H, W] -> planes."""

    def for_sampling(self, planes: Tensor) -> Tensor:
        """One identity's planes as `features` reads them fastest."""
        return planes

    @abstractmethod
    def features(self, planes: Tensor, points: Tensor) -> Tensor:
        """One identity's planes, points [P, 3] in [-1, 1] -> [P, 32]."""

    @abstractmethod
    def background(self, ws: Tensor, resolution: int) -> Tensor | None:
        """What lies behind, [N, 32, resolution, resolution]; None where the family has nothing."""

    @abstractmethod
    def raw_image(self, features: Tensor, ws: Tensor) -> Tensor:
        """Rendered features [V, 32, h, w] -> image_raw [V, 3, h, w]."""

    @abstractmethod
    def mask(self, opacity: Tensor) -> Tensor:
        """The sum of a ray's weights -> image_mask."""

    # What all do

    @property
    def implementations(self) -> dict[str, str]:
        """For each op of `eg3d_renderer.ops` that has kernels: "native", or "reference"."""
        return native.implementations(next(self.parameters()).device)

    def mapping(
        self,
        z: Tensor,
        conditioning: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """z [N, z_dim], camera labels [N, 25] or one [1, 25] -> ws [N, num_ws, w_dim].

        Without labels all are conditioned on the frontal camera. Raises RendererError for a z of
        another width, or with a value that is not finite.
        """
        _check_latents(z, self.z_dim)
        size = together(z, 1, len(z))
        labels = self._conditioning(z, conditioning).split(size)
        return torch.cat(
            [
                self.backbone.mapping(latents, c, truncation_psi, truncation_cutoff)
                for latents, c in zip(z.split(size), labels, strict=True)
            ]
        )

    def set_precision(self, precision: str) -> None:
        """Compute all in float32 ("exact"), or texels and super-resolution in half ("fast").

        Raises RendererError for another word.
        """
        check_precision(precision)
        self.precision = precision
        self.superresolution.set_precision(precision)

    def planes(self, ws: Tensor) -> Tensor:
        """ws [N, num_ws, w_dim] -> the identities' planes, one row each, channels last in memory.

        EG3D [N, 3, 32, H, W], PanoHead [N, 3, 32 D, H, W], SphereHead [N, 2, 3, 32, H, W].
        """
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise RendererError(
                f"planes: ws has shape {list(ws.shape)}, expected [N, {self.num_ws}, {self.w_dim}]"
            )
        batches = ws.split(together(ws, 1, len(ws)))
        made = [
            self.arrange(self.backbone.synthesis(w, "const")).movedim(-3, -1).contiguous()
            for w in batches
        ]
        return (made[0] if len(made) == 1 else torch.cat(made)).movedim(-1, -3)

    def render(
        self,
        planes: Tensor,
        ws: Tensor,
        cam: Tensor,
        neural_rendering_resolution: int | None = None,
        *,
        jitter: torch.Generator | Draws | None = None,
        memory: int | None = None,
    ) -> dict[str, Tensor]:
        """Views of one identity (planes and ws of one row) or of V identities, one camera each.

        cam [V, 25]. Returns image [V, 3, R, R] and image_raw [V, 3, h, h], about [-1, 1];
        image_depth [V, 1, h, h], distance along the unit ray; image_mask [V, 1, h, h] in [0, 1],
        of PanoHead and SphereHead a thousandth beyond.
        h is `neural_rendering_resolution`, by default the checkpoint's. `jitter` None samples the
        middle of every bin, a torch.Generator draws as the published code does. `memory` bounds
        the bytes in flight on a GPU, beside weights, planes and results; None is half of what is
        free. On a CPU rays and views are taken a fixed few at a time, so that a view's bits depend
        on nothing but itself.
        """
        if not (len(ws) == len(planes) and len(ws) in (1, len(cam))):
            raise RendererError(
                f"render: {len(planes)} planes, {len(ws)} ws, {len(cam)} cameras; "
                "give one identity, or as many as cameras"
            )
        resolution = neural_rendering_resolution or self.neural_rendering_resolution
        views = [
            render_views(
                self,
                self.prepare(planes[n : n + 1], ws[n : n + 1], resolution),
                labels,
                resolution,
                jitter,
                memory,
            )
            for n, labels in enumerate([cam] if len(ws) == 1 else cam.split(1))
        ]
        return {name: torch.cat([view[name] for view in views]) for name in views[0]}

    def synthesis(
        self,
        ws: Tensor,
        cam: Tensor,
        neural_rendering_resolution: int | None = None,
        **options: Any,
    ) -> dict[str, Tensor]:
        """`render` of `planes(ws)`, bit for bit; its options are those of `render`."""
        return self.render(self.planes(ws), ws, cam, neural_rendering_resolution, **options)

    def forward(
        self,
        z: Tensor,
        c: Tensor,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        neural_rendering_resolution: int | None = None,
        **options: Any,
    ) -> dict[str, Tensor]:
        """As in training: z [N, z_dim], c [N, 25], one view each, conditioned on its own camera."""
        ws = self.mapping(z, c, truncation_psi, truncation_cutoff)
        cam = self.shift_camera(z, c, truncation_psi, truncation_cutoff)
        return self.synthesis(ws, cam, neural_rendering_resolution, **options)

    def shift_camera(
        self,
        z: Tensor,
        c: Tensor,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """Labels [N, 25] moved by what the latents say of their own misalignment."""
        return c

    def field(self, planes: Tensor) -> Field:
        """One identity's planes -> a function from points [P, 3] in world units to sigma [P] and
        colour features [P, 32], as they are rendered: cropped and culled."""
        sampled = cache(lambda: self.for_sampling(planes))  # no memory until it is looked at

        def look(points: Tensor) -> tuple[Tensor, Tensor]:
            features = self.features(sampled(), points * (2 / self.settings.box))
            sigma, colour = self.decoder(features)
            if self.triplane_crop is not None:
                sigma = density.crop(points, sigma, self.settings.box / 2 - self.triplane_crop)
            if self.cull_clouds is not None:
                sigma = density.cull(sigma, self.cull_clouds)
            if self.binarize_clouds is not None:
                sigma = density.binarize(sigma, self.binarize_clouds)
            return sigma, colour

        return look

    def prepare(self, planes: Tensor, ws: Tensor, resolution: int) -> Identity:
        """What all views of an identity share: planes [1, ...] and ws [1, num_ws, w_dim] ready to
        be marched at a resolution, the background, the weights of the super-resolution."""
        scene = prepare(
            self.field(planes[0]),
            self.settings,
            self.for_sampling(planes[0]),
            self.sampler,
            self.axes,
            self.decoder,
            Limits(
                None if self.triplane_crop is None else self.settings.box / 2 - self.triplane_crop,
                self.cull_clouds,
                self.binarize_clouds,
            ),
            precision=self.precision,
        )
        weights = self.superresolution.prepare(ws)
        return Identity(scene, ws, weights, self.background(ws, resolution))

    def density_field(self, planes: Tensor, ws: Tensor) -> mesh.Field:
        """One identity's planes and ws -> a function from points [P, 3] in world units to sigma [P]
        and the colours [P, 3] that image_raw has there, about [-1, 1]."""
        look = self.field(planes[0])

        def seen(points: Tensor) -> tuple[Tensor, Tensor]:
            sigma, features = look(points)
            if self.settings.signed:
                features = features * 2 - 1
            return sigma, self.raw_image(features.T[None, :, None], ws)[0, :, 0].T

        return seen

    def depth_range(self, cam: Tensor) -> tuple[float, float]:
        """Between what depths anything can be rendered, from cameras [V, 25]."""
        s = self.settings
        if s.start is None or s.end is None:
            reach = math.sqrt(3) / 2 * s.box
            distance = cameras.split(cam)[0][:, :3, 3].norm(dim=1)
            beyond = 2 * reach / (s.samples - 1)  # the last sample's bin
            return max(0.0, float(distance.min()) - reach), float(distance.max()) + reach + beyond
        start, end, late = (cam.new_full([1, 1], value) for value in (s.start, s.end, 1))
        return s.start, float(coarse_depths(start, end, s.samples, late, s.disparity).max())

    def _conditioning(self, z: Tensor, label: Tensor | None) -> Tensor:
        """What the mapping is told of the camera, [N, c_dim]."""
        if self.c_dim == 0:
            return z.new_zeros(len(z), 0)
        if label is None:
            label = cameras.orbit(1, **self.camera)
        if label.ndim != 2 or label.shape[1] != self.c_dim or len(label) not in (1, len(z)):
            raise RendererError(
                f"mapping: conditioning has shape {list(label.shape)}, "
                f"expected [{len(z)}, {self.c_dim}] or [1, {self.c_dim}]"
            )
        c = label.to(z.device).expand(len(z), -1)
        if option(self.rendering_kwargs, "c_gen_conditioning_zero", False):
            c = torch.zeros_like(c)
        return c * option(self.rendering_kwargs, "c_scale", 0)

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        # a statistic of the training set that snapshots carry and rendering has no use for
        if f"{prefix}dataset_label_std" in state and not hasattr(self, "dataset_label_std"):
            self.register_buffer("dataset_label_std", torch.zeros(self.c_dim))
        super()._load_from_state_dict(state, prefix, *rest)


def _check_latents(z: Tensor, z_dim: int) -> None:
    if z.ndim != 2 or z.shape[1] != z_dim:
        raise RendererError(f"mapping: z has shape {list(z.shape)}, expected [N, {z_dim}]")
    bad = (~torch.isfinite(z)).any(dim=1).nonzero().view(-1).tolist()
    if bad:
        raise RendererError(f"mapping: non-finite latent in row {bad[0]} of z; draw it again")
