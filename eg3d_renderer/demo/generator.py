"""Procedural heads behind the interface of a 3D GAN."""

import hashlib
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eg3d_renderer import cameras, mesh
from eg3d_renderer.demo import anatomy, shading, tracing
from eg3d_renderer.demo.heads import IDENTITY, Head, head_from
from eg3d_renderer.demo.styles import STYLES
from eg3d_renderer.errors import RendererError
from eg3d_renderer.networks.mapping import normalize_2nd_moment

FRAME = tracing.Frame(scale=0.19, centre=(0.0, 0.018, 0.02))


class ProceduralHeads:
    """Heads of every kind from signed distances: an exact 3D generator that needs no weights.

    Each dimension of z, brought to mean square 1, is one property through w = erf(z / sqrt 2),
    close to uniform in (-1, 1). The heads are not pose-conditioned: `mapping` takes `conditioning`
    for the interface's sake and does not read it.
    """

    z_dim = w_dim = 48
    num_ws = 1
    instance = slice(IDENTITY, 48)
    neural_rendering_resolution = 128
    img_resolution = None
    truncation_psi = 1.0
    supersampling = 2

    def __init__(self, style: str = "natural", device: str | torch.device = "cpu") -> None:
        self.style = style
        self.device = torch.device(device)
        self.look = STYLES[style]
        self.rendering_kwargs: dict[str, Any] = {
            "ray_start": 2.25,
            "ray_end": 3.3,
            "box_warp": 1,
            "avg_camera_radius": 2.7,
            "avg_camera_pivot": [0, 0, 0],
            "white_back": True,
        }
        self.digest = digest(style)
        if self.device.type == "cpu":
            # glibc maps large blocks afresh, page by page, until it has freed one of this size
            torch.empty(7 << 20)

    @property
    def implementations(self) -> dict[str, str]:
        return {}

    @property
    def camera(self) -> dict[str, Any]:
        return {"radius": cameras.RADIUS, "pivot": (0.0, 0.0, 0.0), "focal": cameras.FOCAL}

    def depth_range(self, cam: Tensor) -> tuple[float, float]:
        """ray_start to ray_end, whatever the cameras [V, 25]: the background lies at ray_end."""
        return self.rendering_kwargs["ray_start"], self.rendering_kwargs["ray_end"]

    def mapping(
        self,
        z: Tensor,
        conditioning: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """z [N, 48] -> ws [N, 1, 48] in (-1, 1); truncation draws the identity to the mean head.

        Raises RendererError for a z of another width or with a value that is not finite.
        """
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise RendererError(f"mapping: z has shape {list(z.shape)}, expected [N, {self.z_dim}]")
        bad = (~torch.isfinite(z)).any(dim=1).nonzero().view(-1).tolist()
        if bad:
            raise RendererError(f"mapping: non-finite latent in row {bad[0]} of z; draw it again")
        w = torch.erf(normalize_2nd_moment(z.to(self.device, torch.float32)) / math.sqrt(2))
        if truncation_cutoff is None or truncation_cutoff > 0:
            w[:, :IDENTITY] *= truncation_psi
        return w[:, None]

    def planes(self, ws: Tensor) -> Tensor:
        """ws [N, 1, 48] -> the clearance lattices [N, 1, Z, Y, X], one an identity."""
        with torch.inference_mode():
            heads = [self.head(w) for w in ws]
            return torch.cat(
                [
                    tracing.lattice(partial(anatomy.distance, head=h, whole=True), self.device)
                    for h in heads
                ]
            )

    def render(
        self,
        planes: Tensor,
        ws: Tensor,
        cam: Tensor,
        neural_rendering_resolution: int | None = None,
    ) -> dict[str, Tensor]:
        """Views of one identity (ws [1, 1, 48], cam [V, 25]) or of V identities, one camera each.

        Image [V, 3, R, R] in [-1, 1] on white, image_raw the same, image_depth [V, 1, R, R] along
        the unit ray (background = ray_end), image_mask [V, 1, R, R] in [0, 1].
        """
        if not (len(ws) == len(planes) and len(ws) in (1, len(cam))):
            raise RendererError(
                f"render: {len(planes)} planes, {len(ws)} ws, {len(cam)} cameras; "
                "give one identity, or as many as cameras"
            )
        resolution = neural_rendering_resolution or self.neural_rendering_resolution
        views = []
        with torch.inference_mode():
            for i, label in enumerate(cam):
                n = i if len(ws) > 1 else 0
                views.append(self._view(planes[n : n + 1], ws[n], label, resolution))
        image, depth, mask = (torch.stack(v) for v in zip(*views, strict=True))
        return {"image": image, "image_raw": image, "image_depth": depth, "image_mask": mask}

    def synthesis(
        self, ws: Tensor, cam: Tensor, neural_rendering_resolution: int | None = None
    ) -> dict[str, Tensor]:
        """`render` of `planes(ws)`, bit for bit."""
        return self.render(self.planes(ws), ws, cam, neural_rendering_resolution)

    def density_field(self, planes: Tensor, ws: Tensor) -> mesh.Field:
        """One identity as a density with colours: see `demo.field`."""
        from eg3d_renderer.demo.field import density_field

        return density_field(self, planes, ws)

    def head(self, w: Tensor) -> Head:
        code = w[0].tolist()
        return self.look.reshape(head_from(code[:IDENTITY]), code[IDENTITY:])

    def _view(
        self, planes: Tensor, w: Tensor, cam: Tensor, resolution: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        head, instance = self.head(w), w[0, IDENTITY:].tolist()
        ray_start, ray_end = (self.rendering_kwargs[k] for k in ("ray_start", "ray_end"))
        span = (ray_start / FRAME.scale, ray_end / FRAME.scale)
        parts = partial(anatomy.parts, head=head)

        def colour(rays: tracing.Rays, t: Tensor) -> Tensor:
            return self.look.shade(shading.surface(parts, planes, rays, t), head, instance)

        image, depth, mask = tracing.render_view(
            partial(anatomy.distance, head=head),
            colour,
            planes,
            cam,
            FRAME,
            span,
            resolution,
            self.supersampling,
        )
        depth = torch.where(depth < span[1], depth * FRAME.scale, ray_end)
        shape = (-1, resolution, resolution)
        return image.mul_(2).sub_(1).view(shape), depth.view(shape), mask.view(shape)


def digest(style: str) -> str:
    """sha256 of the style's name and of every source file that images are made by."""
    folder = Path(__file__).parent
    drawn = [*sorted(folder.glob("*.py")), *sorted((folder / "styles").glob("*.py"))]
    sources = [*drawn, folder.parent / "cameras" / "poses.py"]
    hashed = hashlib.sha256(style.encode())
    for path in sources:
        hashed.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return hashed.hexdigest()
