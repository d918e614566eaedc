"""Stats: how many samples, bytes and seconds a column has, from its records alone."""

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.schemas import OK, SCHEMA_VERSION, VERSION_KEY
from pipeline.console import show_bytes
from pipeline.datasets.columns import list_shards
from pipeline.shards.ahead import look_ahead
from pipeline.shards.archive import end_archive
from pipeline.shards.records import read_file, read_records

_FIELDS = ["split", "status", "size", "members", "seconds"]


@dataclass(frozen=True)
class Ended:
    """The samples of one split that ended alike."""

    split: str
    status: str
    samples: int
    bytes: int
    members: int
    seconds: float  # spent on making them


@dataclass(frozen=True)
class Summary:
    """What a column holds; bytes are those of the tars."""

    column: str
    ends: list[Ended]
    shards: list[int]  # bytes of each tar, in the order of the shards
    views: int | None  # of a sample; none where no index says so

    @property
    def samples(self) -> int:
        return sum(end.samples for end in self.ends if end.status == OK)

    @property
    def rate(self) -> float | None:
        """Views a second of making, in one job; none where it is not known."""
        seconds = sum(end.seconds for end in self.ends)
        return self.samples * self.views / seconds if self.views and seconds else None


def summarize(column: Path) -> Summary:
    """Count a column. Raises ShardError for a record that cannot be read or is of another version.

    A record a shard is read, no tar; the number of views is that in the first index.
    """
    names = list_shards(column)
    paths = [column / f"{name}.parquet" for name in names]
    files = zip(paths, look_ahead(read_file, paths), strict=True)
    tables = [_parse(path, data) for path, data in files]
    bodies = [pc.sum(table["size"]).as_py() or 0 for table in tables]
    grouped = (
        pa.concat_tables(tables)
        .group_by(["split", "status"])
        .aggregate([("size", "sum"), ("members", "sum"), ("seconds", "sum"), ("split", "count")])
        .sort_by([("split", "ascending"), ("status", "ascending")])
    )
    ends = [
        Ended(
            split=row["split"],
            status=row["status"],
            samples=row["split_count"],
            bytes=row["size_sum"] or 0,
            members=row["members_sum"] or 0,
            seconds=row["seconds_sum"] or 0.0,
        )
        for row in grouped.to_pylist()
    ]
    sizes = [body + len(end_archive(body)) for body in bodies]
    return Summary(column.resolve().name, ends, sizes, _count_views(column, names))


def as_text(summaries: Sequence[Summary]) -> str:
    """The summaries as tables for a terminal."""
    return "\n\n".join(map(_describe, summaries))


def _parse(path: Path, data: bytes) -> pa.Table:
    """The fields of one record. One thread a file: thousands of small ones are the rule."""
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read(_FIELDS, use_threads=False)
    except (OSError, ValueError, pa.ArrowException):
        table = read_records(path, _FIELDS)[0]  # which says what is wrong
    version = (table.schema.metadata or {}).get(VERSION_KEY)
    if version != str(SCHEMA_VERSION).encode():
        table = read_records(path, _FIELDS)[0]
    return table.replace_schema_metadata()


def _count_views(column: Path, names: Sequence[str]) -> int | None:
    for name in names:
        path = column / f"{name}.idx"
        if path.is_file():
            with path.open() as file:
                file.readline()
                views = set(re.findall(r"\.(view_\d+)\.", file.readline()))
            if views:
                return len(views)
    return None


def _describe(summary: Summary) -> str:
    sizes = summary.shards
    spread = min(sizes), statistics.median(sizes), max(sizes)
    lines = [
        f"{summary.column}: {len(sizes)} shards, {show_bytes(sum(sizes))}; of a shard "
        + " / ".join(map(show_bytes, spread))
        + " (min / median / max)"
    ]
    rows = [["split", "status", "samples", "members", "bytes", "seconds", "s/sample"]]
    rows += [
        [
            end.split,
            end.status,
            str(end.samples),
            str(end.members),
            show_bytes(end.bytes),
            f"{end.seconds:.1f}",
            f"{end.seconds / end.samples:.3g}",
        ]
        for end in summary.ends
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            text.ljust(width) if at < 2 else text.rjust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    if summary.rate is not None:
        lines.append(f"  {summary.views} views a sample, {summary.rate:.3g} views a second and job")
    return "\n".join(lines)
