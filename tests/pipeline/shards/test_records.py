import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.schemas import RECORD, VERSION_KEY
from pipeline.shards import ShardError
from pipeline.shards.records import (
    Commit,
    check_records,
    encode_records,
    list_records,
    order_shard,
    read_commit,
    read_outcome,
    read_records,
)

COMMIT = Commit(1, 10240, "a" * 64, "b" * 32, {"device": "cpu", "scale": 0.5}, pa.__version__)
OK_ROW = {
    "key": "train-00000000",
    "split": "train",
    "seed": 2**32 - 1,
    "status": "ok",
    "message": "",
    "offset": 0,
    "size": 1024,
    "sha256": "c" * 64,
    "members": 1,
    "seconds": 0.1,
}
FAILED_ROW = dict.fromkeys(OK_ROW) | {
    "key": "train-00000001",
    "split": "train",
    "seed": 1,
    "status": "NonFinite",
    "message": "image: not finite",
}
ROWS = [OK_ROW, FAILED_ROW]


@pytest.fixture
def parquet(tmp_path):
    path = tmp_path / "train-00000.parquet"
    path.write_bytes(encode_records(ROWS, COMMIT))
    return path


def test_rows_and_commit_come_back(parquet):
    table, commit = read_records(parquet)
    assert table.to_pylist() == ROWS
    assert table.schema.equals(RECORD)
    assert commit == COMMIT == read_commit(parquet)
    assert check_records(parquet) is None


def test_outcome_is_what_the_rows_say(parquet):
    for timed, seconds in ((False, 0.0), (True, 0.1)):
        outcome = read_outcome(parquet, timed)
        assert outcome.statuses == {"ok": 1, "NonFinite": 1}
        assert outcome.seconds == seconds
        assert (outcome.size, outcome.commit) == (parquet.stat().st_size, COMMIT)
    parquet.write_bytes(encode_records([OK_ROW, OK_ROW | {"key": "b"}], COMMIT._replace(samples=2)))
    assert read_outcome(parquet).statuses == {"ok": 2}
    assert read_outcome(parquet, timed=True).seconds == 0.2
    parquet.write_bytes(encode_records([], COMMIT._replace(samples=0)))
    assert read_outcome(parquet, timed=True)[:2] == ({"ok": 0}, 0.0)


def test_bytes_follow_from_the_rows():
    assert encode_records(ROWS, COMMIT) == encode_records([dict(row) for row in ROWS], COMMIT)
    assert encode_records(ROWS[::-1], COMMIT) != encode_records(ROWS, COMMIT)


def test_no_row_at_all_is_a_file_too(tmp_path):
    path = tmp_path / "empty.parquet"
    path.write_bytes(encode_records([], COMMIT))
    assert read_records(path)[0].num_rows == 0


@pytest.mark.parametrize("edit", [{"seed": -1}, {"seed": 2**32}, {"key": None}, {"size": "much"}])
def test_rows_that_do_not_fit_are_refused(edit):
    with pytest.raises(ShardError, match="does not fit"):
        encode_records([OK_ROW | edit], COMMIT)


def test_every_flipped_byte_is_found(parquet):
    whole = parquet.read_bytes()
    random = np.random.RandomState(0)
    for position in range(0, len(whole), 11):
        damaged = bytearray(whole)
        damaged[position] ^= int(random.randint(1, 256))
        parquet.write_bytes(damaged)
        try:
            found = check_records(parquet)
        except ShardError as error:
            found = str(error)
        assert found, f"byte {position} of {len(whole)}"
        assert "\n" not in found


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_cut_file_is_refused(parquet, keep):
    parquet.write_bytes(parquet.read_bytes()[:keep])
    for read in (read_commit, read_outcome):
        with pytest.raises(ShardError, match="not readable as Parquet"):
            read(parquet)


def test_other_versions_and_foreign_files_are_refused(parquet):
    table = pq.read_table(parquet)
    newer = table.schema.metadata | {VERSION_KEY: b"2"}
    pq.write_table(table.replace_schema_metadata(newer), parquet)
    with pytest.raises(ShardError, match=r"schema version 2, this program reads 1"):
        read_records(parquet)
    pq.write_table(table.replace_schema_metadata({VERSION_KEY: b"1"}), parquet)
    with pytest.raises(ShardError, match="no commit record"):
        read_commit(parquet)
    pq.write_table(table.replace_schema_metadata(), parquet)
    with pytest.raises(ShardError, match="schema version missing"):
        read_commit(parquet)
    with pytest.raises(ShardError, match="missing; make the shard again"):
        read_commit(parquet.with_name("none.parquet"))
    with pytest.raises(ShardError, match="missing; make the shard again"):
        read_outcome(parquet.with_name("none.parquet"))


def test_an_edited_row_is_found_whatever_wrote_it(parquet):
    table = pq.read_table(parquet)
    rows = table.to_pylist()
    rows[0]["seed"] = 7
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), parquet)
    assert "changed after the commit" in check_records(parquet)


def test_shards_come_by_number_beyond_five_digits(tmp_path):
    names = ["test-00007", "train-00000", "train-20000", "train-99999", "train-100000", "wrong"]
    for name in sorted(names):
        (tmp_path / f"{name}.parquet").touch()
    (tmp_path / "train-00001.tar").touch()
    assert [path.stem for path in list_records(tmp_path)] == names
    assert list_records(tmp_path / "nowhere") == []
    published = [f"train-{number:05d}-of-100001" for number in (0, 20000, 99999, 100000)]
    assert sorted(sorted(published), key=order_shard) == published
