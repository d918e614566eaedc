from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.schemas import VERSION_KEY
from pipeline.datasets.stats import as_text, summarize
from pipeline.errors import PipelineError
from pipeline.shards import ShardError
from pipeline.shards.records import read_commit


def test_counts_are_those_of_the_tars(columns: Path) -> None:
    summary = summarize(columns / "render")
    ends = {(end.split, end.status): end for end in summary.ends}
    assert {name: end.samples for name, end in ends.items()} == {
        ("train", "ok"): 5, ("train", "non_finite"): 1, ("test", "ok"): 2
    }  # fmt: skip
    assert ends["train", "ok"].members == 5 * 7
    assert ends["train", "ok"].seconds == 2.5
    assert ends["train", "non_finite"].bytes == 0
    commits = [read_commit(p) for p in sorted((columns / "render").glob("*.parquet"))]
    assert summary.shards == [commit.bytes for commit in commits]
    assert summary.views == 2
    assert summary.samples == 7
    assert summary.rate == 7 * 2 / 3.5


def test_text_has_a_line_each(columns: Path) -> None:
    text = as_text([summarize(columns / name) for name in ("render", "stylized-ink")])
    lines = text.splitlines()
    assert lines[0].startswith("render: 3 shards, ")
    assert [line.split()[:3] for line in lines[2:5]] == [
        ["test", "ok", "2"], ["train", "non_finite", "1"], ["train", "ok", "5"]
    ]  # fmt: skip
    assert "2 views a sample, 4 views a second and job" in text
    assert "1 views a sample" in text


def test_without_an_index_views_are_unknown(columns: Path) -> None:
    for path in (columns / "render").glob("*.idx"):
        path.unlink()
    summary = summarize(columns / "render")
    assert summary.views is summary.rate is None
    assert "views" not in as_text([summary])


def test_bad_records_are_one_line(columns: Path) -> None:
    path = columns / "render" / "train-00001.parquet"
    sound = path.read_bytes()
    path.write_bytes(sound[:-5])
    with pytest.raises(ShardError, match=r"train-00001\.parquet: not readable as Parquet"):
        summarize(columns / "render")
    path.write_bytes(sound)
    table = pq.read_table(path)
    metadata = (table.schema.metadata or {}) | {VERSION_KEY: b"99"}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(ShardError, match=r"train-00001\.parquet: schema version 99, this prog"):
        summarize(columns / "render")
    pq.write_table(pa.table({"key": ["a"]}), path)
    with pytest.raises(ShardError, match=r"train-00001\.parquet: "):
        summarize(columns / "render")
    with pytest.raises(PipelineError, match="no such folder"):
        summarize(columns / "nowhere")
