from pathlib import Path

import pytest

from pipeline.counts import Count, count_column
from pipeline.shards import ShardError
from pipeline.shards.records import read_outcome
from pipeline.shards.writer import ShardWriter


def test_in_is_ok_plus_failed(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "train-00000", {}) as writer:
        writer.add("a", {"json": b"{}"}, seed=1, split="train", seconds=0.5)
        writer.fail("b", "non_finite", "view 3 is not finite", seed=2, split="train")
        writer.fail("c", "non_finite", "view 4 is not finite", seed=3, split="train")
    (tmp_path / "train-00001.tar").write_bytes(b"not committed")
    count = count_column(tmp_path)
    assert (count.total, count.ok, count.failed, count.seconds) == (3, 1, 2, 0.5)
    assert count.summary() == "2 non_finite (first b: view 3 is not finite)"


def test_nothing_is_counted_where_nothing_is(tmp_path: Path) -> None:
    assert count_column(tmp_path / "none").total == 0


def test_first_of_each_kind_is_of_the_first_shard(tmp_path: Path) -> None:
    for number, kinds in enumerate([["b"], ["b", "a"], ["a", "a"]]):
        with ShardWriter(tmp_path, f"train-{number:05d}", {}) as writer:
            for index, kind in enumerate(kinds):
                writer.fail(f"k{number}{index}", kind, "why", seed=1, split="train")
    count = count_column(tmp_path)
    assert count.examples == {"b": "k00: why", "a": "k11: why"}
    assert list(count.failures.items()) == [("a", 3), ("b", 2)]
    assert count.summary() == "3 a (first k11: why); 2 b (first k00: why)"
    assert (count.total, count.ok, count.seconds) == (5, 0, 0.0)
    assert count_column(tmp_path, tmp_path).failures == {"a": 6, "b": 4}


def test_shard_that_is_gone_counts_nothing(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "train-00000", {}) as writer:
        writer.fail("a", "non_finite", "view 3", seed=1, split="train")
    path, count = tmp_path / "train-00000.parquet", Count()
    outcome = read_outcome(path)
    path.unlink()
    with pytest.raises(ShardError, match="missing"):
        count.add(path, outcome)
    assert count == Count()
