"""One view of a signed-distance scene: clearance lattice, cone march, sphere tracing, box filter.

Sphere tracing: Hart, "Sphere tracing", The Visual Computer 1996. Lengths are head units, places are
head coordinates. A pixel has one ray through its centre, which gives the depth, and K x K rays on a
regular sub-pixel grid, whose mean is the image and whose hits are the mask. Work goes in chunks
that stay in cache, and a view is always chunked in the same way: its bits do not depend on the
number of views, of threads, or on what else is rendered.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from eg3d_renderer import cameras
from eg3d_renderer.demo.distances import number

Place = tuple[Tensor, Tensor, Tensor]
Distance = Callable[[Tensor, Tensor, Tensor], Tensor]

LOW = (-1.82, -2.66, -1.68)  # the corner of the box that holds every head
CELL = 0.07
CELLS = (52, 64, 48)  # x, y, z
MIDDLE, RADIUS = (0.0, -0.55, 0.0), 2.15  # a sphere that holds all that is in the image
REACH = 0.5 * math.sqrt(3) * CELL  # from a cell's centre to its corners
CAUTION = 0.85  # no distance grows faster than 1 / CAUTION
ARRIVED = 2e-3  # a tenth of a pixel at 128 x 128; for the depth `polish` does the rest
LEAST_STEP = 0.006  # lets rays along a surface get on
STEPS = 8  # of sphere tracing; then rays creep
AHEAD, CREEP = 6, 0.014


@dataclasses.dataclass(frozen=True)
class Frame:
    """Where head coordinates lie in the world: world = scale * head + centre."""

    scale: float
    centre: tuple[float, float, float]


class Bundle(Protocol):
    """N rays, wherever they come from."""

    @property
    def direction(self) -> Place:
        """Unit vectors, three [N]."""
        ...

    def at(self, t: Tensor) -> Place:
        """The places at distances t [N]."""
        ...

    def take(self, index: Tensor) -> "Bundle":
        """Some of the rays, by their index [M]."""
        ...


@dataclasses.dataclass(frozen=True)
class Rays:
    """Rays from one camera: the origin and unit directions, three vectors [N]."""

    origin: tuple[float, float, float]
    direction: Place

    def at(self, t: Tensor) -> Place:
        x, y, z = (
            torch.mul(d, t).add_(number(o))
            for d, o in zip(self.direction, self.origin, strict=True)
        )
        return x, y, z

    def take(self, index: Tensor) -> "Rays":
        x, y, z = (d.index_select(0, index) for d in self.direction)
        return Rays(self.origin, (x, y, z))


def pixel_rays(cam: Tensor, frame: Frame, u: Tensor, v: Tensor) -> Rays:
    """Rays of a label [25] through the image positions u, v [N], which run from 0 to 1."""
    cam2world, k = cameras.split(cam.double().cpu())
    x, y, z = (
        (o - c) / frame.scale for o, c in zip(cam2world[:3, 3].tolist(), frame.centre, strict=True)
    )
    down = (v - k[1, 2].item()).mul_(1 / k[1, 1].item())
    right = (u - k[0, 2].item()).sub_(down * k[0, 1].item()).mul_(1 / k[0, 0].item())
    norm = (right * right).add_(down * down).add_(1).sqrt_()
    dx, dy, dz = (
        (right * a).add_(down * b).add_(c).div_(norm) for a, b, c in cam2world[:3, :3].tolist()
    )
    return Rays((x, y, z), (dx, dy, dz))


def lattice(distance: Distance, device: torch.device) -> Tensor:
    """Distances at the cell centres, [1, 1, Z, Y, X]: a scene once, for all of its views."""
    xs, ys, zs = (
        low + CELL * (torch.arange(n, dtype=torch.float32, device=device) + 0.5)
        for low, n in zip(LOW, CELLS, strict=True)
    )
    slabs = 6  # of cells of one z, at a time
    y, x = (a.reshape(-1).repeat(slabs) for a in torch.meshgrid(ys, xs, indexing="ij"))
    return torch.stack(
        [
            distance(x, y, z.repeat_interleave(len(xs) * len(ys))).view(slabs, len(ys), len(xs))
            for z in zs.split(slabs)
        ]
    ).view(1, 1, *reversed(CELLS))


def clearance(planes: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """A lower bound [N] of the distance to the scene, from the nearest lattice point.

    Outside the box it is that of the nearest place in the box: the scene lies inside, and the box
    is convex.
    """
    column, row, slab = (
        (v - number(low)).mul_(number(1 / CELL)).clamp_(0, n - 1).to(torch.int32)
        for v, low, n in zip((x, y, z), LOW, CELLS, strict=True)
    )
    index = slab.mul_(CELLS[1]).add_(row).mul_(CELLS[0]).add_(column)
    return planes.view(-1).index_select(0, index).sub_(number(REACH))


def cone_march(
    distance: Distance,
    planes: Tensor,
    cam: Tensor,
    frame: Frame,
    span: tuple[float, float],
    cells: int,
) -> Tensor:
    """How far every ray of a square cell of the image travels freely: [cells * cells].

    A cone around each cell's central ray holds all rays of the cell; it advances on the lattice and
    then a little on the true distance, while it is wholly outside. The end of the span: a miss.
    """
    near, far = span
    centres = cameras.pixel_centres(cells, planes.device)
    v, u = (a.reshape(-1) for a in torch.meshgrid(centres, centres, indexing="ij"))
    rays = pixel_rays(cam, frame, u, v)
    spread = math.sqrt(0.5) / (cells * cam[[16, 20]].min().item())
    t = torch.full_like(u, near)
    for _ in range(24):
        free = clearance(planes, *rays.at(t)).sub_(t, alpha=spread).clamp_min_(0)
        t.add_(free, alpha=CAUTION).clamp_max_(far)
    near_scene = (t < far).nonzero().view(-1)
    rays, s = rays.take(near_scene), t[near_scene]
    for _ in range(4):
        free = distance(*rays.at(s)).sub_(s, alpha=spread).clamp_min_(0)
        s.add_(free, alpha=CAUTION).clamp_max_(far)
    return t.index_copy_(0, near_scene, s)


def march(distance: Distance, rays: Bundle, t: Tensor, far: float) -> tuple[Tensor, Tensor]:
    """Sphere tracing from t [N]: the indices [M] of the rays that arrive, and where, [M].

    Steps are relaxed as in Balint and Valasek, "Accelerating sphere tracing", Eurographics 2018: as
    long as if the surface went on as a plane, and undone where two free spheres do not meet. The
    few rays that are still under way then go along a surface: they `creep`.
    """
    index = torch.arange(len(t), device=t.device)
    step, free = torch.zeros_like(t), torch.zeros_like(t)
    hits, places = [], []
    for count in range(1, STEPS + 1):
        least = LEAST_STEP * max(1, count - 4)
        there = t + step
        found = in_chunks(distance, rays.at(there)).mul_(number(CAUTION))
        overshot = (found + free < step).logical_and_(step > free.clamp_min(least))
        slope = (found - free).div_(step.clamp_min(1e-6)).clamp_(-1, 0.8)
        back = (found / slope.clamp_max(-0.1)).clamp_min_(0).minimum(step)
        free = torch.where(overshot, free, found)
        t = torch.where(overshot, t, there)
        reach = (found * 2).div_(1 - slope) if count > 1 else found
        step = torch.where(overshot, free, reach).clamp_min_(least)
        if count < 3:
            continue
        close = free < ARRIVED
        arrived = close.nonzero().view(-1)
        hits.append(index[arrived])
        places.append((t - back)[arrived])
        left = (~close).logical_and_(t < far).nonzero().view(-1)
        index, t, step, free = (v.index_select(0, left) for v in (index, t, step, free))
        rays = rays.take(left)
    along, where = creep(distance, rays, t, free, far)
    hits.append(index[along])
    places.append(where)
    order = torch.cat(hits).argsort()
    return torch.cat(hits)[order], torch.cat(places)[order]


def creep(
    distance: Distance, rays: Bundle, t: Tensor, free: Tensor, far: float
) -> tuple[Tensor, Tensor]:
    """`march` for rays [N] along a surface, from t where they have been `free`.

    Several steps are looked ahead at a time, longer each time; where one lands inside, the way back
    is interpolated.
    """
    index = torch.arange(len(t), device=t.device)
    hits, places = [index[:0]], [t[:0]]
    ahead = torch.arange(1, AHEAD + 1, device=t.device)[:, None]
    step = 0.0
    while len(index):
        step += CREEP
        many = rays.take(torch.arange(len(t), device=t.device).repeat(AHEAD))
        found = in_chunks(distance, many.at((t + step * ahead).view(-1))).mul_(number(CAUTION))
        path = torch.cat([free, found]).view(AHEAD + 1, -1)
        inside = path[1:] < ARRIVED
        hit = inside.any(0)
        arrived = hit.nonzero().view(-1)
        last = inside[:, arrived].int().argmax(0)  # the step before the first inside
        before, after = path[last, arrived], path[last + 1, arrived]
        back = (-after).clamp_min_(0).div_((before - after).clamp_min_(1e-6))
        hits.append(index[arrived])
        places.append(t[arrived] + step * (last + 1 - back))
        t, free = path[-1] + (t + AHEAD * step), torch.zeros_like(t)
        left = (~hit).logical_and_(t < far).nonzero().view(-1)
        index, t, free = (v.index_select(0, left) for v in (index, t, free))
        rays = rays.take(left)
    return torch.cat(hits), torch.cat(places)


def polish(distance: Distance, rays: Rays, t: Tensor) -> Tensor:
    """One secant step along rays [N] that have almost arrived."""
    d = in_chunks(distance, rays.at(t))
    step = d.clamp(-ARRIVED, ARRIVED).add_(1e-5)
    after = in_chunks(distance, rays.at(t + step))
    slope = (after - d).div_(step).clamp_max_(-0.2)  # grazing rays stay where they are
    return t - (d / slope).clamp_(-10 * ARRIVED, 10 * ARRIVED)


def in_chunks(distance: Distance, place: Place) -> Tensor:
    """`distance` of a vector of any length, in vectors that stay in cache."""
    chunks = [v.split(chunk_size(v)) for v in place]
    return torch.cat([distance(*c) for c in zip(*chunks, strict=True)])


def chunk_size(v: Tensor) -> int:
    """Rays in a chunk of v; torch shares no vector below 32768 among threads: bits stay equal."""
    longest = 30_000 if v.device.type == "cpu" else 1_000_000
    chunks = -(-len(v) // longest)
    return max(1, -(-len(v) // max(chunks, 1)))


def render_view(
    distance: Distance,
    colour: Callable[[Rays, Tensor], Tensor],
    planes: Tensor,
    cam: Tensor,
    frame: Frame,
    span: tuple[float, float],
    resolution: int,
    supersampling: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Image [3, R * R] in [0, 1] on white, depth [R * R] (the span's end for a miss), mask [R * R].

    `colour` shades the places where rays arrive, [3, N]; `planes` is the `lattice` of `distance`.
    """
    size, k = resolution * resolution, supersampling
    cells = (resolution + 1) // 2
    start = cone_march(distance, planes, cam, frame, span, cells).view(cells, cells)
    start = start.repeat_interleave(2, 0).repeat_interleave(2, 1)[:resolution, :resolution]
    start = start.reshape(size)
    passed = math.dist(pixel_rays(cam, frame, start[:1], start[:1]).origin, MIDDLE) + RADIUS
    pixels = (start < passed).nonzero().view(-1)
    offsets = torch.tensor(
        [(0.5, 0.5), *(((i + 0.5) / k, (j + 0.5) / k) for j in range(k) for i in range(k))],
        device=planes.device,
    )  # [1 + K * K, 2]
    u = ((pixels % resolution) + offsets[:, :1]).div_(resolution)  # [1 + K * K, pixels]
    v = ((pixels // resolution) + offsets[:, 1:]).div_(resolution)
    rays = pixel_rays(cam, frame, u.view(-1), v.view(-1))
    hits, t = march(distance, rays, start[pixels].repeat(len(offsets)), passed)
    centre = int((hits < len(pixels)).sum())  # the rays through the pixel centres come first
    depth = torch.full((size,), span[1], device=planes.device)
    depth[pixels[hits[:centre]]] = polish(distance, rays.take(hits[:centre]), t[:centre])
    rays, hits, t = rays.take(hits[centre:]), hits[centre:], t[centre:]
    samples = torch.zeros(4, u.numel(), device=planes.device)  # red, green, blue, coverage
    for some in torch.arange(len(hits), device=hits.device).split(chunk_size(t)):
        samples[:3, hits[some]] = colour(rays.take(some), t[some]).clamp_(0, 1)
        samples[3, hits[some]] = 1
    view = torch.zeros(4, size, device=planes.device)
    view[:, pixels] = samples.view(4, len(offsets), -1)[:, 1:].mean(1)
    return view[:3] + (1 - view[3]), depth, view[3]
