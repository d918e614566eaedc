import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.images import decode_picture, warp
from pipeline.inputs.planned import find_jobs
from pipeline.shards.reader import Column
from pipeline.stages import bulk_report as stage
from pipeline.stages import pictures
from pipeline.stages.bulk_report import report_bulk
from pipeline.stages.bulk_run import plan_bulk
from pipeline.stages.verify import verify_run
from tests.pipeline import odd_images
from tests.pipeline.odd_images import encode, picture
from tests.pipeline.stages.test_bulk import write_portraits
from tests.pipeline.stages.test_bulk_aligned import FACE, write_faces
from tests.pipeline.stages.test_bulk_run import Open, make


def test_page_shows_every_style_and_every_kind_of_failure(
    open_planned: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write_portraits(tmp_path / "in", 3)
    for name in ("a", "b", "c"):
        (content / f"{name}.png").touch()
    (content / "<i>.png").write_bytes(odd_images.bad()["cut.png"][0])
    folder = open_planned(styles=["ink.png", "oil.png"], shard_size=3)
    plan_bulk(folder)
    make(folder)
    with pytest.raises(PipelineError, match="run `diffstyle360 verify` first"):
        report_bulk(folder)
    verify_run(folder)
    (content / "0.png").unlink()  # what is shown of it is paper
    monkeypatch.setattr(stage, "EXAMPLES", 2)
    monkeypatch.setattr(stage, "SHOWN", 2)
    report_bulk(folder)
    page = folder.report_path.read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    pictures = [source for source in sources if source.startswith("data:image/webp;base64,")]
    assert len(pictures) == 2 * 2
    assert sorted(set(sources) - set(pictures)) == ["#stylized-ink", "#stylized-oil"]
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    assert "url(" not in page
    for anchor in ("stylized-ink", "stylized-oil"):
        assert f'id="{anchor}"' in page
    assert page.count("7 in = 3 ok + 4 failed.") == 2
    for told in ("3 empty", "1 truncated", "and 1 more", "<code>a</code>", "seed: 0"):
        assert told in page
    assert "<code>c</code>" not in page
    assert "&lt;i&gt;.png: the file is cut off" in page
    assert "<i>" not in page
    width, height = Image.open(io.BytesIO(base64.b64decode(pictures[0].split(",")[1]))).size
    assert width > 3.9 * height  # content, style, two views


def test_column_of_which_all_failed_has_no_sheet(open_planned: Open, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()
    (tmp_path / "ink.png").write_bytes(encode(picture(seed=1), "PNG"))
    folder = open_planned()
    plan_bulk(folder)
    make(folder)
    verify_run(folder)
    report_bulk(folder)
    page = folder.report_path.read_text()
    assert "1 in = 0 ok + 1 failed." in page
    assert "<img" not in page


def test_page_shows_an_aligned_portrait_as_the_model_saw_it(
    open_planned: Open, tmp_path: Path
) -> None:
    """Though its landmarks are gone: by the recorded matrix."""
    content = write_faces(tmp_path / "in", a=FACE)
    folder = open_planned(align=True)
    plan_bulk(folder)
    make(folder)
    verify_run(folder)
    (content / "a.landmarks.json").unlink()
    column = Column(folder.column("stylized-ink"))
    [job] = find_jobs(folder.plan_path, "stylized-ink", ["a"]).values()
    files = column.read("a", ["json"])["json"]["files"]
    shown = stage._content(job, files)
    matrix = np.array(files[0]["alignment"]["matrix"]) * pictures.SHOWN / 32
    with Image.open(content / "a.png") as image:
        np.testing.assert_array_equal(shown, warp(image, matrix, pictures.SHOWN))
    centred = decode_picture((content / "a.png").read_bytes(), "a.png", pictures.SHOWN)
    assert np.abs(shown.astype(int) - centred.pixels).mean() > 3
    report_bulk(folder)
    assert "smallest_face: 0.25" in folder.report_path.read_text()
