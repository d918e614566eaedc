"""A procedural head as a density with colours."""

import dataclasses
from functools import partial

import torch
from torch import Tensor

from eg3d_renderer.demo import anatomy, shading, tracing
from eg3d_renderer.demo.generator import FRAME, ProceduralHeads
from eg3d_renderer.demo.heads import IDENTITY
from eg3d_renderer.errors import RendererError
from eg3d_renderer.mesh import LEVEL, Field

SHELL = 0.02  # world units; on either side of the surface the density changes that far


def density_field(generator: ProceduralHeads, planes: Tensor, ws: Tensor) -> Field:
    """The density and colours of one identity, ws [1, 1, 48]: what a mesh is extracted from.

    The field maps world points [P, 3] to a density [P] and colours [P, 3] in [-1, 1]. With d the
    signed distance in world units, the density is LEVEL (1 - d / SHELL) kept in [0, 2 LEVEL]: LEVEL
    on the surface itself and linear around it, so that marching cubes with voxels smaller than
    SHELL places its vertices to second order. Points nearer than SHELL have the colour of the look,
    seen head-on: highlights lie as for a camera straight above each place, outlines fall away. All
    others are grey, 0.

    Raises RendererError for more than one identity.
    """
    if not len(planes) == len(ws) == 1:
        raise RendererError(
            f"density_field: {len(planes)} planes, {len(ws)} ws; give one identity at a time"
        )
    head, instance = generator.head(ws[0]), ws[0, 0, IDENTITY:].tolist()
    shell = SHELL / FRAME.scale  # head units
    parts = partial(anatomy.parts, head=head, whole=True)
    exact = partial(anatomy.distance, head=head, whole=True)

    def field(points: Tensor) -> tuple[Tensor, Tensor]:
        x, y, z = (
            (v - c) / FRAME.scale
            for v, c in zip(points.to(planes).unbind(-1), FRAME.centre, strict=True)
        )
        distance = tracing.clearance(planes, x, y, z) + tracing.REACH
        near = (distance.abs() < (shell + tracing.REACH) / tracing.CAUTION).nonzero().view(-1)
        distance[near] = tracing.in_chunks(exact, (x[near], y[near], z[near]))
        sigma = LEVEL * (1 - distance / shell).clamp(0, 2)
        rgb = torch.zeros_like(points)
        shown = (distance.abs() < shell).nonzero().view(-1)
        for some in shown.split(tracing.chunk_size(shown)):
            rays, t = rays_to(x[some], y[some], z[some])
            surface = head_on(shading.surface(parts, planes, rays, t))
            rgb[some] = generator.look.shade(surface, head, instance).clamp(0, 1).mul(2).sub(1).T
        return sigma, rgb

    return field


def rays_to(x: Tensor, y: Tensor, z: Tensor) -> tuple[tracing.Rays, Tensor]:
    """Rays from the head's origin that arrive at places [N], and how far along: 1."""
    return tracing.Rays((0.0, 0.0, 0.0), (x, y, z)), torch.ones_like(x)


def head_on(s: shading.Surface) -> shading.Surface:
    """The same places, each seen by a camera of its own along the normal."""
    nx, ny, nz = s.normal
    kx, ky, kz = shading.KEY
    hx, hy, hz = half = shading.unit(nx + kx, ny + ky, nz + kz)
    gleam = (nx * hx + ny * hy + nz * hz).clamp(0, 1)
    return dataclasses.replace(s, facing=torch.ones_like(nx), half=half, gleam=gleam)
