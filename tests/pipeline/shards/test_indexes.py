import hashlib
import json
import tarfile

import pytest

from pipeline.shards import ShardError
from pipeline.shards.indexes import write_wids


def test_the_idx_points_at_every_member(column):
    first, *lines = (column / "train-00000.idx").read_text().splitlines()
    assert first == "v1.2 2"
    assert len(lines) == 2
    content = (column / "train-00000.tar").read_bytes()
    with tarfile.open(column / "train-00000.tar") as tar:
        expected = {m.name: tar.extractfile(m).read() for m in tar}
    found = {}
    for line in lines:
        fields = line.split(" ")
        for i in range(0, len(fields), 4):
            extension, offset, size, name = fields[i : i + 4]
            assert name.split(".", 1)[1] == extension
            assert int(offset) % 512 == 0
            found[name] = content[int(offset) : int(offset) + int(size)]
    assert found == expected
    assert list(found) == list(expected)


def test_wids_lists_the_committed_shards(column):
    (column / "train-00002.tar").write_bytes(b"not committed")
    index = json.loads(write_wids(column).read_bytes())
    assert index["__kind__"] == "wids-shard-index-v1"
    assert index["wids_version"] == 1
    assert [shard["url"] for shard in index["shardlist"]] == ["train-00000.tar", "train-00001.tar"]
    assert [shard["nsamples"] for shard in index["shardlist"]] == [2, 3]
    for shard in index["shardlist"]:
        content = (column / shard["url"]).read_bytes()
        assert shard["filesize"] == len(content)
        assert shard["md5sum"] == hashlib.md5(content).hexdigest()


def test_wids_lists_shards_by_number_beyond_five_digits(column):
    for extension in ("tar", "parquet"):
        (column / f"train-00000.{extension}").rename(column / f"train-99999.{extension}")
        (column / f"train-00001.{extension}").rename(column / f"train-100000.{extension}")
    shards = json.loads(write_wids(column).read_bytes())["shardlist"]
    assert [shard["url"] for shard in shards] == ["train-99999.tar", "train-100000.tar"]


def test_wids_is_not_written_over_a_damaged_parquet(column):
    before = write_wids(column).read_bytes()
    (column / "train-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(ShardError, match="train-00001"):
        write_wids(column)
    assert (column / "wids.json").read_bytes() == before
