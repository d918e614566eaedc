"""Columns of shards that this program wrote, as content."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.schemas import OK, RECORD, VERSION_KEY
from pipeline.errors import PipelineError
from pipeline.inputs.sources import Input
from pipeline.shards import ShardError
from pipeline.shards.reader import Column
from pipeline.shards.records import list_records, read_records


def list_column(folder: Path, shards: Sequence[str] | None = None) -> list[Input]:
    """The samples of a column, or of some of its shards; failed ones too.

    Raises ShardError where a record is damaged, PipelineError where the views are not those of an
    orbit.
    """
    paths = list_records(folder)
    if shards is not None:
        paths = [folder / f"{shard}.parquet" for shard in shards]
    inputs = [one for path in paths for one in _list_shard(path)]
    if not inputs:
        raise PipelineError(f"{folder}: no samples in this column")
    count = _count_views(inputs)
    return [replace(one, count=count) for one in inputs]


def is_our_record(path: Path) -> bool:
    """Whether a file is the record of a shard of ours."""
    try:
        found = pq.read_metadata(path)
        return VERSION_KEY in (found.metadata or {}) and found.schema.names == RECORD.names
    except (OSError, ValueError, pa.ArrowException):
        return False


def _list_shard(record: Path) -> list[Input]:
    folder, shard = record.parent, record.stem
    table, commit = read_records(record, ["key", "split", "seed", "status", "message", "sha256"])
    kind = (commit.provenance.get("rig") or {}).get("kind", "orbit")
    if kind != "orbit":
        raise PipelineError(
            f"{folder}: rendered from a {kind}; stylize takes views once around: an orbit"
        )
    inputs = []
    for row in table.to_pylist():
        key, problem = row["key"], None
        if row["status"] != OK:
            message = f"{folder.name}/{key}: failed there: {row['status']}: {row['message']}"
            problem = ("content_unreadable", message)
        inputs.append(
            Input(
                name=key,
                origin=f"{folder.name}/{shard}.tar: {key}",
                problem=problem,
                key=key,
                column=folder,
                shard=shard,
                split=row["split"],
                seed=row["seed"],
                sha256=row["sha256"] or "",
            )
        )
    return inputs


def _count_views(inputs: Sequence[Input]) -> int:
    """Of the first sample that can be read, as of all others; 0 where none can be."""
    for one in inputs:
        if one.problem is None and one.column is not None:
            try:
                meta = Column(one.column, [one.shard]).read(one.key, ["json"])["json"]
                return len(meta["views"])
            except (ShardError, KeyError, TypeError):
                continue
    return 0
