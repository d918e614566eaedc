"""What to learn from: rays through fresh procedural heads, each with a pixel's mean colour."""

import dataclasses
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from eg3d_renderer import cameras
from eg3d_renderer.demo import anatomy, shading, tracing
from eg3d_renderer.demo.generator import FRAME, ProceduralHeads
from eg3d_renderer.demo.heads import Head

RESOLUTION = 128  # of the images whose pixels rays stand for
CAMERAS = 16  # a head
ELEVATION = 20.0  # degrees, either way
NEAR_EYES, NEAR_SKULL = 0.2, 0.2  # shares of the rays that go there
NATURAL = 0.3  # share of the heads; the other styles share the rest
SUBPIXELS = (0.0, 0.0), (-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25)


class Rays(NamedTuple):
    """N rays of one head, in world units."""

    origins: Tensor  # [N, 3]
    directions: Tensor  # [N, 3], unit
    colours: Tensor  # [N, 3], a pixel's mean on white, in [0, 1]
    coverage: Tensor  # [N], a pixel's mean, in [0, 1]
    depths: Tensor  # [N], of the ray itself; infinite for a miss


class Heads(Dataset):
    """Fresh heads by number: (style, z, rays). Head n is the same whatever was drawn before it.

    Styles are drawn by their shares; latents, cameras and pixels are random. Besides pixels all
    over the image, some lie near the eyes and some near a sphere around skull and hair.
    """

    def __init__(self, styles: list[str], rays: int, seed: int, length: int) -> None:
        self.styles, self.rays, self.seed, self.length = styles, rays, seed, length
        self.generators = {style: ProceduralHeads(style) for style in styles}
        rest = (1 - NATURAL) / max(1, len(styles) - 1)
        self.shares = [NATURAL if style == "natural" else rest for style in styles]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> tuple[int, Tensor, Rays]:
        draw = np.random.default_rng([self.seed, number])
        shares = np.array(self.shares) / sum(self.shares)
        style = int(draw.choice(len(self.styles), p=shares))
        z = torch.from_numpy(draw.standard_normal(ProceduralHeads.z_dim).astype(np.float32))
        generator = self.generators[self.styles[style]]
        with torch.inference_mode():
            seen = look(generator, z, self.rays, draw)
        return style, z, Rays(*(t.clone() for t in seen))


