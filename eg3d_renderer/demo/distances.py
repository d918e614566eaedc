"""Signed distances of simple bodies, on vectors of coordinates.

Every function takes float32 vectors [N] and Python numbers and returns a new vector [N]. They
follow Quilez, "Distance functions" (iquilezles.org): exact for spheres and capsules, a first-order
bound for ellipsoids. Smooth unions are the quadratic polynomial ones: exactly the minimum where
the two distances differ by more than k, so a part has no influence beyond its own reach.

On vectors that fit the cache an operation costs little more than its call, and wrapping a Python
number in a tensor doubles that: `number` keeps the wrapped ones.
"""

import functools

import torch
from torch import Tensor

Point = tuple[float, float, float]


@functools.lru_cache(maxsize=4096)
def number(value: float) -> Tensor:
    """A Python number as a 0-dimensional tensor, which acts on vectors of any device."""
    return torch.tensor(value, dtype=torch.float32)


def length(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """|(x, y, z)|."""
    return (x * x).addcmul_(y, y).addcmul_(z, z).sqrt_()


def sphere(x: Tensor, y: Tensor, z: Tensor, centre: Point, radius: float) -> Tensor:
    x, y, z = (v - number(m) for v, m in zip((x, y, z), centre, strict=True))
    return length(x, y, z).sub_(number(radius))


def ellipsoid(x: Tensor, y: Tensor, z: Tensor, centre: Point, radii: Point) -> Tensor:
    """First-order distance k0 (k0 - 1) / k1, with k0 = |p / r| and k1 = |p / r^2|."""
    inverse = [number(1 / r) for r in radii]
    x, y, z = ((v - number(m)).mul_(r) for v, m, r in zip((x, y, z), centre, inverse, strict=True))
    k0 = length(x, y, z)
    k1 = length(*(v.mul_(r) for v, r in zip((x, y, z), inverse, strict=True)))
    return (k0 * k0).sub_(k0).div_(k1.add_(number(1e-6)))


def capsule(
    x: Tensor, y: Tensor, z: Tensor, start: Point, end: Point, radius: float, end_radius: float
) -> Tensor:
    """Distance to a segment, less a radius that goes linearly from one end to the other."""
    dx, dy, dz = (b - a for a, b in zip(start, end, strict=True))
    x, y, z = (v - number(a) for v, a in zip((x, y, z), start, strict=True))
    square = dx * dx + dy * dy + dz * dz
    t = (x * number(dx / square)).add_(y, alpha=dy / square).add_(z, alpha=dz / square).clamp_(0, 1)
    d = length(x.sub_(t, alpha=dx), y.sub_(t, alpha=dy), z.sub_(t, alpha=dz))
    return d.sub_(t, alpha=end_radius - radius).sub_(number(radius))


def smooth_min(a: Tensor, b: Tensor, k: float) -> Tensor:
    """Union of two bodies with a fillet about k wide."""
    h = (a - b).abs_().sub_(number(k)).clamp_max_(0)
    return torch.minimum(a, b).addcmul_(h, h, value=-0.25 / k)


def smooth_max(a: Tensor, b: Tensor, k: float) -> Tensor:
    """Intersection of two bodies with an edge rounded about k wide."""
    h = (a - b).abs_().sub_(number(k)).clamp_max_(0)
    return torch.maximum(a, b).addcmul_(h, h, value=0.25 / k)


def carve(a: Tensor, b: Tensor, k: float) -> Tensor:
    """The first body without the second, with an edge rounded about k wide."""
    return smooth_max(a, -b, k)
