"""One camera and what it is made of: a pose, a lens, a label, the rays through its pixels."""

import math

import torch
from torch import Tensor

from eg3d_renderer.errors import RendererError

FOCAL = 4.2634  # of "FOV 18.837"; the true horizontal angle is 13.38 degrees
RADIUS = 2.7
POLE_MARGIN = 1e-5
TOLERANCE = 1e-4  # of R R^T = 1 in a label


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


def focal_from_fov(degrees: float) -> float:
    """The focal length of what EG3D's scripts call a field of view, in image widths.

    Their formula divides by 1.414 (and takes pi as 3.14159), so the image spans less than it says:
    "18.837" gives 4.2634, which sees 13.38 degrees across. Raises RendererError for an angle that
    is not between 0 and 180.
    """
    if not 0 < degrees < 180:
        raise RendererError(f"field of view: {degrees} degrees; give one between 0 and 180")
    return 1 / (math.tan(degrees * 3.14159 / 360) * 1.414)


def label(cam2world: Tensor, k: Tensor) -> Tensor:
    """cam2world [..., 4, 4], intrinsics [..., 3, 3] or one [3, 3] for all -> label [..., 25]."""
    k = k.expand(*cam2world.shape[:-2], 3, 3)
    return torch.cat([cam2world.flatten(-2), k.flatten(-2)], dim=-1)


def split(label: Tensor) -> tuple[Tensor, Tensor]:
    """Label [..., 25] -> cam2world [..., 4, 4], intrinsics [..., 3, 3]."""
    if label.shape[-1] != 25:
        raise RendererError(f"camera label: the last dimension is {label.shape[-1]}, expected 25")
    cam2world = label[..., :16].reshape(*label.shape[:-1], 4, 4)
    return cam2world, label[..., 16:].reshape(*label.shape[:-1], 3, 3)


def validate(labels: Tensor, where: str = "camera labels") -> None:
    """Check that labels [V, 25] are cameras, whatever made them; `where` begins the complaint.

    Raises RendererError that names the first view whose numbers are not finite, whose rotation is
    not orthonormal (within 1e-4) and right-handed, or whose focal lengths are not positive.
    """
    if labels.ndim != 2 or labels.shape[1] != 25 or len(labels) == 0:
        raise RendererError(f"{where}: the shape is {list(labels.shape)}, expected [V, 25]")
    cam2world, k = split(labels.detach().double().cpu())
    rotation = cam2world[:, :3, :3]
    off = (rotation @ rotation.mT - torch.eye(3, dtype=torch.float64)).abs().amax((1, 2))  # [V]
    for wrong, what in (
        (~torch.isfinite(labels.cpu()).all(1), "a number is not finite"),
        (
            (cam2world[:, 3] != torch.tensor([0, 0, 0, 1])).any(1),
            "the last row of cam2world is not 0 0 0 1; is the matrix column by column?",
        ),
        (
            off > TOLERANCE,
            f"the rotation is not orthonormal (off by up to {off.max():.2g}); remove its scale",
        ),
        (
            torch.linalg.det(rotation) < 0,
            "the axes are left-handed, a mirror image; turn one of them round",
        ),
        (
            (k[:, 0, 0] <= 0) | (k[:, 1, 1] <= 0),
            "a focal length is not positive; give it in image widths",
        ),
        (
            (k[:, 1, 0] != 0) | (k[:, 2] != torch.tensor([0, 0, 1])).any(1),
            "the intrinsics are not fx s cx, 0 fy cy, 0 0 1, row by row",
        ),
    ):
        if wrong.any():
            raise RendererError(f"{where}: view {int(wrong.nonzero()[0])}: {what}")


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
