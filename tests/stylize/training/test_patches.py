import pytest
import torch

from stylize.training.patches import patch_distance


def picture(seed: int, views: int = 1) -> torch.Tensor:
    return torch.rand(views, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


EVERYWHERE = torch.ones(1, 1, 16, 16, dtype=torch.bool)


def test_an_image_is_at_no_distance_from_itself_and_pulls_others_towards_it():
    style = picture(0)
    assert patch_distance(style, EVERYWHERE, style, EVERYWHERE) == 0
    output = (picture(1) * 0.3 + 0.5).requires_grad_()
    before = patch_distance(output, EVERYWHERE, style, EVERYWHERE)
    (gradient,) = torch.autograd.grad(before, output)
    moved = output.detach() - 5 * gradient
    assert patch_distance(moved, EVERYWHERE, style, EVERYWHERE) < before


def test_it_is_what_the_metric_measures():
    metrics = pytest.importorskip("stylize.metrics")
    pairs = [(picture(seed), picture(seed + 10) * scale) for seed, scale in ((0, 1), (1, 0.5))]
    ours = [float(patch_distance(a, EVERYWHERE, b, EVERYWHERE)) for a, b in pairs]
    mask = EVERYWHERE.float()
    theirs = [metrics.style_distance(a, mask, b, mask) for a, b in pairs]
    assert ours == pytest.approx(theirs, rel=0.2)  # other patches are drawn


def test_only_the_foreground_counts():
    output = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    left = torch.zeros(2, 1, 64, 64, dtype=torch.bool)
    left[..., :8] = True
    patch_distance(output, left, picture(3), EVERYWHERE).backward()
    assert output.grad[..., :8].any()
    assert not output.grad[..., 40:].any()


def test_nothing_to_compare_is_no_distance():
    nothing = torch.zeros_like(EVERYWHERE)
    output = picture(4).requires_grad_()
    distance = patch_distance(output, nothing, picture(5), EVERYWHERE)
    distance.backward()
    assert distance == 0
    assert not output.grad.any()


def test_a_foreground_thinner_than_the_coarsest_pixel_still_counts():
    thin = torch.zeros_like(EVERYWHERE)
    thin[..., 7, 7] = True
    assert patch_distance(picture(6), thin, picture(7), EVERYWHERE) > 0
