"""The Parquet file of a shard: one row per sample, and in its metadata what the tar must be."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.ranges import shard_order
from manifests.schemas import OK, RECORD, SCHEMA_VERSION, VERSION_KEY
from pipeline.shards import ShardError
from pipeline.shards.ahead import look_ahead
from pipeline.shards.codecs import encode_json

_OF = re.compile(r"-of-\d{5,}$", re.ASCII)
_COMMIT_KEY = b"diffstyle360.commit"
_SHA256_KEY = b"diffstyle360.sha256"  # of the rows and of the two keys above


class Commit(NamedTuple):
    """What a shard's Parquet says of its tar."""

    samples: int  # in the tar; rows less failures
    bytes: int
    sha256: str
    md5: str  # wids asks for it
    provenance: dict[str, Any]  # what made the shard: generator, device, versions, settings
    pyarrow: str  # version that wrote the Parquet


class Outcome(NamedTuple):
    """How the samples of a shard ended: in = ok + failed."""

    statuses: Counter[str]
    seconds: float  # spent on the samples, failed ones not counted; 0 where it was not asked for
    size: int  # bytes of the Parquet
    commit: Commit


def encode_records(rows: Sequence[Mapping[str, Any]], commit: Commit) -> bytes:
    """The Parquet file of `rows` (see `manifests.schemas.RECORD`), same bytes for the same input.

    Raises ShardError for a row that does not fit the schema.
    """
    metadata = {
        VERSION_KEY: str(SCHEMA_VERSION).encode(),
        _COMMIT_KEY: encode_json(commit._asdict()),
    }
    metadata[_SHA256_KEY] = _digest(rows, metadata)
    try:
        table = pa.Table.from_pylist(list(rows), schema=RECORD.with_metadata(metadata))
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="none", write_statistics=False)
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise ShardError(f"a record does not fit the schema: {_one_line(error)}") from error
    return sink.getvalue().to_pybytes()


def list_records(folder: Path) -> list[Path]:
    """The Parquets of a column's committed shards, in order: train-99999, then train-100000.

    A shard that is not named like a run's comes where its name does.
    """
    return sorted(folder.glob("*.parquet"), key=lambda path: order_shard(path.stem))


def order_shard(name: str) -> tuple[str, int]:
    """As `manifests.ranges.shard_order`, but any name has a place, a published one that of its own
    (``train-00003-of-00008``)."""
    try:
        return shard_order(_OF.sub("", name))
    except ValueError:
        return name, -1


def read_commit(path: Path) -> Commit:
    """The commit record alone. Raises ShardError if the file is not a whole Parquet of ours."""
    return _parse_commit(_guard(path, lambda: pq.read_metadata(path)).metadata, path)


def read_records(path: Path, columns: list[str] | None = None) -> tuple[pa.Table, Commit]:
    """Rows and commit record. Raises ShardError if the file is not a whole Parquet of ours."""
    table = _guard(path, lambda: pq.ParquetFile(path).read(columns))
    _guard(path, lambda: table.validate(full=True))
    return table, _parse_commit(table.schema.metadata, path)


def read_outcome(path: Path, timed: bool = False) -> Outcome:
    """How a shard ended, read several times faster than its rows are.

    The rows of a shard without failures are not looked at, unless `timed` asks for their seconds.
    Raises ShardError if the file is not a whole Parquet of ours.
    """
    return parse_outcome(path, read_file(path), timed)


def read_outcomes(paths: Sequence[Path], timed: bool = False) -> Iterator[Outcome]:
    """`read_outcome` of many shards, in order."""
    for path, data in zip(paths, look_ahead(read_file, paths), strict=True):
        yield parse_outcome(path, data, timed)


def read_file(path: Path) -> bytes:
    """The bytes of a Parquet. Raises ShardError where they cannot be read."""
    return _guard(path, path.read_bytes)


def parse_outcome(path: Path, data: bytes, timed: bool = False) -> Outcome:
    """`read_outcome` of a Parquet whose bytes are here."""
    file = _guard(path, lambda: pq.ParquetFile(pa.BufferReader(data)))
    footer = file.metadata
    rows, commit = footer.num_rows, _parse_commit(footer.metadata, path)
    columns = ["status"] * (rows != commit.samples) + ["seconds"] * timed
    values: dict[str, list] = {}
    if columns:
        table = _guard(path, lambda: file.read(columns, use_threads=False))
        _guard(path, lambda: table.validate(full=True))
        values = table.to_pydict()
    statuses = Counter(values["status"]) if "status" in columns else Counter({OK: rows})
    seconds = sum(filter(None, values["seconds"])) if timed else 0.0
    return Outcome(statuses, seconds, len(data), commit)


def check_records(path: Path) -> str | None:
    """What is wrong inside a Parquet that can be read: a changed row, a changed byte, or None."""
    table, commit = read_records(path)
    metadata = table.schema.metadata
    if not table.schema.equals(RECORD):
        return "columns differ from the schema of version " + metadata[VERSION_KEY].decode()
    rows = table.to_pylist()
    if metadata.get(_SHA256_KEY) != _digest(rows, metadata):
        return "rows or commit record were changed after the commit (sha256 differs)"
    if commit.pyarrow == pa.__version__ and encode_records(rows, commit) != path.read_bytes():
        return "a byte was changed after the commit"
    return None


def _digest(rows: Sequence[Mapping[str, Any]], metadata: Mapping[bytes, bytes]) -> bytes:
    digest = hashlib.sha256(json.dumps(list(rows), sort_keys=True, default=str).encode())
    for key in (VERSION_KEY, _COMMIT_KEY):
        digest.update(metadata[key])
    return digest.hexdigest().encode()


def _guard(path: Path, read: Any) -> Any:
    try:
        return read()
    except FileNotFoundError as error:
        raise ShardError(f"{path}: missing; make the shard again") from error
    except (OSError, ValueError, pa.ArrowException, MemoryError) as error:
        raise ShardError(f"{path}: not readable as Parquet: {_one_line(error)}") from error


def _parse_commit(metadata: Mapping[bytes, bytes] | None, path: Path) -> Commit:
    metadata = metadata or {}
    version = metadata.get(VERSION_KEY, b"").decode("ascii", "replace")
    if version != str(SCHEMA_VERSION):
        raise ShardError(
            f"{path}: schema version {version or 'missing'}, this program reads {SCHEMA_VERSION}: "
            "use the program that wrote it, or make the shard again"
        )
    try:
        return Commit(**json.loads(metadata[_COMMIT_KEY]))
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{path}: no commit record; make the shard again") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
