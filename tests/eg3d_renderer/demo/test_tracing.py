"""Exactness: depth, mask and clearance against the signed distance itself."""

from functools import partial

import pytest
import torch
from torch import Tensor

import eg3d_renderer as er
from eg3d_renderer.demo import anatomy, tracing
from eg3d_renderer.demo.distances import sphere
from eg3d_renderer.demo.generator import FRAME, ProceduralHeads

START, END = 2.25, 3.3
SIZE = 40


def head_coordinates(world: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = ((world - torch.tensor(FRAME.centre)) / FRAME.scale).unbind(-1)
    return x, y, z


def surface_error(gen: ProceduralHeads, ws: Tensor, world: Tensor) -> Tensor:
    """|signed distance| in head units at places [N, 3] of the world."""
    return anatomy.distance(*head_coordinates(world), gen.head(ws[0]), whole=True).abs()


@pytest.mark.parametrize("seed", [0, 1, 3, 6, 7, 11])
def test_depth_is_that_of_the_ray_through_the_pixel_centre(seed: int) -> None:
    gen = ProceduralHeads()
    ws, cam = gen.mapping(er.latents([seed], 48)), er.cameras.orbit(3, elevation=8)
    out = gen.synthesis(ws, cam, SIZE)
    origins, directions = er.cameras.rays(cam, SIZE)
    depth = out["image_depth"].view(3, -1)
    hit = depth < END
    error = surface_error(gen, ws, (origins + depth[..., None] * directions)[hit])
    assert hit.sum() > 0.2 * hit.numel()
    assert error.median() < 2e-4
    assert error.quantile(0.99) < 3e-3
    assert error.max() < 2e-2


@pytest.mark.parametrize("seed", [0, 5, 7])
def test_nothing_lies_in_front_of_the_depth(seed: int) -> None:
    gen = ProceduralHeads()
    ws, cam = gen.mapping(er.latents([seed], 48)), er.cameras.orbit(2)[1:]
    depth = gen.synthesis(ws, cam, SIZE)["image_depth"].view(-1)
    origins, directions = er.cameras.rays(cam, SIZE)
    before = torch.linspace(START, END, 240)[:, None].expand(-1, len(depth))
    before = before.minimum(depth - 0.004)[..., None]
    distance = anatomy.distance(
        *(v.reshape(-1) for v in head_coordinates(origins + before * directions)),
        gen.head(ws[0]),
        whole=True,
    )
    inside = (distance < -0.01).view(before.shape[:2]).any(0)
    assert inside.sum() <= 1  # a ray may graze


@pytest.mark.parametrize("seed", [21, 22])
def test_views_agree_through_depth(seed: int) -> None:
    """Points unprojected from a view lie where the next view of a 32-view orbit sees them."""
    gen, cam = ProceduralHeads(), er.cameras.orbit(32, elevation=3)
    origins, directions = er.cameras.rays(cam, SIZE)
    cam2world, k = er.cameras.split(cam)
    depth = gen.synthesis(gen.mapping(er.latents([seed], 48)), cam, SIZE)["image_depth"]
    for i in range(32):
        j = (i + 1) % 32
        t = depth[i].view(-1)
        hit = t < END
        world = origins[i][hit] + t[hit, None] * directions[i][hit]
        local = (world - cam2world[j, :3, 3]) @ cam2world[j, :3, :3]
        place = (local / local[:, 2:] @ k[j].T)[None, None, :, :2] * 2 - 1
        seen = torch.nn.functional.grid_sample(depth[j][None], place, align_corners=False)
        error = (seen.view(-1) / local.norm(dim=1) - 1).abs()
        visible = error < 0.02  # nothing nearer hides it
        assert visible.float().mean() > 0.8
        assert error[visible].median() < 1e-3


def test_mask_and_depth_agree() -> None:
    gen = ProceduralHeads()
    for seed in (0, 2, 9):
        out = gen.synthesis(gen.mapping(er.latents([seed], 48)), er.cameras.orbit(2), 64)
        depth, mask = out["image_depth"], out["image_mask"]
        assert (depth[mask == 0] == torch.tensor(END)).float().mean() > 0.999
        assert (depth[mask == 1] < END).float().mean() > 0.999
        assert (depth >= START).all()
        assert (depth <= torch.tensor(END)).all()
        assert (out["image"].amin(1, keepdim=True)[mask == 0] == 1).all()
        assert set((mask * 4).unique().tolist()) <= {0, 1, 2, 3, 4}


@pytest.mark.parametrize("seed", range(30, 40))
def test_silhouette_has_no_specks(seed: int) -> None:
    """No pixel of background whose eight neighbours are the head, and no pixel of head alone."""
    gen = ProceduralHeads()
    cam = er.cameras.orbit(16, elevation=5)[[seed % 4, (seed * 5 + 3) % 16]]
    out = gen.synthesis(gen.mapping(er.latents([seed], 48)), cam, 96)
    covered, depth = out["image_mask"], out["image_depth"]
    around = torch.ones(1, 1, 3, 3)
    around[..., 1, 1] = 0
    full = torch.nn.functional.conv2d((covered == 1).float(), around, padding=1)
    empty = torch.nn.functional.conv2d((covered == 0).float(), around, padding=1)
    missed = (covered < 0.5) | (depth == torch.tensor(END))
    assert not (missed & (full == 8)).any()
    assert not ((covered > 0) & (empty == 8)).any()


def test_sphere_is_seen_where_geometry_says() -> None:
    """A ball of known radius: exact depth, and area to a part of a pixel's width."""
    radius = 0.8
    ball = partial(sphere, centre=(0.0, 0.0, 0.0), radius=radius)
    planes = tracing.lattice(ball, torch.device("cpu"))
    frame = tracing.Frame(scale=0.2, centre=(0.0, 0.0, 0.0))
    cam = er.cameras.orbit(1)

    def white(rays: tracing.Rays, t: Tensor) -> Tensor:
        return torch.ones(3, len(t))

    _, depth, mask = tracing.render_view(ball, white, planes, cam[0], frame, (11.25, 16.5), 64, 2)
    _, directions = er.cameras.rays(cam, 64)
    cosine = -directions[0, :, 2].double()
    far = 2.7 / 0.2
    square = radius**2 - far**2 * (1 - cosine**2)
    hit = square > 0.02
    expected = far * cosine[hit] - square[hit].sqrt()
    torch.testing.assert_close(depth[hit].double(), expected, rtol=0, atol=1e-3)
    assert (depth[square < 0] == 16.5).all()
    seen = (radius / (far**2 - radius**2) ** 0.5 * er.cameras.FOCAL) ** 2 * 3.14159265
    assert abs(mask.mean().item() / seen - 1) < 0.01


def test_camera_that_looks_away_sees_white() -> None:
    gen, cam = ProceduralHeads(), er.cameras.orbit(1)
    cam[:, [2, 6, 10]] *= -1
    out = gen.synthesis(gen.mapping(er.latents([0], 48)), cam, 16)
    assert (out["image"] == 1).all()
    assert (out["image_mask"] == 0).all()
    assert (out["image_depth"] == torch.tensor(END)).all()


def test_clearance_is_a_lower_bound() -> None:
    gen = ProceduralHeads()
    ws = gen.mapping(er.latents([0, 3, 7], 48))
    rng = torch.Generator().manual_seed(0)
    x, y, z = (
        low + tracing.CELL * n * torch.rand(20_000, generator=rng)
        for low, n in zip(tracing.LOW, tracing.CELLS, strict=True)
    )
    for w, planes in zip(ws, gen.planes(ws), strict=True):
        true = anatomy.distance(x, y, z, gen.head(w), whole=True)
        free = tracing.clearance(planes, x.clone(), y.clone(), z.clone())
        outside = true > 0
        assert (free * tracing.CAUTION <= true)[outside].float().mean() > 0.9995
