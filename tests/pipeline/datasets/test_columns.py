from pathlib import Path

import pytest

from pipeline.datasets.columns import (
    align,
    choose_columns,
    is_column,
    list_columns,
    list_shards,
    read_rows,
    split_of,
)
from pipeline.errors import PipelineError
from pipeline.shards import ShardError
from tests.pipeline.datasets.conftest import SHARDS, write_column


@pytest.mark.parametrize(
    ("shard", "split"),
    [("train-00003", "train"), ("held-out-00003", "held-out"), ("test-100000", "test"),
     ("train-00003-of-00012", "train"), ("a-00001-00002", "a-00001")],
)  # fmt: skip
def test_the_split_is_in_the_name(shard: str, split: str) -> None:
    assert split_of(shard) == split


@pytest.mark.parametrize("shard", ["quality", "train", "train-003", "-00003"])
def test_other_names_are_refused(shard: str) -> None:
    with pytest.raises(PipelineError, match="not named like a shard"):
        split_of(shard)


def test_columns_are_listed_base_first(columns: Path) -> None:
    write_column(columns / "a-column", {"train-00000": [0]})
    (columns / "pictures").mkdir()
    (columns / "plan.parquet").write_bytes(b"")
    (columns / "foreign").mkdir()
    (columns / "foreign" / "metrics.parquet").write_bytes(b"no Parquet")
    assert list_columns(columns) == ["render", "a-column", "stylized-ink"]
    assert is_column(columns / "render")
    assert not is_column(columns)
    with pytest.raises(PipelineError, match="holds no column"):
        list_columns(columns / "pictures")
    with pytest.raises(PipelineError, match="no such folder"):
        list_columns(columns / "nowhere")


def test_shards_are_whole_or_refused(columns: Path) -> None:
    assert list_shards(columns / "render") == sorted(SHARDS)
    (columns / "render" / "train-00001.parquet").unlink()
    with pytest.raises(PipelineError, match=r"train-00001\.tar: has no \.parquet"):
        list_shards(columns / "render")
    with pytest.raises(PipelineError, match="no committed shard here"):
        list_shards(columns)
    with pytest.raises(PipelineError, match="no such folder"):
        list_shards(columns / "nowhere")
    (columns / "render" / "train-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(ShardError, match=r"train-00000\.parquet: not readable as Parquet"):
        read_rows(columns / "render", ["train-00000"])


def test_a_column_may_lack_a_split_but_no_sample(columns: Path) -> None:
    rows = {
        name: read_rows(columns / name, list_shards(columns / name))
        for name in ("render", "stylized-ink")
    }
    common = align(rows, ["shard", "key"])
    assert {split: len(part) for split, part in common.items()} == {"train": 6, "test": 2}
    for start, stop, odd in ((0, 1, "test-00000007"), (1, 2, "test-00000007")):
        part = {"render": rows["render"], "short": rows["stylized-ink"].slice(start, stop - start)}
        with pytest.raises(PipelineError, match=f"short: does not zip with render.*{odd}"):
            align(part, ["key"])
    with pytest.raises(PipelineError, match=r"long: does not zip with short.*test-00000007"):
        align({"short": rows["stylized-ink"].slice(0, 1), "long": rows["render"]}, ["key"])


def test_a_target_is_a_column_a_folder_or_a_manifest(
    columns: Path, verified_run: tuple[Path, Path]
) -> None:
    runs = Path("runs")
    assert choose_columns(columns / "render", runs, ()) == [columns / "render"]
    assert choose_columns(columns, runs, ["stylized-ink"]) == [columns / "stylized-ink"]
    names = [path.name for path in choose_columns(*verified_run, ())]
    assert names == ["render", "style-statue"]
    with pytest.raises(PipelineError, match="no column 'x'; there: render, stylized-ink"):
        choose_columns(columns, runs, ["x"])
    with pytest.raises(PipelineError, match="is a column itself"):
        choose_columns(columns / "render", runs, ["render"])
