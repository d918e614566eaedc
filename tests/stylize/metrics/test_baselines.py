import torch

from stylize import metrics


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


def test_nothing_is_transferred_without_foreground(views, mask):
    nothing = torch.zeros_like(mask)
    assert torch.equal(metrics.transfer_statistics(views, nothing, views[:1], mask[:1]), views)
    assert torch.equal(metrics.transfer_statistics(views, mask, views[:1], nothing[:1]), views)
