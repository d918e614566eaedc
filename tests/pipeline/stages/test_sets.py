from typing import Any

import pytest
import torch

from pipeline.judges import Judges, Pictures
from pipeline.stages.sets import Sets
from stylize import metrics


def draw(seed: int) -> Pictures:
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return Pictures(images, torch.ones(6, 1, 8, 8))


def colour(images: torch.Tensor) -> torch.Tensor:
    return images.mean((2, 3))


JUDGES: Any = Judges
INCEPTION = JUDGES(inception=colour)


def test_sets_are_gathered_over_identities() -> None:
    sets = Sets()
    lpips = [{"view": 0, "content_lpips": 0.5}, {"view": 1, "content_lpips": None}, {}]
    for seed in (0, 1):
        sets.add("ink", "sketch", "truth", draw(seed), [], INCEPTION)
        sets.add("ink", "sketch", "diffstyle360", draw(seed + 5), lpips, INCEPTION)
    truth, ours = sets.rows()
    assert (ours["reference"], ours["style"], ours["method"]) == ("ink", "sketch", "diffstyle360")
    features = [torch.cat([colour(draw(seed).images) for seed in two]) for two in ((5, 6), (0, 1))]
    assert ours["fid"] == pytest.approx(metrics.frechet_distance(*features))
    assert ours["kid"] == pytest.approx(metrics.kernel_distance(*features))
    assert ours["artfid"] == pytest.approx(1.5 * (1 + ours["fid"]))
    assert truth["fid"] == pytest.approx(0, abs=1e-9)
    assert "artfid" not in truth  # nothing was said of its distance to content


def test_without_truth_or_inception_there_are_no_sets() -> None:
    sets = Sets()
    sets.add("ink", None, "diffstyle360", draw(0), [], INCEPTION)
    sets.add("pen", "sketch", "truth", draw(0), [], Judges())
    assert list(sets.rows()) == []
