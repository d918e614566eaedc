"""What a bulk stylization will take, beside what it took."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.errors import PipelineError
from pipeline.folders import BulkFolder
from pipeline.stages.bulk_run import plan_bulk
from pipeline.stages.bulk_space import check_bulk_space, estimate_bulk, tell_space
from tests.pipeline.odd_images import encode, picture
from tests.pipeline.stages.test_bulk import write_identity, write_portraits
from tests.pipeline.stages.test_bulk_run import Open, make


@pytest.fixture
def folder(open_planned: Open, tmp_path: Path) -> BulkFolder:
    """Four portraits and an identity of four views, in one style."""
    write_portraits(tmp_path / "in", 4)
    write_identity(tmp_path / "in" / "anna", seed=10)
    for view in (2, 3):
        image = encode(picture(seed=view), "PNG")
        (tmp_path / "in" / "anna" / f"{view}.png").write_bytes(image)
    opened = open_planned()
    plan_bulk(opened)
    return opened


def set_free(patch: pytest.MonkeyPatch, free: int) -> None:
    patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


@pytest.mark.parametrize("rgb", ["png", "webp", "jpeg"])
def test_columns_take_at_most_what_was_told(open_planned: Open, tmp_path: Path, rgb: str) -> None:
    write_portraits(tmp_path / "in", 2)
    folder = open_planned(rgb=rgb, styles=["ink.png", "oil.png"], views=3)
    plan_bulk(folder)
    needs = estimate_bulk(folder)
    assert [need.most.name for need in needs] == ["stylized-ink", "stylized-oil"]
    assert all(need.usual < need.most.bytes and not need.most.measured for need in needs)
    make(folder)
    for need in needs:
        took = sum(path.stat().st_size for path in folder.column(need.most.name).iterdir())
        assert took <= need.most.bytes < 4 * took  # of 16 pixels: most of a tar is headers
    assert sum(need.most.bytes for need in estimate_bulk(folder)) == 0


def test_every_column_counts_its_own_views(folder: BulkFolder) -> None:
    portraits, around = estimate_bulk(folder)
    assert (portraits.most.name, around.most.name) == ("stylized-ink", "stylized-ink.v4")
    assert portraits.most.bytes > around.most.bytes  # 4 samples of 2 views, 1 of 4


def test_what_is_made_tells_what_the_rest_takes(folder: BulkFolder) -> None:
    make(folder, ("stylized-ink",), ("train-00000",))
    portraits, around = estimate_bulk(folder)
    made = sum(path.stat().st_size for path in folder.column("stylized-ink").iterdir())
    assert portraits.most.measured
    assert portraits.usual == portraits.most.bytes == made  # the other half
    assert not around.most.measured


def test_one_line_where_it_may_not_fit(folder: BulkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_bulk_space(folder) is None
    most = sum(need.most.bytes for need in estimate_bulk(folder))
    set_free(monkeypatch, int(most))
    assert check_bulk_space(folder) is None
    set_free(monkeypatch, int(most) - 1)
    told = check_bulk_space(folder)
    assert told is not None
    assert "free, and this run may need up to another" in told
    assert "stylized-ink " in told
    assert told.endswith("or ask for less (styles, views, or rgb: jpeg)")
    assert ", at most " in tell_space(folder)


def test_refused_where_it_will_not_fit(folder: BulkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    make(folder, ("stylized-ink",), ("train-00000",))
    portraits, _ = estimate_bulk(folder)
    set_free(monkeypatch, int(portraits.most.bytes) - 1)
    with pytest.raises(PipelineError, match=r"free, and this run needs another .*: stylized-ink "):
        check_bulk_space(folder)
    make(folder)
    set_free(monkeypatch, 1_000_000)
    assert tell_space(folder) == "about 0 B to come; 1 MB free"
