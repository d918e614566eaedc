"""The plan of a bulk stylization as a file: what was listed once, read shard by shard."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.bulk_plan import ALIGNED_BULK_PLAN, BULK_PLAN, CLAIM_KEY, read_plan
from manifests.schemas import SCHEMA_VERSION, VERSION_KEY
from pipeline.inputs.jobs import Job, Shards
from pipeline.inputs.landmarks import Points
from pipeline.inputs.remote import CACHE, bring_back
from pipeline.inputs.sources import Input, Source

GROUP = 4096  # rows of a group, the least that is read: some tenths of a MiB
_PLAIN = ("key", "presence", "temperature", "hint", "views", "split", "label")
_DESCRIBED = ("name", "origin", "key", "count", "shard", "split", "seed", "sha256")


def encode_plan(columns: Mapping[str, Shards], claim: str, cache: Path) -> bytes:
    """The Parquet file of `manifests.bulk_plan.BULK_PLAN`: a row a sample, shards one by one.

    Tars in `cache`, the run's own folder of fetched ones, are named from the run's folder on, so
    that they are found wherever that is moved to.
    """
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode(), CLAIM_KEY: claim.encode()}
    contents = (
        job.content for shards in columns.values() for jobs in shards.values() for job in jobs
    )
    plain = all(one.landmarks is None and one.points is None for one in contents)
    schema = (BULK_PLAN if plain else ALIGNED_BULK_PLAN).with_metadata(metadata)
    sink = pa.BufferOutputStream()
    rows = _rows(columns, cache.absolute())
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        while group := list(itertools.islice(rows, GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema))
    return sink.getvalue().to_pybytes()


def read_jobs(plan: Path, wanted: Mapping[str, Sequence[str]]) -> tuple[dict[str, Shards], str]:
    """The jobs of the shards that are wanted of each column, and the plan's claim.

    Raises ManifestError where the plan cannot be read.
    """
    chosen = pc.scalar(False)
    for column, shards in wanted.items():
        chosen |= (pc.field("column") == column) & pc.field("shard").isin(list(shards))
    table, claim = read_plan(plan, BULK_PLAN.names, chosen)
    columns: dict[str, Shards] = {column: {} for column in wanted}
    for row in table.to_pylist():
        columns[row["column"]].setdefault(row["shard"], []).append(_read_job(row, plan))
    return columns, claim


def find_jobs(plan: Path, column: str, keys: Sequence[str]) -> dict[str, Job]:
    """Some jobs of a column, by key. Raises as `read_jobs`."""
    chosen = (pc.field("column") == column) & pc.field("key").isin(list(keys))
    table, _ = read_plan(plan, BULK_PLAN.names, chosen)
    return {row["key"]: _read_job(row, plan) for row in table.to_pylist()}


def bring_back_jobs(content: str, cache: Path, columns: Mapping[str, Shards]) -> dict[str, Shards]:
    """The same jobs, the tars that were fetched for them fetched again where they are gone.

    Where one cannot be had as it was listed, its samples have that for their problem. Raises as
    `pipeline.inputs.remote.bring_back`.
    """
    home = cache.absolute()
    wanted = {
        source.path: job.content.sha256
        for shards in columns.values()
        for jobs in shards.values()
        for job in jobs
        for source in _sources(job.content)
        if source.path.parent == home
    }
    failures = bring_back(content, cache, wanted)
    if not failures:
        return dict(columns)

    def check(job: Job) -> Job:
        lost = [failures[s.path] for s in _sources(job.content) if s.path in failures]
        if not lost or job.content.problem:
            return job
        problem = lost[0].kind, f"{job.content.name}: {lost[0]}"
        return replace(job, content=replace(job.content, problem=problem))

    return {
        column: {shard: [check(job) for job in jobs] for shard, jobs in shards.items()}
        for column, shards in columns.items()
    }


def _sources(one: Input) -> Iterator[Source]:
    yield from one.views
    yield from filter(None, (one.back, one.cameras, one.landmarks))


def _rows(columns: Mapping[str, Shards], home: Path) -> Iterator[dict[str, Any]]:
    for column, shards in columns.items():
        for shard, jobs in shards.items():
            for job in jobs:
                plain = {name: getattr(job, name) for name in _PLAIN}
                place = {"column": column, "shard": shard, "style": os.fsencode(job.style)}
                yield plain | place | {"content": _describe(job.content, home)}


def _describe(one: Input, home: Path) -> dict[str, Any]:
    def describe(source: Source | None) -> dict[str, Any] | None:
        if source is None:
            return None
        path = source.path
        if path.parent == home:
            path = Path(CACHE, path.name)
        return source._asdict() | {"path": os.fsencode(path)}

    return {name: getattr(one, name) for name in _DESCRIBED} | {
        "views": [describe(view) for view in one.views],
        "back": describe(one.back),
        "cameras": describe(one.cameras),
        "landmarks": describe(one.landmarks),
        "points": one.points and [number for point in one.points for number in point],
        "problem": one.problem,
        "column": one.column and os.fsencode(one.column),
    }


def _read_job(row: dict[str, Any], plan: Path) -> Job:
    plain = {name: row[name] for name in _PLAIN}
    content = _read_input(row["content"], plan.parent.absolute())
    return Job(content=content, style=_path(row["style"]), shard=row["shard"], **plain)


def _read_input(row: dict[str, Any], folder: Path) -> Input:
    def read(source: dict[str, Any] | None) -> Source | None:
        if source is None:
            return None
        path = _path(source["path"])
        return Source(**source | {"path": folder / path if path.parent == Path(CACHE) else path})

    return replace(
        Input(**{name: row[name] for name in _DESCRIBED}),
        views=tuple(filter(None, map(read, row["views"]))),
        back=read(row["back"]),
        cameras=read(row["cameras"]),
        landmarks=read(row.get("landmarks")),
        points=_read_points(row.get("points")),
        problem=row["problem"] and tuple(row["problem"]),
        column=row["column"] and _path(row["column"]),
    )


def _read_points(numbers: list[float] | None) -> Points | None:
    return tuple(zip(numbers[::2], numbers[1::2], strict=True)) if numbers else None


def _path(encoded: bytes) -> Path:
    return Path(os.fsdecode(encoded))
