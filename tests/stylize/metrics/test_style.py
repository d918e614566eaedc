import math

import torch

from stylize import metrics


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


def test_nothing_has_no_style(views, mask):
    assert metrics.style_profile(views, torch.zeros_like(mask)) is None
    assert math.isnan(metrics.style_distance(views, torch.zeros_like(mask), views, mask))
