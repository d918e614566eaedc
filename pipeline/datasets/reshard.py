"""Reshard: columns of one run in shards of another size, or in other splits, that still zip."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from pipeline.console import progress
from pipeline.datasets.columns import align, list_shards, read_rows
from pipeline.datasets.places import check_space
from pipeline.datasets.rewriting import Moved, combine_provenance, rewrite_shard
from pipeline.errors import PipelineError
from pipeline.requests import claim_folder
from pipeline.shards.archive import end_archive
from pipeline.shards.indexes import write_wids
from pipeline.shards.reader import Column
from pipeline.shards.records import order_shard, read_commit
from pipeline.shards.writer import is_committed

REQUEST = "reshard.yaml"
_TOLERANCE = 1e-6  # of the sum of shares


@dataclass(frozen=True)
class Cut:
    """How samples are spread over shards: by number, by size, or both; and over splits.

    Without either, a shard holds as many identities as the largest does now. Without shares the
    splits stay.
    """

    identities: int | None = None
    size: int | None = None  # bytes of the largest tar
    shares: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Source:
    """A column that is cut: its rows as a table, and where each key's is."""

    column: Path
    rows: pa.Table
    index: dict[str, int]
    sizes: np.ndarray  # int64 [rows] in the tar, 0 for a failed sample


def reshard(columns: Sequence[Path], out: Path, cut: Cut) -> dict[str, list[str]]:
    """Write OUT/COLUMN for every column, all cut at the same identities; the shards of each split.

    A sample's members are the same bytes, but that the JSON says the new split where splits are
    drawn anew. An identity's split follows from its key alone. No tar is larger than `cut.size`,
    but one with a single sample. Finished shards are left as they are. Raises PipelineError for
    columns that do not zip, for a folder that holds something else, and for full disks.
    """
    sources = _open(columns, out)
    if cut.identities is None and cut.size is None:
        largest = max(max(s.rows["shard"].value_counts().field("counts").to_pylist())
                      for s in sources)  # fmt: skip
        cut = Cut(largest, None, cut.shares)
    keys = align({source.column.name: source.rows for source in sources}, ["key"])
    splits = _split({split: part["key"].to_pylist() for split, part in keys.items()}, cut.shares)
    plan = {
        f"{split}-{number:05d}": (split, shard)
        for split, members in splits.items()
        for number, shard in enumerate(_cut(members, sources, cut))
    }
    claim_folder(out / REQUEST, _describe(sources, cut), "resharding")
    todo = [
        (source, name)
        for source in sources
        for name, (_, shard) in plan.items()
        if any(key in source.index for key in shard)
        and not is_committed(out / source.column.name, name)
    ]
    check_space(out, sum(_bytes(source, plan[name][1]) for source, name in todo))
    for source, name in progress(todo, f"reshard into {out}", len(todo)):
        _write(source, out / source.column.name, name, *plan[name])
    for source in sources:
        write_wids(out / source.column.name)
    return {split: [n for n, (of, _) in plan.items() if of == split] for split in splits}


def draw_split(key: str, shares: Sequence[tuple[str, float]]) -> str:
    """The split of an identity: where the hash of its key falls among the shares, in their order.

    It depends on no other key, nor on shards or their order.
    """
    point = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    ends = np.cumsum([share for _, share in shares])
    at = int(np.searchsorted(ends / ends[-1], point, side="right"))
    return shares[min(at, len(shares) - 1)][0]


def check_shares(shares: Sequence[tuple[str, float]]) -> None:
    """Raise PipelineError unless shares are above 0, add up to 1 and name every split once."""
    names = [name for name, _ in shares]
    if len(set(names)) < len(names):
        raise PipelineError(f"{', '.join(names)}: a split is given twice")
    if bad := [name for name, share in shares if not share > 0]:
        raise PipelineError(f"{bad[0]}: its share must be above 0")
    if not math.isclose(total := sum(share for _, share in shares), 1, abs_tol=_TOLERANCE):
        raise PipelineError(f"the shares add up to {total:g}, not to 1")


def _open(columns: Sequence[Path], out: Path) -> list[Source]:
    names = [column.resolve().name for column in columns]
    if len(set(names)) < len(names):
        raise PipelineError(f"{', '.join(names)}: two columns have one name; give each once")
    sources = []
    for column in columns:
        folder = column.resolve()
        if folder.parent == out.resolve():
            raise PipelineError(f"{out}: holds {column} itself; choose another folder")
        rows = read_rows(folder, list_shards(folder))
        index = {key: at for at, key in enumerate(rows["key"].to_pylist())}
        if len(index) < len(rows):
            raise PipelineError(f"{column}: keys appear twice; run verify on this column")
        sizes = rows["size"].fill_null(0).to_numpy()
        sources.append(Source(folder, rows, index, sizes))
    return sources


def _split(
    splits: Mapping[str, list[str]], shares: Sequence[tuple[str, float]]
) -> dict[str, list[str]]:
    if not shares:
        return dict(splits)
    check_shares(shares)
    drawn: dict[str, list[str]] = {name: [] for name, _ in shares}
    for keys in splits.values():
        for key in keys:
            drawn[draw_split(key, shares)].append(key)
    return drawn


def _cut(keys: Sequence[str], sources: Sequence[Source], cut: Cut) -> Iterator[list[str]]:
    """The keys of one shard after another: as many as the limits let in, at least one."""
    shard: list[str] = []
    bodies = np.zeros(len(sources), np.int64)  # of the tars so far
    for key in keys:
        added = [source.sizes[source.index[key]] if key in source.index else 0
                 for source in sources]  # fmt: skip
        full = len(shard) == cut.identities
        if cut.size is not None and max(map(_tar_bytes, bodies + added)) > cut.size:
            full = True
        if full and shard:
            yield shard
            shard, bodies = [], np.zeros_like(bodies)
        shard.append(key)
        bodies += added
    if shard:
        yield shard


def _tar_bytes(body: int) -> int:
    return int(body) + len(end_archive(int(body)))


def _bytes(source: Source, shard: Sequence[str]) -> int:
    return _tar_bytes(sum(source.sizes[source.index[k]] for k in shard if k in source.index))


def _write(source: Source, target: Path, name: str, split: str, shard: Sequence[str]) -> None:
    at = [source.index[key] for key in shard if key in source.index]
    rows = source.rows.take(at).to_pylist()
    origins = sorted({row["shard"] for row in rows}, key=order_shard)
    made = [read_commit(source.column / f"{origin}.parquet").provenance for origin in origins]
    samples = (Moved(row, row["key"], split) for row in rows)
    rewrite_shard(Column(source.column, origins), target, name, samples, combine_provenance(made))


def _describe(sources: Sequence[Source], cut: Cut) -> str:
    """The request: what is cut, known by the hashes of its tars, and how."""
    columns = {}
    for source in sources:
        digest = hashlib.sha256()
        for shard in dict.fromkeys(source.rows["shard"].to_pylist()):
            digest.update(read_commit(source.column / f"{shard}.parquet").sha256.encode())
        columns[source.column.name] = digest.hexdigest()
    said: dict[str, Any] = {"columns": columns, "identities": cut.identities, "size": cut.size}
    return yaml.safe_dump(said | {"split": [f"{n}={s}" for n, s in cut.shares]}, sort_keys=False)
