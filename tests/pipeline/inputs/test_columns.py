import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.folders import open_run
from pipeline.inputs.listing import list_content
from pipeline.shards import ShardError
from pipeline.shards.reader import Column
from pipeline.shards.writer import ShardWriter
from pipeline.stages.plan import plan_run


@pytest.fixture
def column(rendered_column: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rendered_column, tmp_path / "render"))


def test_column_of_ours_is_read_by_its_records(column: Path) -> None:
    inputs = list_content(str(column))
    assert [one.key for one in inputs] == Column(column).keys
    assert {one.count for one in inputs} == {4}
    assert {one.shard for one in inputs} == {"train-00000", "train-00001", "test-00000"}
    [test] = list_content(str(column / "test-00000.tar"))
    assert (test.shard, test.split, test.seed) == ("test-00000", "test", inputs[0].seed)
    with ShardWriter(column, "train-00001", {}) as writer:
        writer.fail("train-00000002", "non_finite", "view 1", seed=1, split="train")
    failed = {one.key: one.problem for one in list_content(str(column)) if one.problem}
    assert failed == {
        "train-00000002": (
            "content_unreadable",
            "render/train-00000002: failed there: non_finite: view 1",
        )
    }


def test_only_views_once_around_are_taken(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "grid", "train-00000", {"rig": {"kind": "grid"}}) as writer:
        writer.fail("train-00000000", "non_finite", "", seed=1, split="train")
    with pytest.raises(PipelineError, match="rendered from a grid; stylize takes views once aroun"):
        list_content(str(tmp_path / "grid"))


def test_damaged_records_are_not_passed_over(column: Path) -> None:
    (column / "test-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(ShardError, match=r"test-00000.parquet: not readable as Parquet"):
        list_content(str(column))


def test_folder_above_a_column_is_none(write_manifest: Callable[..., Path], tmp_path: Path) -> None:
    """Though tables of ours lie there: plan.parquet, metrics.parquet."""
    folder = open_run(write_manifest(), tmp_path)
    plan_run(folder)
    names = [one.name for one in list_content(str(folder.path))]
    assert names == ["manifest.json", "plan.parquet"]


def test_damaged_sample_does_not_hide_the_others(column: Path) -> None:
    """The number of views is that of a sample that can be read."""
    for shard in ("test-00000", "train-00000"):
        os.truncate(column / f"{shard}.tar", 700)
    assert {one.count for one in list_content(str(column))} == {4}
    os.truncate(column / "train-00001.tar", 0)
    assert {one.count for one in list_content(str(column))} == {0}
