"""Indexes others read: the .idx of a shard (NVIDIA DALI) and the wids JSON of a column."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.shards.archive import Member
from pipeline.shards.codecs import encode_json
from pipeline.shards.files import write_whole
from pipeline.shards.records import list_records, read_commit

WIDS = "wids.json"


def index_sample(key: str, offset: int, members: Iterable[Member]) -> str:
    """A sample's line: "extension offset size name" per member, offsets of the data in the tar."""
    parts = [f"{m.suffix} {offset + m.start} {m.size} {key}.{m.suffix}" for m in members]
    return " ".join(parts) + "\n"


def encode_idx(lines: Sequence[str]) -> bytes:
    """The .idx file: format v1.2 of DALI's webdataset reader, its multi-dot extensions included."""
    return f"v1.2 {len(lines)}\n{''.join(lines)}".encode("ascii")


def write_wids(folder: str | Path) -> Path:
    """Writes the wids-shard-index-v1 JSON of a column's committed shards beside them.

    Raises ShardError if a Parquet is damaged or the disk refuses.
    """
    path = Path(folder) / WIDS
    write_whole(path, encode_wids(path.parent))
    return path


def encode_wids(folder: Path) -> bytes:
    """The wids index of what is committed in `folder`, shards in order. Raises as `write_wids`."""
    shards = [(path.stem, read_commit(path)) for path in list_records(folder)]
    shardlist = [
        {"url": f"{n}.tar", "md5sum": c.md5, "nsamples": c.samples, "filesize": c.bytes}
        for n, c in shards
    ]
    return encode_json(
        {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shardlist}
    )
