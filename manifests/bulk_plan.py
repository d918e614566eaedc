"""The plan of a bulk stylization: the Parquet schema of its samples, and how it is read.

Files carry `SCHEMA_VERSION` as those of `manifests.schemas` do.
"""

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.loading import ManifestError
from manifests.schemas import SCHEMA_VERSION, VERSION_KEY

CLAIM_KEY = b"diffstyle360.claim"  # sha256 of the manifest's digest and of what was listed

_SOURCE = pa.struct(
    [
        pa.field("path", pa.binary(), nullable=False),  # names of files need not be text
        pa.field("name", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),  # as listed; -1 where that is not known
        pa.field("offset", pa.int64()),  # in a tar; null: a file of its own
    ]
)

_CONTENT = pa.struct(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("views", pa.list_(_SOURCE), nullable=False),
        pa.field("back", _SOURCE),
        pa.field("cameras", _SOURCE),
        pa.field("problem", pa.list_(pa.string())),  # kind and message; null: none is known
        pa.field("column", pa.binary()),  # its folder, of a sample of a column; so the rest
        pa.field("count", pa.int32(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("seed", pa.uint32()),
        pa.field("sha256", pa.string(), nullable=False),
    ]
)

BULK_PLAN = pa.schema(
    [
        pa.field("column", pa.string(), nullable=False),  # "stylized-ink"
        pa.field("shard", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("style", pa.binary(), nullable=False),  # the path of its image
        pa.field("presence", pa.float64(), nullable=False),
        pa.field("temperature", pa.float64(), nullable=False),
        pa.field("hint", pa.string(), nullable=False),
        pa.field("views", pa.int32(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.string()),  # the row's name in a table
        pa.field("content", _CONTENT, nullable=False),
    ]
)

# Of a run that aligns portraits, where landmarks were listed; any other plan is as above.
_LANDMARKS = [
    pa.field("landmarks", _SOURCE),  # JSON of a portrait's landmarks
    pa.field("points", pa.list_(pa.float64())),  # x, y of five, where a table gives them
]
ALIGNED_BULK_PLAN = BULK_PLAN.set(
    BULK_PLAN.get_field_index("content"),
    pa.field("content", pa.struct([*_CONTENT, *_LANDMARKS]), nullable=False),
)


def read_plan(
    path: Path, columns: list[str], chosen: pc.Expression | None = None
) -> tuple[pa.Table, str]:
    """Columns of a plan, of the rows that are `chosen`, in order; and its claim.

    Raises ManifestError where there is none, or none that can be read.
    """
    if not path.is_file():
        raise ManifestError(f"{path}: no plan yet; run `diffstyle360 plan` first")
    try:
        metadata = pq.read_metadata(path).metadata or {}
        version = metadata.get(VERSION_KEY, b"none").decode("ascii", "replace")
        known = version == str(SCHEMA_VERSION) and CLAIM_KEY in metadata
        table = pq.read_table(path, columns=columns, filters=chosen) if known else None
    except (pa.ArrowException, OSError, ValueError):
        raise ManifestError(f"{path}: not readable as Parquet; remove it and plan again") from None
    if table is None:
        raise ManifestError(
            f"{path}: schema version {version}, this program reads version {SCHEMA_VERSION} of a "
            "bulk plan; remove it and plan again"
        )
    return table, metadata[CLAIM_KEY].decode("ascii", "replace")


class Outline(NamedTuple):
    """How much a plan asks for in a column."""

    samples: dict[str, int]  # of every shard, in order
    views: int  # of a sample


def read_outline(path: Path) -> dict[str, Outline]:
    """What a plan asks for in every column; a million samples in well under a second.

    Raises as `read_plan`.
    """
    table, _ = read_plan(path, ["column", "shard", "views"])
    shards = table.group_by(["column", "shard"], use_threads=False)
    asked: dict[str, Outline] = {}
    for row in shards.aggregate([("views", "max"), ("views", "count")]).to_pylist():
        samples, views = asked.get(row["column"], ({}, 0))
        samples[row["shard"]] = row["views_count"]
        asked[row["column"]] = Outline(samples, max(views, row["views_max"]))
    return asked


def read_shards(path: Path) -> dict[str, list[str]]:
    """The shards of every column that a plan has, in order. Raises as `read_plan`."""
    return {column: list(asked.samples) for column, asked in read_outline(path).items()}


def list_shards(path: str | Path) -> list[str]:
    """All shards that a plan has, as ``COLUMN/SHARD``. Raises as `read_plan`."""
    return [
        f"{column}/{name}" for column, names in read_shards(Path(path)).items() for name in names
    ]
