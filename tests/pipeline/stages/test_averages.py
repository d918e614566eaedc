from pathlib import Path

import pyarrow as pa
import pytest

from manifests.schemas import METRICS
from manifests.stylizer import Reference
from pipeline.stages.averages import as_text, average, label_references


def make_table() -> pa.Table:
    """Two identities, the second seen by fewer views."""
    names = {"reference": "ink", "style": "ink"}
    rows = [
        {"key": "a", "method": "diffstyle360", "view": 0, "yaw": 0.0, "psnr": 10.0},
        {"key": "a", "method": "diffstyle360", "view": 1, "yaw": 180.0, "psnr": 20.0},
        {"key": "a", "method": "diffstyle360", "seam": 2.0},
        {"key": "b", "method": "diffstyle360", "view": 0, "yaw": -45.0, "psnr": 30.0},
        {"key": "b", "method": "diffstyle360", "view": 1, "yaw": -90.0},
        {"key": "b", "method": "diffstyle360"},
        {"key": "a", "method": "truth", "view": 0, "yaw": 0.0, "ssim": 1.0},
        {"key": None, "method": "diffstyle360", "fid": 7.0},
    ]
    return pa.Table.from_pylist([names | row for row in rows], schema=METRICS)


def test_means_are_over_views_then_identities() -> None:
    means = average(make_table(), [("ink", {"ink": "ours"})])
    assert means.measures == ["psnr", "ssim", "seam", "fid"]  # no others have values
    assert means.sided == ["psnr", "ssim"]
    [(title, [truth, ours])] = means.groups  # the bound first
    assert title == "ink"
    assert (truth.label, truth.ours, truth.values) == ("truth", False, [None, 1.0, None, None])
    assert (ours.label, ours.ours) == ("ours", True)
    assert ours.values == [pytest.approx((15 + 30) / 2), None, 2.0, 7.0]
    assert ours.by_side == [[pytest.approx(20), None, 20.0], [None, None, None]]


def test_text_has_a_line_a_method() -> None:
    header, truth, ours = as_text(average(make_table(), [("ink", {"ink": "ours"})])).splitlines()
    assert header.split() == ["PSNR", "SSIM", "seam", "FID"]
    assert truth.split() == ["ink:", "truth", "–", "1.000", "–", "–"]
    assert ours.split() == ["ink:", "ours", "22.500", "–", "2.000", "7.000"]


def test_references_of_one_image_are_one_group() -> None:
    references = {
        "statue": Reference(style="statue"),
        "off": Reference(style="statue", presence=0.0),
        "ink": Reference(image=Path("/ink.png")),
        "joined": Reference(style="statue", gated=False, temperature=0.5),
    }
    assert label_references(references) == [
        (
            "statue",
            {
                "statue": "diffstyle360, statue",
                "off": "diffstyle360, off (presence 0)",
                "joined": "diffstyle360, joined (temperature 0.5, no gate)",
            },
        ),
        ("ink", {"ink": "diffstyle360"}),
    ]
