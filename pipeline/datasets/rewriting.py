"""Samples that go from shard to shard: every member's bytes stay, but for names in the JSON."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from manifests.schemas import OK
from pipeline.shards import ShardError
from pipeline.shards.codecs import decode, encode_json
from pipeline.shards.reader import Column
from pipeline.shards.writer import ShardWriter


class Moved(NamedTuple):
    """A row of a shard, failed or not, and what it is called where it goes."""

    row: dict[str, Any]  # of `columns.read_rows`
    key: str
    split: str


def rewrite_shard(
    source: Column, target: Path, name: str, samples: Iterable[Moved], provenance: dict[str, Any]
) -> None:
    """Write the shard `name` of the folder `target` from samples of `source`, one at a time.

    Seeds, seconds and the reasons of failures go along. The member json gets the new key and split
    where they differ; all other members are the same bytes. Raises ShardError for a sample whose
    bytes are not those that were committed.
    """
    with ShardWriter(target, name, provenance) as writer:
        for row, key, split in samples:
            if row["status"] != OK:
                writer.fail(key, row["status"], row["message"], seed=row["seed"], split=split)
                continue
            members = source.read(row["key"], decoded=False, check=True)
            if (key, split) != (row["key"], row["split"]):
                members["json"] = _rename(members["json"], row["key"], key, split)
            writer.add(key, members, seed=row["seed"], split=split, seconds=row["seconds"])


def combine_provenance(made: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What made a shard whose samples come from several: what all say alike stays as it is.

    What they say differently is a list under `mixed`, one entry per distinct record.
    """
    known = list({json.dumps(one, sort_keys=True): one for one in made}.values())
    first, *others = known
    if not others:
        return first
    shared = {
        key: value
        for key, value in first.items()
        if all(key in other and other[key] == value for other in others)
    }
    rest = [{key: value for key, value in one.items() if key not in shared} for one in known]
    return shared | {"mixed": list(_flatten(rest))}


def _flatten(rest: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The records, those that were combined before in place of their combination."""
    seen: list[dict[str, Any]] = []
    for one in rest:
        inner = one.get("mixed", [{}])
        outer = {key: value for key, value in one.items() if key != "mixed"}
        for record in (outer | part for part in inner):
            if record not in seen:
                seen.append(record)
                yield record


def _rename(data: bytes, old: str, key: str, split: str) -> bytes:
    meta = decode(f"{old}.json", data)
    if not isinstance(meta, dict):
        raise ShardError(f"{old}.json: not an object; run verify on this column")
    return encode_json(meta | {"key": key, "split": split})
