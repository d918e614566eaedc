import math

import pytest
import torch

from stylize import metrics


def test_foreground_is_what_is_not_white():
    images = torch.ones(1, 3, 2, 2)
    images[0, 1, 0, 0] = 0.5
    assert metrics.estimate_foreground(images).flatten().tolist() == [1, 0, 0, 0]


def test_silhouette_counts_pixels():
    foreground = torch.tensor([1.0, 1, 1, 0, 0, 0]).view(2, 1, 1, 3)
    mask = torch.tensor([0.0, 0.2, 1, 0, 0, 0]).view(2, 1, 1, 3)
    got = metrics.silhouette_iou(foreground, mask).tolist()
    assert got == pytest.approx([2 / 3, math.nan], nan_ok=True)
    assert metrics.silhouette_iou(mask, mask)[0] == 1
    assert metrics.spill(foreground, mask).tolist() == pytest.approx([1 / 3, math.nan], nan_ok=True)


def test_depth_agrees_within_the_tolerance_where_both_have_something():
    depth = torch.tensor([2.0, 2.0, 2.0, 3.0]).view(1, 1, 2, 2)
    other = torch.tensor([2.01, 2.5, 3.0, 2.0]).view(1, 1, 2, 2)
    [got] = metrics.depth_agreement(depth, other, background=3.0).tolist()
    assert got == 0.5
