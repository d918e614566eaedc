from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.rewriting import Moved, combine_provenance, rewrite_shard
from pipeline.shards import ShardError
from pipeline.shards.codecs import decode
from pipeline.shards.reader import Column
from tests.pipeline.shards.conftest import forge_shard, make_sample

RECORDS = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2), min_size=1)


@given(st.lists(RECORDS, min_size=1, max_size=5))
def test_nothing_a_maker_said_is_lost(records: list[dict[str, Any]]) -> None:
    combined = combine_provenance(records)
    shared = {key: value for key, value in combined.items() if key != "mixed"}
    told = [shared | one for one in combined.get("mixed", [{}])]
    assert all(record in told for record in records)
    assert all(one in records for one in told)
    assert combine_provenance([*records, *records]) == combined


@given(st.lists(RECORDS, min_size=1, max_size=4), st.lists(RECORDS, min_size=1, max_size=4))
def test_combinations_are_combined(one: list[dict], other: list[dict]) -> None:
    twice = combine_provenance([combine_provenance(one), combine_provenance(other)])
    shared = {key: value for key, value in twice.items() if key != "mixed"}
    told = [shared | record for record in twice.get("mixed", [{}])]
    assert all(record in told for record in [*one, *other])
    assert all("mixed" not in record for record in told)


def test_only_the_names_in_the_json_change(columns: Path, tmp_path: Path) -> None:
    source = Column(columns / "render")
    row = {"key": "train-00000003", "split": "train", "seed": 3, "status": "ok", "seconds": 0.25}
    moved = [Moved(row, "a-train-00000003", "val")]
    rewrite_shard(source, tmp_path / "render", "val-00000", moved, {"generator": "demo"})
    old = source.read("train-00000003", decoded=False)
    new = Column(tmp_path / "render").read("a-train-00000003", decoded=False)
    changed = {"key": "a-train-00000003", "split": "val"}
    assert decode("json", new.pop("json")) == decode("json", old.pop("json")) | changed
    assert list(old.items()) == list(new.items())


def test_a_json_without_names_is_refused(tmp_path: Path) -> None:
    members = make_sample("train-00000001", 1) | {"json": b"[]"}
    forge_shard(tmp_path / "render", "train-00000", [("train-00000001", members)])
    row = {"key": "train-00000001", "split": "train", "seed": 1, "status": "ok", "seconds": 0.25}
    with pytest.raises(ShardError, match=r"train-00000001\.json: not an object"):
        rewrite_shard(
            Column(tmp_path / "render"), tmp_path / "out", "a-00000", [Moved(row, "b", "a")], {}
        )
    assert list((tmp_path / "out").iterdir()) == []
