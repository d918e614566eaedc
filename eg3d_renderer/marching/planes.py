"""Features of points in space, read off planes: tri-planes, tri-grids, spherical tri-planes.

Each family has a layout for its planes (whatever the sampling reads fastest) and a function from
points to features averaged over the planes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from eg3d_renderer.errors import RendererError
from eg3d_renderer.networks.decoder import FEATURES

Axes = list[list[list[float]]]  # three orthonormal frames: a plane's two axes and its normal

# (x, y), (x, z), (z, x): EG3D's released models have no (y, z) plane
EG3D_AXES: Axes = [
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    [[1, 0, 0], [0, 0, 1], [0, 1, 0]],
    [[0, 0, 1], [1, 0, 0], [0, 1, 0]],
]
# (x, y), (x, z), (y, z)
PANOHEAD_AXES: Axes = [
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    [[1, 0, 0], [0, 0, 1], [0, 1, 0]],
    [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
]


def sample_triplane(planes: Tensor, points: Tensor, axes: Axes) -> Tensor:
    """Planes [3, 32, H, W], points [P, 3] in [-1, 1] -> features [P, 32], the planes' mean.

    EG3D (Chan et al., 2022), section 4.1; zero outside of a plane.
    """
    grids = project(points, axes)
    return _mean([_bilinear(plane, grid[:, :2]) for plane, grid in zip(planes, grids, strict=True)])


def sample_trigrid(planes: Tensor, points: Tensor, axes: Axes) -> Tensor:
    """Planes [3, D * 32, H, W], slice by slice, points [P, 3] in [-1, 1] -> [P, 32].

    PanoHead (An et al., 2023), section 3.3: each plane is D slices deep. Trilinear, as a bilinear
    sample of all slices, weighted by their distance from the point.
    """
    depth = planes.shape[1] // FEATURES
    sampled = []
    for plane, grid in zip(planes, project(points, axes), strict=True):
        slices = _bilinear(plane, grid[:, :2]).split(FEATURES, dim=1)  # D x [P, 32]
        position = ((grid[:, 2:] + 1) * depth - 1) / 2  # [P, 1], in slices
        weights = [(1 - (position - i).abs()).clamp_min(0) for i in range(depth)]
        features = slices[0] * weights[0]
        for values, weight in zip(slices[1:], weights[1:], strict=True):
            features = torch.addcmul(features, values, weight)
        sampled.append(features)
    return _mean(sampled)


def by_slice(planes: Tensor) -> Tensor:
    """Planes [3, 32 * D, H, W] with the depth fastest, as PanoHead's backbone has them, for
    `sample_trigrid`: slice by slice, channels last in memory."""
    depth = planes.shape[1] // FEATURES
    slices = planes.unflatten(1, (FEATURES, depth)).permute(0, 3, 4, 2, 1)  # [3, H, W, D, 32]
    return slices.flatten(3).movedim(-1, 1)


def sample_spherical(planes: Tensor, points: Tensor, axes: Axes) -> Tensor:
    """Planes [2, 3, 32, H, W], points [P, 3] in [-1, 1] -> [P, 32].

    SphereHead (Li et al., 2024), section 3.2: two spheres whose poles lie along different axes,
    each read in its angles and radius, and weighted down towards its own seam and poles.
    """
    x, y, z = points.unbind(-1)
    radius = 2 * _length(x, y, z) / math.sqrt(3) - 1
    total = weight_sum = torch.zeros(())
    for sphere, (a, b, c) in zip(planes, ((z, y, -x), (-z, -x, y)), strict=True):
        theta = 2 * torch.atan2(torch.sqrt(a * a + b * b), c) / math.pi - 1
        phi = torch.atan2(b, a) / math.pi
        weight = (1 + torch.cos(math.pi * theta)) * (1 + torch.cos(math.pi * phi)) / 4
        at = torch.stack([theta, phi, radius], dim=-1)
        total = total + sample_triplane(sphere, at, axes) * weight[:, None]
        weight_sum = weight_sum + weight
    return total / (weight_sum[:, None] + 1e-8)


def project(points: Tensor, axes: Axes) -> list[Tensor]:
    """points [P, 3] -> for each plane [P, 3]: along its two axes and its normal."""
    return [torch.stack([_along(points, axis) for axis in frame], dim=-1) for frame in axes]


def check_axes(axes: Axes) -> Axes:
    """The axes, where they are three frames of signed coordinate axes; else RendererError."""
    unit = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    frames = [sorted([abs(value) for value in axis] for axis in frame) for frame in axes]
    if frames != 3 * [sorted(unit)]:
        raise RendererError(
            f"plane_axes: {axes} are not three frames of signed coordinate axes; "
            "no known generator has such planes"
        )
    return axes


def _along(points: Tensor, axis: list[float]) -> Tensor:
    i = max(range(3), key=lambda k: abs(axis[k]))
    return points[:, i] * axis[i] if axis[i] != 1 else points[:, i]


def _length(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return torch.sqrt(x * x + y * y + z * z)


def _bilinear(plane: Tensor, grid: Tensor) -> Tensor:
    """plane [C, H, W], grid [P, 2] -> [P, C]; zero outside, pixel centres at (i + 0.5) / size."""
    sampled = F.grid_sample(plane[None], grid[None, None], align_corners=False)  # [1, C, 1, P]
    return sampled[0, :, 0].T


def _mean(sampled: list[Tensor]) -> Tensor:
    a, b, c = sampled
    return (a + b + c) / 3
