"""Exact correspondences between views of one head, from their depth and cameras.

Conventions: a camera is 25 numbers, 16 row-major cam2world (OpenCV: x right, y down, z forward) and
9 intrinsics normalised by the image size; pixel centres at (i + 0.5) / R; depth is the distance
from the camera centre along the UNIT ray through the pixel centre, the background lying at the
largest depth and excluded by `background`.
"""

import torch
import torch.nn.functional as F


def unproject(depth: torch.Tensor, camera: torch.Tensor) -> torch.Tensor:
    """World points [H, W, 3] of a depth map [1, H, W] seen by camera [25]."""
    cam2world, intrinsics = camera[:16].view(4, 4), camera[16:].view(3, 3)
    height, width = depth.shape[-2:]
    v, u = torch.meshgrid(
        (torch.arange(height, device=depth.device) + 0.5) / height,
        (torch.arange(width, device=depth.device) + 0.5) / width,
        indexing="ij",
    )
    pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1).to(camera)  # [H, W, 3]
    rays = F.normalize(pixels @ torch.linalg.inv(intrinsics).T, dim=-1) @ cam2world[:3, :3].T
    return cam2world[:3, 3] + depth[0].to(camera).unsqueeze(-1) * rays


def project(points: torch.Tensor, camera: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Image positions [..., 2] and distances [...] of world points [..., 3].

    Positions are u right, v down, 0..1 inside the image; NaN for points behind the camera.
    """
    cam2world, intrinsics = camera[:16].view(4, 4), camera[16:].view(3, 3)
    seen = (points - cam2world[:3, 3]) @ cam2world[:3, :3]  # world to camera: R^T (p - o)
    image = seen @ intrinsics.T
    z = torch.where(seen[..., 2:] > 0, image[..., 2:], torch.nan)
    return image[..., :2] / z, seen.norm(dim=-1)


def warp(
    image_i: torch.Tensor,
    depth_i: torch.Tensor,
    depth_j: torch.Tensor,
    camera_i: torch.Tensor,
    camera_j: torch.Tensor,
    *,
    background: float,
    tolerance: float = 0.01,
) -> tuple[torch.Tensor, torch.Tensor]:
    """View i seen from camera j: image [C, H, W] in j's frame, and its validity, bool [1, H, W].

    Backward warp: each pixel of j is unprojected with depth_j, projected into i, and looked up
    bilinearly. Valid: foreground in j, inside i, and not occluded in i, that is, all four
    neighbouring depths of i are foreground and the nearest of them agrees with the point's
    distance within the relative `tolerance`. image_i [C, H, W]; depths [1, H, W]; cameras [25].
    """
    points = unproject(depth_j, camera_j)  # [H, W, 3]
    position, distance = project(points, camera_i)
    inside = ((position > 0) & (position < 1)).all(-1)  # False where NaN
    grid = torch.nan_to_num(position, nan=-2.0).unsqueeze(0) * 2 - 1

    def look_up(x: torch.Tensor) -> torch.Tensor:
        sampled = F.grid_sample(x[None].to(grid), grid, padding_mode="border", align_corners=False)
        return sampled[0]

    foreground_i = look_up((depth_i < background).float())[0] > 0.999
    agrees = (look_up(depth_i)[0] - distance).abs() < tolerance * distance
    valid = (depth_j[0] < background) & inside & foreground_i & agrees
    warped = torch.where(valid, look_up(image_i), 0.0)
    return warped.to(image_i.dtype), valid.unsqueeze(0)
