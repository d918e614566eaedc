import torch
from hypothesis import given
from hypothesis import strategies as st

from eg3d_renderer.marching.compositing import expected_depth, interval_weights, sample_weights
from eg3d_renderer.marching.depths import box_limits, coarse_depths, draw_depths, fine_depths

CPU = torch.device("cpu")


@given(st.integers(4, 48), st.integers(1, 48), st.integers(0, 2**31))
def test_fine_samples_stay_between_the_coarse_ones_and_in_order(
    coarse: int, fine: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    draws = draw_depths(None, 5, coarse, fine, CPU)
    limits = torch.tensor([[2.25]]), torch.tensor([[3.3]])
    depths = coarse_depths(*limits, coarse, draws.coarse, disparity=False).expand(5, -1)
    weights = torch.rand(5, coarse - 1, generator=generator)
    samples = fine_depths(depths, weights, draws.fine)
    assert samples.shape == (5, fine)
    assert (samples >= depths[:, :1] - 1e-5).all()
    assert (samples <= depths[:, -1:] + 1e-5).all()
    assert (samples.diff(dim=1) >= -1e-5).all()


def test_fine_samples_gather_where_the_weight_is() -> None:
    depths = torch.linspace(2, 3, 41)[None]
    weights = torch.zeros(1, 40)
    weights[0, 20] = 1
    samples = fine_depths(depths, weights, draw_depths(None, 1, 41, 100, CPU).fine)
    assert ((samples > 2.4) & (samples < 2.6)).float().mean() > 0.5


def test_a_wall_stops_the_ray() -> None:
    depths = torch.linspace(2, 3, 101)[None]
    sigma = torch.where(depths > 2.5, 1e3, -1e3)
    weights = interval_weights(depths, sigma)
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    torch.testing.assert_close(sample_weights(weights).sum(), torch.tensor(1.0))
    torch.testing.assert_close(
        expected_depth(weights, depths), torch.tensor([2.5]), rtol=0, atol=0.02
    )


def test_clear_rays_have_infinite_depth() -> None:
    depths = torch.linspace(2, 3, 8)[None]
    weights = interval_weights(depths, torch.full((1, 8), -1e4))
    assert torch.isinf(expected_depth(weights, depths)).all()


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1))
def test_box_limits_lie_on_the_box(x: float, y: float, z: float) -> None:
    origin = torch.tensor([[0.1, 0.2, -2.7]])
    target = torch.tensor([[x, y, z]]) * 0.49
    direction = torch.nn.functional.normalize(target - origin)
    start, end = box_limits(origin, direction, 1.0)
    for at in (origin + start * direction, origin + end * direction):
        assert abs(float(at.abs().max()) - 0.5) < 1e-4


def test_rays_that_miss_the_box_march_over_nothing() -> None:
    origins = torch.tensor([[0.0, 0.0, -2.7]])
    start, end = box_limits(origins, torch.tensor([[0.0, 1.0, 1e-6]]), 1.0)
    assert (float(start), float(end)) == (-1.0, -2.0)
