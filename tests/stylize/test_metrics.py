import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stylize import metrics


@pytest.fixture
def views() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 8, 8, generator=generator) * 1.6 - 0.8
    return torch.nn.functional.interpolate(coarse, size=32, mode="bilinear")


@pytest.fixture
def mask() -> torch.Tensor:
    mask = torch.zeros(2, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    return mask


@given(st.floats(1e-3, 1.0))
def test_psnr_of_a_constant_error(error):
    truth = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    got = metrics.masked_psnr(truth + error, truth, torch.ones(1, 1, 4, 4))
    assert got == pytest.approx(20 * math.log10(2 / error))


def test_psnr_and_ssim_look_only_under_the_mask(views, mask):
    outside = torch.where(mask > 0, views, -views)
    assert metrics.masked_psnr(outside, views, mask) == math.inf
    assert metrics.masked_psnr(outside, views, 1 - mask) < 30
    inner = torch.zeros_like(mask)
    inner[..., 14:18, 14:18] = 1  # SSIM's windows reach five pixels out
    assert metrics.masked_ssim(outside, views, inner) == pytest.approx(1, abs=1e-6)
    assert metrics.masked_ssim(-views, views, mask) < 0.5


def test_partial_coverage_weighs_pixels():
    output = torch.zeros(1, 3, 1, 2)
    output[..., 0] = 1.0
    weights = torch.tensor([0.25, 0.75]).view(1, 1, 1, 2)
    got = metrics.masked_psnr(output, torch.zeros_like(output), weights)
    assert got == pytest.approx(10 * math.log10(4 / 0.25))


def test_empty_masks_give_nan(views, mask):
    nothing = torch.zeros_like(mask)
    assert math.isnan(metrics.masked_psnr(views, -views, nothing))
    assert math.isnan(metrics.masked_ssim(views, views, nothing))
    assert math.isnan(metrics.sharpness(views, views, nothing))
    assert math.isnan(metrics.style_distance(views, nothing, views, mask))
    assert torch.equal(metrics.transfer_statistics(views, nothing, views[:1], mask[:1]), views)
    assert torch.equal(metrics.transfer_statistics(views, mask, views[:1], nothing[:1]), views)


def test_sharpness_is_the_ratio_of_gradient_energy(views, mask):
    assert metrics.sharpness(views, views, mask) == pytest.approx(1)
    assert metrics.sharpness(0.5 * views, views, mask) == pytest.approx(0.25)
    assert math.isnan(metrics.sharpness(views, torch.zeros_like(views), mask))
    blurred = torch.nn.functional.avg_pool2d(views, 5, 1, 2)
    assert metrics.sharpness(blurred, views, mask) < 0.9


def test_style_distance_orders_palettes_and_textures(views, mask):
    everywhere = torch.ones_like(mask)
    same = metrics.style_distance(views, everywhere, views.flip(-1), everywhere)
    shifted = metrics.style_distance((views + 0.1), everywhere, views, everywhere)
    more = metrics.style_distance((views + 0.4), everywhere, views, everywhere)
    assert same < shifted < more
    noise = torch.rand(views.shape, generator=torch.Generator().manual_seed(1)) - 0.5
    assert metrics.style_distance(views + noise, everywhere, views, everywhere) > same
    again = metrics.style_distance((views + 0.1), everywhere, views, everywhere)
    assert again == shifted  # fixed seed


def test_style_distance_looks_at_the_foreground(views, mask):
    assert metrics.style_distance(views, mask, views, mask) == 0
    corner = views.clone()
    corner[..., :2, :2] = -1.0  # only the coarsest patches reach that far
    inner = torch.zeros_like(mask)
    inner[..., 16:24, 16:24] = 1
    assert metrics.style_distance(corner, inner, views, inner) == 0


def test_statistics_transfer_matches_mean_and_covariance(views, mask):
    style = (views[1:] * torch.tensor([0.5, 0.2, 0.7]).view(3, 1, 1) + 0.1).flip(1)
    moved = metrics.transfer_statistics(views * 0.5, mask, style, mask[:1])
    inside = mask[0, 0] > 0
    for view in moved:
        got, want = view[:, inside].double(), style[0][:, inside].double()
        torch.testing.assert_close(got.mean(1), want.mean(1), atol=0.02, rtol=0)
        torch.testing.assert_close(got.cov(), want.cov(), atol=0.02, rtol=0)
    assert torch.equal(moved[:, :, ~inside], (views * 0.5)[:, :, ~inside])


def test_transfer_of_a_flat_image_stays_finite(mask):
    flat = torch.zeros(2, 3, 32, 32)
    moved = metrics.transfer_statistics(flat, mask, flat[:1] + 0.5, mask[:1])
    assert moved.isfinite().all()
    torch.testing.assert_close(moved[0, :, 16, 16], torch.full((3,), 0.5))


def test_foreground_is_what_is_not_white():
    images = torch.ones(1, 3, 2, 2)
    images[0, 1, 0, 0] = 0.5
    assert metrics.estimate_foreground(images).flatten().tolist() == [1, 0, 0, 0]
