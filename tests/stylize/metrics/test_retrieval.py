import math

import torch

from stylize import metrics


def test_the_nearer_one_is_recognised(views, mask):
    own, others = (views, mask), [(views.flip(-1), mask), (-views, mask)]
    assert metrics.nearer_share(views + 0.01, own, others).tolist() == [1, 1]
    assert metrics.nearer_share(-views, own, others).max() <= 0.5
    assert metrics.nearer_share(views, own, [own, own]).tolist() == [0.5, 0.5]


def test_what_no_mask_covers_does_not_count(views, mask):
    far = torch.where(mask > 0, views, -views)  # differs outside alone
    assert metrics.nearer_share(-views, (views, mask), [(far, mask)]).tolist() == [0.5, 0.5]
    wider = torch.ones_like(mask)  # the other's outline counts
    assert metrics.nearer_share(-views, (views, mask), [(far, wider)]).tolist() == [0, 0]


def test_among_none_nothing_is_said(views, mask):
    assert all(map(math.isnan, metrics.nearer_share(views, (views, mask), []).tolist()))
