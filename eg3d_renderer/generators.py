"""What a generator is, and how to get one."""

import difflib
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from eg3d_renderer.demo.generator import ProceduralHeads
from eg3d_renderer.demo.styles import STYLES
from eg3d_renderer.errors import RendererError


@runtime_checkable
class Generator(Protocol):
    """A 3D-aware generator: latents to ws, ws to planes, planes and a camera to a view.

    Names are EG3D's (Chan et al., 2022). `synthesis(ws, cam)` equals
    `render(planes(ws), ws, cam)` bit for bit; the second form makes an identity once, however many
    views it is seen from.
    """

    z_dim: int
    w_dim: int
    num_ws: int
    instance: slice  # the dimensions of z that set a style's instance; empty for a GAN of one style
    rendering_kwargs: dict[str, Any]  # ray_start, ray_end, box_warp, ...
    neural_rendering_resolution: int
    style: str
    digest: str  # sha256 hex: names what made the images

    def mapping(
        self,
        z: Tensor,
        conditioning: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """z [N, z_dim], camera labels [N, 25] or None -> ws [N, num_ws, w_dim]."""
        ...

    def planes(self, ws: Tensor) -> Tensor:
        """ws [N, num_ws, w_dim] -> the identity's 3D representation, one row an identity."""
        ...

    def render(
        self,
        planes: Tensor,
        ws: Tensor,
        cam: Tensor,
        neural_rendering_resolution: int | None = None,
    ) -> dict[str, Tensor]:
        """One identity [1, ...] from V cameras, or V identities from one camera each.

        Returns image [V, 3, H, W] and image_raw [V, 3, h, w] in [-1, 1] on white, image_depth
        [V, 1, h, w] (distance along the unit ray, background = ray_end) and image_mask
        [V, 1, h, w] in [0, 1].
        """
        ...

    def synthesis(
        self, ws: Tensor, cam: Tensor, neural_rendering_resolution: int | None = None
    ) -> dict[str, Tensor]:
        """`render` of `planes(ws)`."""
        ...


def latents(seeds: list[int] | range, z_dim: int) -> Tensor:
    """z [N, z_dim] float32; row i is what EG3D draws for `--seeds=seeds[i]`."""
    rows = [np.random.RandomState(seed).randn(1, z_dim) for seed in seeds]
    return torch.from_numpy(np.concatenate(rows).astype(np.float32))


def load_generator(source: str, device: str | torch.device = "cpu") -> Generator:
    """The generator named by `source`: "procedural" (natural heads) or "procedural:STYLE".

    Raises RendererError, naming what can be loaded, for anything else.
    """
    family, _, style = source.partition(":")
    style = style or "natural"
    if family != "procedural":
        raise RendererError(
            f"generator {source!r}: not known; use 'procedural' or 'procedural:STYLE' "
            f"with STYLE one of {', '.join(STYLES)}"
        )
    if style not in STYLES:
        near = difflib.get_close_matches(style, STYLES, n=1, cutoff=0.4)
        hint = f"did you mean 'procedural:{near[0]}'? " if near else ""
        raise RendererError(
            f"generator {source!r}: no style {style!r}; {hint}styles: {', '.join(STYLES)}"
        )
    return ProceduralHeads(style, device)
