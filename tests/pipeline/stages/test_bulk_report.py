import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.stages import bulk_report as stage
from pipeline.stages.bulk_report import report_bulk
from pipeline.stages.bulk_run import plan_bulk
from pipeline.stages.verify import verify_run
from tests.pipeline import odd_images
from tests.pipeline.odd_images import encode, picture
from tests.pipeline.stages.test_bulk import write_portraits
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
