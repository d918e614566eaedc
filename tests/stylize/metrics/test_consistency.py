import math

import pytest
import torch

from stylize import metrics
from stylize.geometry import warp

BACKGROUND = 4.0


@pytest.fixture
def orbit() -> tuple[torch.Tensor, torch.Tensor]:
    """A fronto-parallel wall seen from three places: depth [3, 1, 16, 16] and cameras [3, 25]."""
    size, cameras, depths = 16, [], []
    steps = (torch.arange(size).double() + 0.5) / size - 0.5
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    for shift in (0.0, 0.125, 0.25):  # whole pixels at distance 2
        cam2world = torch.eye(4, dtype=torch.float64)
        cam2world[0, 3], cam2world[2, 3] = shift, -2.0
        intrinsics = torch.tensor([1.0, 0, 0.5, 0, 1, 0.5, 0, 0, 1]).double()
        cameras.append(torch.cat([cam2world.flatten(), intrinsics]))
        depths.append(2 * (u**2 + v**2 + 1).sqrt())  # along unit rays
    return torch.stack(depths)[:, None], torch.stack(cameras)


@pytest.fixture
def images() -> torch.Tensor:
    wall = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    return torch.stack([wall[:, :, shift : shift + 16] for shift in (0, 1, 2)])


def test_what_is_seen_of_one_wall_agrees(orbit, images):
    [errors] = metrics.warp_errors([images], *orbit, background=BACKGROUND)
    torch.testing.assert_close(errors, torch.zeros(3).double(), atol=1e-12, rtol=0)


def test_sets_are_measured_as_alone(orbit, images):
    depth, cameras = orbit
    other = images.flip(-1)
    together = metrics.warp_errors([images, other], depth, cameras, background=BACKGROUND)
    alone = metrics.warp_errors([other], depth, cameras, background=BACKGROUND)
    torch.testing.assert_close(together[1:], alone)
    warped, valid = warp(
        other[2], depth[2], depth[0], cameras[2], cameras[0], background=BACKGROUND
    )
    expected = (warped - other[0])[:, valid[0]].square().mean()
    torch.testing.assert_close(together[1, -1], expected)


def test_nothing_seen_twice_is_nan(orbit, images):
    depth, cameras = orbit
    nothing = torch.full_like(depth, BACKGROUND)
    errors = metrics.warp_errors([images], nothing, cameras, background=BACKGROUND)
    assert errors.isnan().all()
    assert math.isnan(metrics.geometric_consistency(errors[0], errors[0]))
    assert math.isnan(metrics.seam_ratio(errors[0]))


def test_steps_are_differences_round_the_circle():
    images = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, 4, 4)
    mask = torch.zeros(3, 1, 4, 4)
    mask[0] = 1
    got = metrics.step_errors(images, mask).tolist()
    assert got == pytest.approx([0.25, math.nan, 1.0], nan_ok=True)


def test_ratios():
    errors = torch.tensor([1.0, 3.0, math.nan, 6.0])
    assert metrics.geometric_consistency(2 * errors, errors) == pytest.approx(2)
    assert metrics.seam_ratio(errors) == pytest.approx(3)
    assert math.isnan(metrics.geometric_consistency(errors, torch.zeros(4)))
    assert math.isnan(metrics.seam_ratio(torch.tensor([1.0])))
