"""Warping in scenes whose depth is known in closed form."""

import math

import pytest
import torch

from stylize.geometry import project, unproject, warp

FAR = 3.3
SIZE = 64


def orbit_camera(degrees: float, radius: float = 2.7) -> torch.Tensor:
    """The project's camera label: OpenCV axes, on a circle around the y axis, 0 on +z."""
    a = math.radians(degrees)
    forward = torch.tensor([-math.sin(a), 0.0, -math.cos(a)], dtype=torch.float64)
    down = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.stack([torch.linalg.cross(down, forward), down, forward], dim=1)
    pose[:3, 3] = -radius * forward
    intrinsics = torch.tensor([4.2634, 0, 0.5, 0, 4.2634, 0.5, 0, 0, 1], dtype=torch.float64)
    return torch.cat([pose.flatten(), intrinsics])


def rays(camera: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Origin and unit directions, by way of points one unit along each ray."""
    origin = camera[:16].view(4, 4)[:3, 3]
    return origin, unproject(torch.ones(1, SIZE, SIZE, dtype=torch.float64), camera) - origin


def sphere(camera: torch.Tensor, radius: float = 0.25) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth and a picture (a smooth function of the surface point) of a sphere at the origin."""
    origin, direction = rays(camera)
    b = direction @ origin
    root = b * b - origin @ origin + radius**2
    hit = root > 0
    depth = torch.where(hit, -b - root.clamp(min=0).sqrt(), FAR)
    points = origin + depth.unsqueeze(-1) * direction
    return depth[None], torch.where(hit, torch.sin(8 * points).movedim(-1, 0), 1.0)


def test_project_inverts_unproject_at_pixel_centres():
    camera = orbit_camera(33)
    depth = torch.rand(1, 5, 7, dtype=torch.float64) + 2.25
    position, distance = project(unproject(depth, camera), camera)
    torch.testing.assert_close(distance, depth[0])
    centres = (torch.arange(7, dtype=torch.float64) + 0.5) / 7
    torch.testing.assert_close(position[2, :, 0], centres)


def test_the_image_is_not_mirrored():
    camera = orbit_camera(0)
    point = torch.tensor([[0.1, 0.2, 0.0]], dtype=torch.float64)  # right and up of the frontal view
    (position,), _ = project(point, camera)
    assert position[0] > 0.5
    assert position[1] < 0.5


def test_points_behind_the_camera_have_no_position():
    position, _ = project(torch.tensor([[0.0, 0.0, 4.0]], dtype=torch.float64), orbit_camera(0))
    assert position.isnan().all()


@pytest.mark.parametrize(("degrees", "covered"), [(0, 0.95), (11.25, 0.75), (45, 0.45)])
def test_a_sphere_reproduces_itself(degrees, covered):
    camera_i, camera_j = orbit_camera(0), orbit_camera(degrees)
    (depth_i, image_i), (depth_j, image_j) = sphere(camera_i), sphere(camera_j)
    warped, valid = warp(image_i, depth_i, depth_j, camera_i, camera_j, background=FAR)
    foreground = depth_j < FAR
    assert not (valid & ~foreground).any()
    assert valid.sum() > covered * foreground.sum()
    error = (warped - image_j).abs().amax(0, keepdim=True)[valid]
    assert error.mean() < 0.01
    assert error.max() < 0.1


def test_opposite_sides_see_nothing_of_each_other():
    camera_i, camera_j = orbit_camera(0), orbit_camera(180)
    (depth_i, image_i), (depth_j, _) = sphere(camera_i), sphere(camera_j)
    _, valid = warp(image_i, depth_i, depth_j, camera_i, camera_j, background=FAR)
    assert not valid.any()


def test_what_a_plane_hides_is_invalid():
    """Seen from i, a card in front of the sphere covers its middle; j sees the sphere alone."""
    camera_i, camera_j = orbit_camera(0), orbit_camera(10)
    (depth_i, image_i), (depth_j, _) = sphere(camera_i), sphere(camera_j)
    card = depth_i.clone()
    card[:, 24:40] = 2.3
    _, seen = warp(image_i, depth_i, depth_j, camera_i, camera_j, background=FAR)
    _, valid = warp(image_i, card, depth_j, camera_i, camera_j, background=FAR)
    assert seen[0, 30:34, 30:34].all()
    assert not valid[0, 25:39].any()
    assert torch.equal(valid[0, :20], seen[0, :20])


def test_depth_along_the_ray_not_along_the_axis():
    camera = orbit_camera(0)
    depth = torch.full((1, 9, 9), 2.5, dtype=torch.float64)
    origin = camera[:16].view(4, 4)[:3, 3]
    distances = (unproject(depth, camera) - origin).norm(dim=-1)
    torch.testing.assert_close(distances, depth[0])