def look(generator: ProceduralHeads, z: Tensor, count: int, draw: np.random.Generator) -> Rays:
    """What `count` rays see of the head of z [z_dim]; a whole number of them for each camera."""
    ws = generator.mapping(z[None])
    head, instance = generator.head(ws[0]), ws[0, 0, generator.instance].tolist()
    planes = generator.planes(ws)
    labels = draw_cameras(draw)
    pixels = torch.stack([draw_pixels(label, head, count // CAMERAS, draw) for label in labels])
    offsets = torch.tensor(SUBPIXELS) / RESOLUTION
    places = (pixels[:, None] + offsets[None, :, None]).flatten(1, 2)  # [CAMERAS, 5 * n, 2]
    rays = join(
        tracing.pixel_rays(label, FRAME, *place.unbind(1))
        for label, place in zip(labels, places, strict=True)
    )
    near, far = (generator.rendering_kwargs[k] / FRAME.scale for k in ("ray_start", "ray_end"))
    start = torch.full_like(rays.direction[0], near)
    for _ in range(24):
        start += tracing.CAUTION * tracing.clearance(planes, *rays.at(start)).clamp_min_(0)
        start.clamp_max_(far)
    distance = partial(anatomy.distance, head=head)
    towards = (start < far).nonzero().view(-1)
    hits, t = tracing.march(distance, rays.take(towards), start[towards], far)
    hits = towards[hits]
    seen = torch.zeros(4, len(start))
    depths = torch.full_like(start, torch.inf)
    depths[hits] = FRAME.scale * t
    for some in torch.arange(len(hits)).split(tracing.chunk_size(t)):
        there = rays.take(hits[some])
        surface = shading.surface(partial(anatomy.parts, head=head), planes, there, t[some])
        seen[:3, hits[some]] = generator.look.shade(surface, head, instance).clamp_(0, 1)
        seen[3, hits[some]] = 1
    by_pixel = seen.view(4, CAMERAS, len(SUBPIXELS), -1)[:, :, 1:].mean(2).flatten(1)

    def centres(values: Tensor) -> Tensor:
        return values.view(CAMERAS, len(SUBPIXELS), -1)[:, 0].reshape(-1)

    colours = (by_pixel[:3] + (1 - by_pixel[3])).T
    origins = torch.stack([centres(o) for o in rays.origin], dim=1)
    origins = origins * FRAME.scale + torch.tensor(FRAME.centre)
    directions = torch.stack([centres(d) for d in rays.direction], dim=1)
    return Rays(origins, directions, colours, by_pixel[3], centres(depths))


def draw_cameras(draw: np.random.Generator) -> Tensor:
    """Labels [CAMERAS, 25], from all around and somewhat above or below."""
    yaw = np.pi / 2 + draw.uniform(-np.pi, np.pi, CAMERAS)
    elevation = np.radians(draw.uniform(-ELEVATION, ELEVATION, CAMERAS))
    pitch = np.pi / 2 * (1 - np.sin(elevation))
    poses = cameras.sample_pose(torch.from_numpy(yaw), torch.from_numpy(pitch))
    return cameras.label(poses, cameras.intrinsics())


def draw_pixels(label: Tensor, head: Head, count: int, draw: np.random.Generator) -> Tensor:
    """Positions [count, 2] in the image, which runs from 0 to 1."""
    eyes, skull = int(count * NEAR_EYES), int(count * NEAR_SKULL)
    uniform = draw.random((count - eyes - skull, 2))
    side = draw.choice([-1.0, 1.0], eyes)
    at_eyes = np.stack([side * head.eye_x, np.zeros(eyes), np.full(eyes, 0.75)], axis=1)
    at_eyes += draw.normal(0, 0.12, (eyes, 3))
    at_skull = draw.normal(size=(skull, 3))
    at_skull *= 0.95 / np.linalg.norm(at_skull, axis=1, keepdims=True)
    at_skull += shading.HEAD
    points = np.concatenate([at_eyes, at_skull]) * FRAME.scale + FRAME.centre
    cam2world, k = (t.double().numpy() for t in cameras.split(label))
    seen = (points - cam2world[:3, 3]) @ cam2world[:3, :3]
    focused = seen[:, :2] / seen[:, 2:] * k[0, 0] + 0.5
    return torch.from_numpy(np.concatenate([uniform, focused]).clip(0, 1).astype(np.float32))


@dataclasses.dataclass(frozen=True)
class ManyCameras:
    """Rays from more than one camera: origins are vectors [N] as directions are."""

    origin: tracing.Place
    direction: tracing.Place

    def at(self, t: Tensor) -> tracing.Place:
        (ox, oy, oz), (dx, dy, dz) = self.origin, self.direction
        return ox + dx * t, oy + dy * t, oz + dz * t

    def take(self, index: Tensor) -> "ManyCameras":
        (ox, oy, oz), (dx, dy, dz) = self.origin, self.direction
        return ManyCameras((ox[index], oy[index], oz[index]), (dx[index], dy[index], dz[index]))


def join(cameras_rays: Iterable[tracing.Rays]) -> ManyCameras:
    rows = [
        torch.stack(
            [
                *(torch.full_like(d, o) for d, o in zip(r.direction, r.origin, strict=True)),
                *r.direction,
            ]
        )
        for r in cameras_rays
    ]  # [6, n] each
    ox, oy, oz, dx, dy, dz = torch.cat(rows, dim=1)
    return ManyCameras((ox, oy, oz), (dx, dy, dz))
