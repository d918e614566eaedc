"""Camera labels in the convention of EG3D (Chan et al., 2022): poses, orbits, rays.

A label is 25 float32: 16 of the row-major cam2world matrix, then 9 of the row-major intrinsics,
normalised by the image size (so that they hold at any resolution).

    world                          camera (OpenCV)            image, R x R pixels
        y                             z  forward              (0,0)----> u = (i + 0.5) / R
        |   the face                 /                          |
        |   looks to +z             o----> x  right             |
        o-----> x                   |                           v = (j + 0.5) / R
       /                            y  down
      z

Seen from above, an orbit starts in front of the face and goes towards +x:

              back, view V/2
                   -z
                    |
           -x ---- head ---- +x  view V/4        azimuth of view i = 360 i / V degrees
                    |                            pose yaw = pi/2 + azimuth
                   +z
              front, view 0
"""

import math

import torch
from torch import Tensor

from eg3d_renderer.errors import RendererError

FOCAL = 4.2634  # of "FOV 18.837"; the true horizontal angle is 13.37 degrees
RADIUS = 2.7
POLE_MARGIN = 1e-5


def sample_pose(
    yaw: float | Tensor,
    pitch: float | Tensor,
    pivot: tuple[float, float, float] = (0.0, 0.0, 0.0),
    radius: float = RADIUS,
) -> Tensor:
    """Cameras on a sphere around the origin that look at `pivot`, as EG3D's pose sampler.

    `yaw` in radians, pi/2 is frontal. `pitch` is EG3D's: the polar angle is
    arccos(1 - 2 pitch / pi), so pi/2 is level and the scale is not linear in degrees.
    Both are numbers or tensors that broadcast. Returns cam2world [V, 4, 4] float32.
    """
    theta, v = torch.broadcast_tensors(
        torch.as_tensor(yaw, dtype=torch.float64).reshape(-1),
        torch.as_tensor(pitch, dtype=torch.float64).reshape(-1),
    )
    polar = torch.arccos(1 - 2 * v.clamp(POLE_MARGIN, math.pi - POLE_MARGIN) / math.pi)
    origin = radius * torch.stack(
        [
            torch.sin(polar) * torch.cos(math.pi - theta),
            torch.cos(polar),
            torch.sin(polar) * torch.sin(math.pi - theta),
        ],
        dim=-1,
    )  # [V, 3]
    forward = torch.tensor(pivot, dtype=torch.float64) - origin
    forward = forward / forward.norm(dim=-1, keepdim=True)
    up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).expand_as(forward)
    right = torch.linalg.cross(forward, up)
    right = right / right.norm(dim=-1, keepdim=True)
    down = torch.linalg.cross(forward, right)
    cam2world = torch.eye(4, dtype=torch.float64).repeat(len(origin), 1, 1)
    cam2world[:, :3] = torch.stack([right, down, forward, origin], dim=-1)
    return cam2world.float()


def intrinsics(focal: float = FOCAL) -> Tensor:
    """Normalised intrinsics [3, 3] with the principal point in the middle of the image."""
    return torch.tensor([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])


def orbit(
    views: int,
    *,
    elevation: float = 0.0,
    radius: float = RADIUS,
    pivot: tuple[float, float, float] = (0.0, 0.0, 0.0),
    focal: float = FOCAL,
) -> Tensor:
    """Labels [V, 25] of `views` cameras around the head; the order is drawn in the module text.

    `elevation` in degrees, positive looks down from above. Raises RendererError for no views, a
    camera at a pole, or a radius or focal length that is not positive.
    """
    if views < 1:
        raise RendererError(f"orbit: views is {views}; ask for at least 1")
    if not abs(elevation) < 90:
        raise RendererError(f"orbit: elevation is {elevation}; keep it between -90 and 90 degrees")
    if not (0 < radius < math.inf and 0 < focal < math.inf):
        raise RendererError(f"orbit: radius {radius}, focal {focal}; both must be positive")
    azimuth = torch.arange(views, dtype=torch.float64) * (2 * math.pi / views)
    pitch = math.pi / 2 * (1 - math.sin(math.radians(elevation)))
    cam2world = sample_pose(math.pi / 2 + azimuth, pitch, pivot, radius)
    return torch.cat(
        [cam2world.reshape(views, 16), intrinsics(focal).reshape(1, 9).expand(views, 9)], dim=1
    )


def split(label: Tensor) -> tuple[Tensor, Tensor]:
    """Label [..., 25] -> cam2world [..., 4, 4], intrinsics [..., 3, 3]."""
    if label.shape[-1] != 25:
        raise RendererError(f"camera label: the last dimension is {label.shape[-1]}, expected 25")
    cam2world = label[..., :16].reshape(*label.shape[:-1], 4, 4)
    return cam2world, label[..., 16:].reshape(*label.shape[:-1], 3, 3)


def rays(label: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Rays through the pixel centres, row by row.

    Label [V, 25] -> origins, unit directions, each [V, resolution ** 2, 3].
    """
    # one camera at a time: the bits of a view must not depend on how many views there are
    made = [_rays_of_one(one, resolution) for one in label]
    return torch.stack([origin for origin, _ in made]), torch.stack([ray for _, ray in made])


def _rays_of_one(label: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Rounded as the published code rounds: densities are steep enough to show the last bit."""
    cam2world, k = split(label)
    centres = pixel_centres(resolution, label.device).to(label.dtype)
    v, u = (t.reshape(-1) for t in torch.meshgrid(centres, centres, indexing="ij"))  # [R * R]
    fx, fy, cx, cy, skew = (k[i, j] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2), (0, 1)))
    x = (u - cx + cy * skew / fy - skew * v / fy) / fx
    y = (v - cy) / fy
    one = torch.ones_like(x)
    through = (cam2world @ torch.stack([x, y, one, one]))[:3].T  # world points, [R * R, 3]
    origin = cam2world[:3, 3].expand_as(through).contiguous()
    return origin, torch.nn.functional.normalize(through - origin, dim=-1)


def pixel_centres(resolution: int, device: torch.device | str = "cpu") -> Tensor:
    """(i + 0.5) / R for every pixel, [R]."""
    pixels = torch.arange(resolution, dtype=torch.float32, device=device)
    return pixels * (1 / resolution) + 0.5 / resolution
