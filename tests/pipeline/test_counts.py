from pathlib import Path

from pipeline.counts import count_column
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
