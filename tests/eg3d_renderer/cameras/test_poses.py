"""Poses, lenses, labels and rays against the published code's numbers and their own geometry."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from eg3d_renderer import RendererError, cameras

ORACLE = np.load(Path(__file__).parents[2] / "data" / "cameras.npz")


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


@pytest.mark.parametrize(
    ("trajectory", "pivot", "yaw", "pitch"),
    [
        ("traj_eg3d_video_12", (0.0, 0.0, 0.2), lambda t: 0.35 * t.sin(), lambda t: 0.25 * t.cos()),
        ("traj_panohead_head_video_12", (0.0, 0.0, 0.0), lambda t: t, lambda t: 0.5 * t.sin()),
    ],
)
def test_videos_of_the_published_scripts(trajectory, pivot, yaw, pitch) -> None:
    t = 2 * 3.14 * torch.arange(12, dtype=torch.float64) / 12
    poses = cameras.sample_pose(3.14 / 2 + yaw(t), 3.14 / 2 - 0.05 + pitch(t), pivot)
    np.testing.assert_allclose(poses.numpy(), ORACLE[trajectory], rtol=0, atol=2e-6)


def test_default_intrinsics_are_upstreams() -> None:
    _, intrinsics = cameras.split(torch.from_numpy(ORACLE["gen_samples_panohead"]))
    torch.testing.assert_close(
        intrinsics, cameras.intrinsics().expand_as(intrinsics), rtol=0, atol=1e-4
    )


def test_focal_from_fov_is_upstreams() -> None:
    for degrees, expected in zip(ORACLE["fov_deg"], ORACLE["fov_intrinsics"], strict=True):
        made = cameras.intrinsics(cameras.focal_from_fov(float(degrees)))
        np.testing.assert_allclose(made.numpy(), expected, rtol=1e-6, atol=0)
    assert round(cameras.focal_from_fov(18.837), 4) == cameras.FOCAL
    with pytest.raises(RendererError, match="180 degrees; give one between 0 and 180"):
        cameras.focal_from_fov(180)


def test_label_undoes_split() -> None:
    labels = torch.from_numpy(ORACLE["gen_samples_eg3d"])
    assert torch.equal(cameras.label(*cameras.split(labels)), labels)
    assert torch.equal(cameras.label(*cameras.split(labels[0])), labels[0])
    cam2world, k = cameras.split(labels)
    assert torch.equal(cameras.label(cam2world, k[0]), labels)  # one lens for all


def test_split_refuses_another_width() -> None:
    with pytest.raises(RendererError, match="last dimension is 24"):
        cameras.split(torch.zeros(2, 24))


def test_validate_takes_what_upstream_makes() -> None:
    cameras.validate(torch.from_numpy(ORACLE["gen_samples_eg3d"]))
    cameras.validate(torch.from_numpy(ORACLE["gen_samples_panohead"]))


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (3, math.nan, "a number is not finite"),
        (0, 1.01, "the rotation is not orthonormal"),
        (slice(0, 12, 4), -1, "the axes are left-handed"),  # with the frontal camera's x axis
        (12, 0.5, "the last row of cam2world"),
        (16, 0.0, "a focal length is not positive"),
        (20, -4.0, "a focal length is not positive"),
        (23, 0.5, "the intrinsics are not"),
    ],
)
def test_validate_names_the_view_and_the_fault(place: int | slice, value: float, said: str) -> None:
    labels = cameras.orbit(4)
    labels[2, place] = labels[2, place] * value if isinstance(place, slice) else value
    with pytest.raises(RendererError, match=f"^mine: view 2: {said}"):
        cameras.validate(labels, "mine")


@pytest.mark.parametrize("shape", [(25,), (2, 24), (0, 25)])
def test_validate_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(RendererError, match=r"the shape is \[.*\], expected \[V, 25\]"):
        cameras.validate(torch.zeros(shape))


def test_rays_are_upstreams() -> None:
    origins, directions = cameras.rays(torch.from_numpy(ORACLE["rays_c"]), 4)
    np.testing.assert_allclose(origins.numpy(), ORACLE["rays_o_4"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(directions.numpy(), ORACLE["rays_d_4"], rtol=0, atol=1e-6)


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
