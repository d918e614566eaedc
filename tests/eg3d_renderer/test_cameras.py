import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eg3d_renderer import RendererError, cameras

ORACLE = np.load(Path(__file__).parents[1] / "data" / "cameras.npz")


@pytest.mark.parametrize("radius", [2.7, 1.7])
@pytest.mark.parametrize("pivot", range(4))
def test_sample_pose_is_upstreams(pivot: int, radius: float) -> None:
    yaw, pitch = torch.from_numpy(ORACLE["hv"]).T
    poses = cameras.sample_pose(yaw, pitch, tuple(ORACLE["lookat"][pivot].tolist()), radius)
    expected = ORACLE[f"cam2world_r{radius}".replace(".", "_")][pivot]
    np.testing.assert_allclose(poses.numpy(), expected, rtol=0, atol=2e-6)


def test_sample_pose_stays_off_the_poles() -> None:
    poses = cameras.sample_pose(1.0, torch.from_numpy(ORACLE["edge_v"]), radius=1.0)
    assert torch.isfinite(poses).all()
    np.testing.assert_allclose(poses.numpy(), ORACLE["edge_cam2world"], rtol=0, atol=5e-4)


def test_default_intrinsics_are_upstreams() -> None:
    _, intrinsics = cameras.split(torch.from_numpy(ORACLE["gen_samples_panohead"]))
    torch.testing.assert_close(
        intrinsics, cameras.intrinsics().expand_as(intrinsics), rtol=0, atol=1e-4
    )


def test_rays_are_upstreams() -> None:
    origins, directions = cameras.rays(torch.from_numpy(ORACLE["rays_c"]), 4)
    np.testing.assert_allclose(origins.numpy(), ORACLE["rays_o_4"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(directions.numpy(), ORACLE["rays_d_4"], rtol=0, atol=1e-6)


def test_orbit_goes_round_as_drawn() -> None:
    cam2world, _ = cameras.split(cameras.orbit(4, radius=2.0))
    expected = torch.tensor([[0.0, 0, 2], [2, 0, 0], [0, 0, -2], [-2, 0, 0]])
    torch.testing.assert_close(cam2world[:, :3, 3], expected, rtol=0, atol=1e-6)
    up = torch.tensor([0.0, 1, 0]).expand(4, 3)
    torch.testing.assert_close(-cam2world[:, :3, 1], up, rtol=0, atol=1e-6)


@given(
    views=st.integers(1, 9),
    elevation=st.floats(-80, 80),
    radius=st.floats(0.5, 5),
    pivot=st.tuples(*3 * [st.floats(-0.2, 0.2)]),
)
def test_orbit_looks_at_its_pivot(
    views: int, elevation: float, radius: float, pivot: tuple[float, float, float]
) -> None:
    label = cameras.orbit(views, elevation=elevation, radius=radius, pivot=pivot)
    assert label.shape == (views, 25)
    assert label.dtype == torch.float32
    cam2world, _ = cameras.split(label)
    rotation, origin = cam2world[:, :3, :3], cam2world[:, :3, 3]
    identity = torch.eye(3).expand(views, 3, 3)
    torch.testing.assert_close(rotation.mT @ rotation, identity, rtol=0, atol=1e-5)
    assert (torch.linalg.det(rotation) > 0).all()
    distance = (torch.tensor(pivot) - origin).norm(dim=1, keepdim=True)
    aim = origin + distance * rotation[:, :, 2]
    torch.testing.assert_close(aim, torch.tensor(pivot).expand(views, 3), rtol=0, atol=1e-5)
    height = torch.full((views,), radius * math.sin(math.radians(elevation)))
    torch.testing.assert_close(origin[:, 1], height, rtol=0, atol=1e-5)


def test_rays_pass_through_the_pixel_centres() -> None:
    label = cameras.orbit(3, elevation=20)
    origins, directions = cameras.rays(label, 6)
    cam2world, intrinsics = cameras.split(label)
    seen = (directions @ cam2world[:, :3, :3]) @ intrinsics.mT  # [V, R * R, 3]
    seen = (seen / seen[..., 2:])[..., :2].view(3, 6, 6, 2)
    centres = (torch.arange(6) + 0.5) / 6
    torch.testing.assert_close(seen[:, 2, :, 0], centres.expand(3, 6), rtol=0, atol=1e-5)
    torch.testing.assert_close(seen[:, :, 4, 1], centres.expand(3, 6), rtol=0, atol=1e-5)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(3, 36))
    assert (origins == cam2world[:, None, :3, 3]).all()


def test_rays_of_a_view_do_not_depend_on_its_company() -> None:
    label = cameras.orbit(5, elevation=-10)
    together = cameras.rays(label, 33)
    for view in range(5):
        alone = cameras.rays(label[view : view + 1], 33)
        for one, many in zip(alone, together, strict=True):
            assert torch.equal(one[0], many[view])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"views": 0}, "views is 0"),
        ({"views": 4, "elevation": 90}, "elevation is 90"),
        ({"views": 4, "radius": 0}, "radius 0"),
        ({"views": 4, "focal": math.nan}, "focal nan"),
    ],
)
def test_orbit_refuses(asked: dict[str, float], said: str) -> None:
    with pytest.raises(RendererError, match=said):
        cameras.orbit(**asked)  # type: ignore[arg-type]


def test_split_refuses_another_width() -> None:
    with pytest.raises(RendererError, match="last dimension is 24"):
        cameras.split(torch.zeros(2, 24))
