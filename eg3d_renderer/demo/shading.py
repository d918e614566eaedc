"""What shading knows of a place on a surface: parts, normal, light."""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from eg3d_renderer.demo.distances import length
from eg3d_renderer.demo.tracing import CELL, CELLS, LOW, Bundle, Place

NORMAL_STEP = 0.004
KEY = (0.40, 0.52, 0.755)  # unit vectors to the lights
BLUR = 0.004
HAIR_SOFTNESS = 0.8
HEAD = (0.0, 0.2, -0.15)  # centre of the cranium
BACK = (-0.53, 0.35, -0.772)


@dataclasses.dataclass(frozen=True)
class Surface:
    """Places where rays arrive; every vector is [N], every light in [0, 1]."""

    x: Tensor
    y: Tensor
    z: Tensor
    normal: Place
    facing: Tensor  # cosine between the normal and the way back to the camera
    half: Place  # unit vectors half way between the camera and the key light
    gleam: Tensor  # cosine between the normal and the half vector
    parts: dict[str, Tensor]  # signed distances
    nearest: Tensor  # the smallest of them
    occlusion: Tensor  # ambient light that gets here
    key: Tensor  # light from the front, above, to the right of the head; shadowed
    back: Tensor  # light from behind, above, to the left
    sky: Tensor  # 1 where the normal points up, 0 where it points down

    def part(self, name: str, blur: float = BLUR) -> Tensor:
        """1 where `name` is the nearest part, 0 where another is nearer by `blur`; [N]."""
        if name not in self.parts:
            return torch.zeros_like(self.x)
        return (1 - (self.parts[name] - self.nearest) / blur).clamp_(0, 1)


def dot(a: Place, b: tuple[float, float, float]) -> Tensor:
    return (a[0] * b[0]).add_(a[1], alpha=b[1]).add_(a[2], alpha=b[2])


def unit(x: Tensor, y: Tensor, z: Tensor) -> Place:
    norm = length(x, y, z).add_(1e-12)
    return x.div_(norm), y.div_(norm), z.div_(norm)


def openness(planes: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """The lattice's distance [N], interpolated: smooth, for light only."""
    where = torch.stack(
        [(v - low) * (2 / (CELL * n)) - 1 for v, low, n in zip((x, y, z), LOW, CELLS, strict=True)],
        dim=-1,
    )
    found = grid_sample(planes, where[None, None, None], padding_mode="border", align_corners=False)
    return found.view(-1)


def surface(
    parts: Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]],
    planes: Tensor,
    rays: Bundle,
    t: Tensor,
) -> Surface:
    """Parts, normals and light where rays [N] arrive at t [N]."""
    x, y, z = rays.at(t)
    found = parts(x, y, z)
    nearest = least(found)
    e = NORMAL_STEP
    slope = [
        least(parts(x + e * (i == 0), y + e * (i == 1), z + e * (i == 2))).sub_(nearest)
        for i in range(3)
    ]
    normal = unit(*slope)
    if "hair" in found:
        # light falls on strands from all around: the edge of a haircut is not a dark wall
        amount = (1 - (found["hair"] - nearest) / BLUR).clamp_(0, 1).mul_(HAIR_SOFTNESS)
        outward = unit(x - HEAD[0], y - HEAD[1], z - HEAD[2])
        normal = unit(*(n.addcmul(o, amount) for n, o in zip(normal, outward, strict=True)))
    nx, ny, nz = normal
    occlusion = torch.ones_like(x)
    for reach, weight in ((0.10, 0.35), (0.28, 0.40), (0.55, 0.25)):
        free = openness(planes, x + reach * nx, y + reach * ny, z + reach * nz)
        occlusion.sub_(1 - (free / reach).clamp_(0, 1), alpha=weight)
    shadow = torch.ones_like(x)
    for reach in (0.15, 0.3, 0.5, 0.75):
        free = openness(
            planes,
            x + reach * KEY[0] + 0.03 * nx,
            y + reach * KEY[1] + 0.03 * ny,
            z + reach * KEY[2] + 0.03 * nz,
        )
        shadow = torch.minimum(shadow, (free * (4 / reach) + 0.4).clamp_(0, 1))
    dx, dy, dz = rays.direction
    hx, hy, hz = KEY[0] - dx, KEY[1] - dy, KEY[2] - dz
    hx, hy, hz = unit(hx, hy, hz)
    gleam = (nx * hx).addcmul_(ny, hy).addcmul_(nz, hz)
    facing = (nx * dx).addcmul_(ny, dy).addcmul_(nz, dz).neg_().clamp_(0, 1)
    return Surface(
        x,
        y,
        z,
        (nx, ny, nz),
        facing,
        (hx, hy, hz),
        gleam.clamp_(0, 1),
        found,
        nearest,
        occlusion.clamp_(0, 1),
        key=dot((nx, ny, nz), KEY).clamp_(0, 1).mul_(shadow),
        back=dot((nx, ny, nz), BACK).clamp_(0, 1),
        sky=0.5 + 0.5 * ny,
    )


def least(found: dict[str, Tensor]) -> Tensor:
    """The distance to the nearest of several parts, [N]."""
    first, *others = found.values()
    for other in others:
        first = torch.minimum(first, other)
    return first
