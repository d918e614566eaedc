"""What a depth image says of the surface: z-depth, world points, normals.

`image_depth` holds the distance along the unit ray through a pixel's centre; many tools take the
depth along the optical axis instead. Nothing here depends on the number of views: a view alone has
the same bits as in a batch.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from eg3d_renderer import cameras
from eg3d_renderer.errors import RendererError


def z_depth(distance: Tensor, cam: Tensor) -> Tensor:
    """Distance along the ray [V, 1, R, R], labels [V, 25] -> depth along the axis [V, 1, R, R].

    Raises RendererError for shapes that do not fit, as all functions here.
    """
    return distance * camera_rays(distance, cam)[:, 2:]


def ray_distance(z: Tensor, cam: Tensor) -> Tensor:
    """The inverse of `z_depth`: depth along the axis [V, 1, R, R] -> distance along the ray."""
    return z / camera_rays(z, cam)[:, 2:]


def unproject(distance: Tensor, cam: Tensor) -> Tensor:
    """Distance along the ray [V, 1, R, R], labels [V, 25] -> world points [V, 3, R, R]."""
    check_shapes(distance, cam)
    origins, directions = (as_image(v) for v in cameras.rays(cam, distance.shape[-1]))
    return origins + distance * directions


def normals(distance: Tensor, mask: Tensor, cam: Tensor) -> Tensor:
    """Unit normals [V, 3, R, R] in camera axes: x right, y down, z forward.

    `distance` and `mask` are [V, 1, R, R], `cam` is [V, 25]. A normal is the cross product of the
    differences to one neighbour in the row and one in the column, on each axis the one whose depth
    is nearer, so that none reaches over a silhouette. It looks to the camera: its product with the
    ray is negative, and so is its z but for grazing rays away from the axis. Zero where the mask is
    below 0.5, or where a row or column has no neighbour in it.
    """
    rays = camera_rays(distance, cam)
    if mask.shape != distance.shape:
        raise RendererError(
            f"normals: mask has shape {list(mask.shape)}, depth {list(distance.shape)}; "
            "give them the same"
        )
    inside = mask >= 0.5
    points = torch.where(inside, distance * rays, 0.0)
    right, has_right = difference(points, inside, dim=3)
    down, has_down = difference(points, inside, dim=2)
    x = down[:, 1] * right[:, 2] - down[:, 2] * right[:, 1]
    y = down[:, 2] * right[:, 0] - down[:, 0] * right[:, 2]
    z = down[:, 0] * right[:, 1] - down[:, 1] * right[:, 0]
    length = torch.sqrt(x * x + y * y + z * z)
    normal = torch.stack([x / length, y / length, z / length], dim=1)
    return torch.where(has_right & has_down & (length > 0)[:, None], normal, 0.0)


def difference(points: Tensor, inside: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Steps [V, 3, R, R] from pixel to pixel along `dim`, and where there is one, [V, 1, R, R].

    Of the steps from the pixel before and to the pixel after the one with less change of z.
    """
    step = points.diff(dim=dim)
    pairs = step.shape[dim]
    joined = inside.narrow(dim, 0, pairs) & inside.narrow(dim, 1, pairs)
    jump = torch.where(joined, step[:, 2:].abs(), math.inf)
    other_axes = (0, 0) * (3 - dim)  # `pad` counts from the last axis
    to_next, from_last = (*other_axes, 0, 1), (*other_axes, 1, 0)
    next_jump, last_jump = (pad(jump, side, value=math.inf) for side in (to_next, from_last))
    chosen = torch.where(next_jump <= last_jump, pad(step, to_next), pad(step, from_last))
    return chosen, torch.minimum(next_jump, last_jump) < math.inf


def camera_rays(depth: Tensor, cam: Tensor) -> Tensor:
    """Unit rays [V, 3, R, R] in camera axes through the pixel centres of `depth` [V, 1, R, R]."""
    check_shapes(depth, cam)
    unmoved = torch.eye(4).to(cam).view(1, 16).expand(len(cam), 16)
    _, directions = cameras.rays(torch.cat([unmoved, cam[:, 16:]], dim=1), depth.shape[-1])
    return as_image(directions)


def as_image(rows: Tensor) -> Tensor:
    """[V, R * R, 3] -> [V, 3, R, R]."""
    resolution = math.isqrt(rows.shape[1])
    return rows.mT.reshape(len(rows), 3, resolution, resolution)


def check_shapes(depth: Tensor, cam: Tensor) -> None:
    views = depth.shape[:1]
    if depth.ndim != 4 or depth.shape != (*views, 1, depth.shape[-1], depth.shape[-1]):
        raise RendererError(f"depth: its shape is {list(depth.shape)}, expected [V, 1, R, R]")
    if cam.shape != (*views, 25):
        raise RendererError(
            f"cameras: the shape is {list(cam.shape)}, expected {[*views, 25]} for this depth"
        )
