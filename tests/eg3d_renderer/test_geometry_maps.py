import math

import pytest
import torch
from torch import Tensor

from eg3d_renderer import RendererError, cameras
from eg3d_renderer.geometry import normals, ray_distance, unproject, z_depth

SIZE = 33
CENTRE, RADIUS = torch.tensor([0.02, -0.03, 0.05], dtype=torch.float64), 0.22
PLANE, OFFSET = torch.tensor([0.35, 0.25, 0.9], dtype=torch.float64), 0.06


@pytest.fixture(scope="module")
def cam() -> Tensor:
    """Cameras all around, with off-centre intrinsics, skew and pixels that are not square."""
    label = cameras.orbit(5, elevation=15)
    label[:, 16:] = torch.tensor([4.1, 0.3, 0.54, 0.0, 4.6, 0.47, 0.0, 0.0, 1.0])
    return label


def rays_of(cam: Tensor) -> tuple[Tensor, Tensor]:
    origins, directions = cameras.rays(cam.double(), SIZE)
    return origins, directions


def image(rows: Tensor) -> Tensor:
    """[V, R * R, C] float64 -> [V, C, R, R] float32."""
    return rows.mT.reshape(len(rows), -1, SIZE, SIZE).float()


def sphere(cam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distance and mask [V, 1, R, R], outward world normals [V, 3, R, R]; background 3.3."""
    origins, directions = rays_of(cam)
    offset = origins - CENTRE
    along = (offset * directions).sum(-1, keepdim=True)
    root = along**2 - (offset**2).sum(-1, keepdim=True) + RADIUS**2
    hit = root > 0
    t = torch.where(hit, -along - root.clamp_min(0).sqrt(), 3.3)
    return image(t), image(hit), image((offset + t * directions) / RADIUS)


def plane(cam: Tensor) -> tuple[Tensor, Tensor]:
    """Distance and mask [V, 1, R, R]; the mask leaves out what lies behind or far away."""
    origins, directions = rays_of(cam)
    normal = PLANE / PLANE.norm()
    t = (OFFSET - origins @ normal) / (directions @ normal)
    hit = (t > 0) & (t < 5)
    return image(t[..., None]), image(hit[..., None])


def to_world(vectors: Tensor, cam: Tensor) -> Tensor:
    return torch.einsum("vij,vjhw->vihw", cameras.split(cam)[0][:, :3, :3], vectors)


def test_unprojected_points_lie_on_the_sphere_and_the_plane(cam: Tensor) -> None:
    distance, mask, outwards = sphere(cam)
    points = unproject(distance, cam)
    expected = CENTRE.float()[:, None, None] + RADIUS * outwards
    error = (points - expected).abs() * mask
    assert mask.mean() > 0.1
    assert error.max() < 1e-6
    distance, mask = plane(cam)
    height = torch.einsum("i,vihw->vhw", (PLANE / PLANE.norm()).float(), unproject(distance, cam))
    assert ((height - OFFSET).abs() * mask[:, 0]).max() < 3e-6


def test_z_depth_is_depth_along_the_axis(cam: Tensor) -> None:
    distance, _, _ = sphere(cam)
    cam2world, _ = cameras.split(cam)
    offset = unproject(distance, cam) - cam2world[:, :3, 3, None, None]
    expected = torch.einsum("vihw,vi->vhw", offset, cam2world[:, :3, 2])[:, None]
    z = z_depth(distance, cam)
    torch.testing.assert_close(z, expected, rtol=0, atol=2e-6)
    assert (z <= distance).all()
    torch.testing.assert_close(ray_distance(z, cam), distance, rtol=3e-7, atol=0)


def test_wall_before_the_camera_has_one_z_depth() -> None:
    cam = cameras.orbit(1)
    cam[:, 18] = 0.6
    _, directions = cameras.rays(cam, SIZE)
    wall = 2.0 / (directions @ torch.tensor([0.0, 0.0, -1.0]))
    z = z_depth(wall.view(1, 1, SIZE, SIZE), cam)
    torch.testing.assert_close(z, torch.full_like(z, 2.0), rtol=0, atol=1e-6)


def test_normals_of_a_plane_are_its_own(cam: Tensor) -> None:
    distance, mask = plane(cam)
    found = to_world(normals(distance, mask, cam), cam)
    forward = torch.einsum("i,vihw->vhw", PLANE.float(), image(rays_of(cam)[1]))
    expected = -(PLANE / PLANE.norm()).float()[:, None, None] * forward.sign()[:, None]
    assert mask.mean() > 0.5
    assert ((found - expected).abs() * mask).max() < 2e-3


def test_normals_of_a_sphere_point_outwards_up_to_the_silhouette(cam: Tensor) -> None:
    """One-sided differences tilt by half a pixel on the sphere, and never reach the background."""
    distance, mask, outwards = sphere(cam)
    found = normals(distance, mask, cam)
    shown = (found != 0).any(dim=1)
    assert (shown <= (mask[:, 0] > 0)).all()
    assert (mask[:, 0] > 0).sum() - shown.sum() <= 2 * len(cam)
    cosine = (to_world(found, cam) * outwards).sum(dim=1)[shown]
    facing = -(outwards * image(rays_of(cam)[1])).sum(dim=1)[shown]
    torch.testing.assert_close(found.norm(dim=1)[shown], torch.ones(int(shown.sum())))
    assert cosine[facing > 0.5].min() > math.cos(math.radians(6))
    assert cosine.min() > 0.85
    assert (found[:, 2][shown] <= 0).all()


def test_normals_face_the_ray(cam: Tensor) -> None:
    """However rough the surface is."""
    distance = 2.5 + 0.3 * torch.rand(5, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    found = normals(distance, torch.ones_like(distance), cam)
    along = (to_world(found, cam) * image(rays_of(cam)[1])).sum(dim=1)
    assert (along < 0).all()


def test_normals_do_not_smear_over_an_edge_inside_the_mask() -> None:
    """Two walls that face the camera, one before the other: every normal is theirs."""
    cam = cameras.orbit(1)
    z = torch.full((1, 1, SIZE, SIZE), 2.5)
    z[..., :14, :20] = 2.3
    found = normals(ray_distance(z, cam), torch.ones_like(z), cam)
    expected = torch.tensor([0.0, 0.0, -1.0])[:, None, None].expand_as(found)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


def test_normals_are_zero_without_neighbours() -> None:
    cam, distance, mask = cameras.orbit(1), torch.full((1, 1, 7, 7), 2.5), torch.zeros(1, 1, 7, 7)
    mask[..., 1, 1] = 1  # alone
    mask[..., 3, 2:5] = 1  # a row
    mask[..., 5:, 5:] = 0.5  # a square in the corner
    shown = (normals(distance, mask, cam) != 0).any(dim=1)[0]
    assert shown[5:, 5:].all()
    assert shown.sum() == 4
    assert (normals(distance[..., :1, :1], mask[..., 1:2, 1:2], cam) == 0).all()


def test_normals_of_a_point_are_zero() -> None:
    assert (normals(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4), cameras.orbit(1)) == 0).all()


def test_background_may_hold_anything(cam: Tensor) -> None:
    distance, mask, _ = sphere(cam)
    plain = normals(distance, mask, cam)
    for other in (math.nan, math.inf):
        assert torch.equal(normals(distance.where(mask > 0, other), mask, cam), plain)


def test_view_does_not_depend_on_its_company(cam: Tensor) -> None:
    distance, mask, _ = sphere(cam)
    together = [f(distance, cam) for f in (z_depth, ray_distance, unproject)]
    together.append(normals(distance, mask, cam))
    for v in range(len(cam)):
        one, label = distance[v : v + 1], cam[v : v + 1]
        alone = [f(one, label) for f in (z_depth, ray_distance, unproject)]
        alone.append(normals(one, mask[v : v + 1], label))
        for many, single in zip(together, alone, strict=True):
            assert torch.equal(many[v], single[0])


@pytest.mark.parametrize(
    ("depth", "views", "said"),
    [
        ((2, 1, 8, 8), 3, r"cameras: the shape is \[3, 25\], expected \[2, 25\]"),
        ((2, 3, 8, 8), 2, r"depth: its shape is \[2, 3, 8, 8\], expected \[V, 1, R, R\]"),
        ((2, 1, 8, 6), 2, r"\[2, 1, 8, 6\]"),
        ((8, 8), 8, r"\[8, 8\]"),
    ],
)
def test_shapes_must_fit(depth: tuple[int, ...], views: int, said: str) -> None:
    for function in (z_depth, ray_distance, unproject):
        with pytest.raises(RendererError, match=said):
            function(torch.ones(depth), cameras.orbit(views))


def test_mask_must_fit() -> None:
    with pytest.raises(RendererError, match=r"mask has shape \[1, 1, 4, 4\]"):
        normals(torch.ones(1, 1, 8, 8), torch.ones(1, 1, 4, 4), cameras.orbit(1))
