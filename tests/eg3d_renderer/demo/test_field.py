import pytest
import torch
import trimesh
from torch import Tensor

import eg3d_renderer as er
from eg3d_renderer.demo import anatomy
from eg3d_renderer.demo.field import SHELL, density_field
from eg3d_renderer.demo.generator import FRAME, ProceduralHeads
from eg3d_renderer.mesh import LEVEL, Field, extract_mesh


def field_of(style: str, seed: int) -> tuple[ProceduralHeads, Tensor, Field]:
    gen = ProceduralHeads(style)
    ws = gen.mapping(er.latents([seed], 48))
    return gen, ws, density_field(gen, gen.planes(ws), ws)


def signed_distance(gen: ProceduralHeads, ws: Tensor, points: Tensor) -> Tensor:
    """In world units, of every part everywhere."""
    x, y, z = ((points - torch.tensor(FRAME.centre)) / FRAME.scale).unbind(-1)
    return anatomy.distance(x, y, z, gen.head(ws[0]), whole=True) * FRAME.scale


@pytest.mark.parametrize(("style", "seed"), [("natural", 7), ("statue", 17), ("werewolf", 2)])
def test_density_is_the_signed_distance(style: str, seed: int) -> None:
    gen, ws, field = field_of(style, seed)
    points = torch.rand(30_000, 3, generator=torch.Generator().manual_seed(seed)) - 0.5
    sigma, rgb = field(points)
    distance = signed_distance(gen, ws, points)
    expected = LEVEL * (1 - distance / SHELL).clamp(0, 2)
    torch.testing.assert_close(sigma, expected, rtol=0, atol=1e-4)
    assert (rgb.abs() <= 1).all()
    assert (rgb[distance.abs() > SHELL] == 0).all()
    assert (rgb[distance.abs() < 0.99 * SHELL] != 0).any(dim=1).all()


@pytest.mark.parametrize("style", ["natural", "statue"])
def test_surface_is_what_a_camera_sees(style: str) -> None:
    """At the level where depth is, and of the image's colour but for highlights."""
    gen, ws, field = field_of(style, 3)
    cam = er.cameras.orbit(3)
    out = gen.synthesis(ws, cam, 64)
    seen = out["image_mask"].view(-1) == 1
    origins, directions = er.cameras.rays(cam, 64)
    depth = out["image_depth"].view(3, -1, 1)
    sigma, rgb = field((origins + depth * directions).view(-1, 3)[seen])
    assert (sigma / LEVEL - 1).abs().quantile(0.98) < 0.02
    image = out["image"].permute(0, 2, 3, 1).reshape(-1, 3)[seen]
    assert (rgb - image).abs().median() < 0.05


@pytest.mark.parametrize(("style", "seed"), [("natural", 0), ("natural", 3), ("statue", 11)])
def test_mesh_of_a_head(style: str, seed: int) -> None:
    gen, ws, field = field_of(style, seed)
    resolution = 80
    mesh = extract_mesh(field, gen.rendering_kwargs["box_warp"], resolution)
    seen = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert seen.is_watertight
    assert seen.is_winding_consistent
    assert 0.03 < seen.volume < 0.08
    distance = signed_distance(gen, ws, torch.from_numpy(mesh.vertices)).abs()
    assert distance.quantile(0.95) < 0.1 / resolution
    assert len(set(map(bytes, mesh.colours))) > 1000


def test_colours_do_not_depend_on_company() -> None:
    _, _, field = field_of("natural", 3)
    points = torch.rand(5000, 3, generator=torch.Generator().manual_seed(1)) * 0.5 - 0.25
    together = field(points)
    halves = [field(half) for half in points.split(2500)]
    for whole, parts in zip(together, zip(*halves, strict=True), strict=True):
        assert torch.equal(whole, torch.cat(parts))


def test_nothing_lies_beyond_the_lattice() -> None:
    _, _, field = field_of("natural", 0)
    sigma, rgb = field(torch.tensor([[0.9, 0.0, 0.0], [0.0, -3.0, 0.0], [5.0, 5.0, 5.0]]))
    assert (sigma == 0).all()
    assert (rgb == 0).all()


def test_field_is_of_one_identity() -> None:
    gen = ProceduralHeads()
    ws = gen.mapping(er.latents([0, 1], 48))
    with pytest.raises(er.RendererError, match="2 planes, 2 ws"):
        density_field(gen, gen.planes(ws), ws)
