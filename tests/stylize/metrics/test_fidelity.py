import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.image import structural_similarity_index_measure

from stylize import metrics


@given(st.floats(1e-3, 1.0))
def test_psnr_of_a_constant_error(error):
    truth = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    [got] = metrics.masked_psnr(truth + error, truth, torch.ones(1, 1, 4, 4)).tolist()
    assert got == pytest.approx(20 * math.log10(2 / error))


def test_psnr_and_ssim_look_only_under_the_mask(views, mask):
    outside = torch.where(mask > 0, views, -views)
    assert metrics.masked_psnr(outside, views, mask).tolist() == [math.inf, math.inf]
    assert (metrics.masked_psnr(outside, views, 1 - mask) < 30).all()
    inner = torch.zeros_like(mask)
    inner[..., 14:18, 14:18] = 1  # SSIM's windows reach five pixels out
    torch.testing.assert_close(
        metrics.masked_ssim(outside, views, inner), torch.ones(2).double(), atol=1e-6, rtol=0
    )
    assert (metrics.masked_ssim(-views, views, mask) < 0.5).all()


def test_ssim_is_that_of_torchmetrics(views):
    noisy = (views + 0.2 * torch.randn(views.shape, generator=torch.Generator())).double()
    _, similarity = structural_similarity_index_measure(
        (noisy + 1) / 2, (views.double() + 1) / 2, data_range=1.0, return_full_image=True
    )
    got = metrics.masked_ssim(noisy, views, torch.ones(2, 1, 32, 32))
    torch.testing.assert_close(got, similarity.mean((1, 2, 3)))


def test_views_are_measured_one_by_one(views, mask):
    noisy = views.flip(-1)
    for measure in (metrics.masked_psnr, metrics.masked_ssim, metrics.sharpness):
        together = measure(noisy, views, mask)
        alone = [measure(noisy[i : i + 1], views[i : i + 1], mask[i : i + 1]) for i in (0, 1)]
        torch.testing.assert_close(together, torch.cat(alone))


def test_partial_coverage_weighs_pixels():
    output = torch.zeros(1, 3, 1, 2)
    output[..., 0] = 1.0
    weights = torch.tensor([0.25, 0.75]).view(1, 1, 1, 2)
    [got] = metrics.masked_psnr(output, torch.zeros_like(output), weights).tolist()
    assert got == pytest.approx(10 * math.log10(4 / 0.25))


def test_empty_masks_give_nan(views, mask):
    mask[1] = 0
    for measure in (metrics.masked_psnr, metrics.masked_ssim, metrics.sharpness):
        assert measure(views + 0.1, views, mask).isnan().tolist() == [False, True]


def test_sharpness_is_the_ratio_of_gradient_energy(views, mask):
    def sharpness(output, truth=views):
        return metrics.sharpness(output, truth, mask).tolist()

    assert sharpness(views) == pytest.approx([1, 1])
    assert sharpness(0.5 * views) == pytest.approx([0.25, 0.25])
    assert all(map(math.isnan, sharpness(views, torch.zeros_like(views))))
    blurred = torch.nn.functional.avg_pool2d(views, 5, 1, 2)
    assert max(sharpness(blurred)) < 0.9
