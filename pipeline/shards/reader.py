"""Reading columns: any sample by its key with one range read; numpy only, no torch."""

import hashlib
import os
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.schemas import OK
from pipeline.shards import ShardError
from pipeline.shards.archive import read_range, split_sample
from pipeline.shards.codecs import decode
from pipeline.shards.records import list_records, read_records

_COLUMNS = ["key", "status", "offset", "size", "sha256"]


class Column:
    """The committed samples of a column folder, or of some of its shards, by key.

    The Parquets are read when first needed; a tar is opened for each read and closed again, so a
    column may be shared by threads, forked and pickled.
    """

    def __init__(self, folder: str | Path, shards: Collection[str] | None = None):
        self.folder = Path(folder)
        self._shards = shards

    @cached_property
    def _samples(self) -> pa.Table:
        if self._shards is None:
            paths = list_records(self.folder)
        else:
            paths = [self.folder / f"{shard}.parquet" for shard in self._shards]
        tables = []
        for path in paths:
            table, _ = read_records(path, _COLUMNS)
            table = table.filter(pc.equal(table["status"], OK)).replace_schema_metadata()
            tables.append(
                table.append_column("shard", pa.array([path.stem] * len(table), pa.string()))
            )
        if not tables:
            raise ShardError(f"{self.folder}: no committed shard here; run the stage that makes it")
        return pa.concat_tables(tables).combine_chunks()

    @cached_property
    def keys(self) -> list[str]:
        """Keys of the samples, in the order of shards and of rows in them."""
        return self._samples["key"].to_pylist()

    @cached_property
    def _row(self) -> dict[str, int]:
        row = {key: i for i, key in enumerate(self.keys)}
        if len(row) < len(self.keys):
            raise ShardError(f"{self.folder}: keys appear twice; run verify on this column")
        return row

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: object) -> bool:
        return key in self._row

    def read(
        self,
        key: str,
        members: Collection[str] | None = None,
        *,
        decoded: bool = True,
        check: bool = False,
    ) -> dict[str, Any]:
        """Members of a sample by suffix ("view_00.rgb.png"), decoded or as bytes, in tar order.

        `members` names those wanted, with or without the file extension ("view_00.rgb"); default
        all. `check` compares the sha256 of the sample first. Raises ShardError naming shard, key
        and member if the key or a member is not there or the bytes are damaged.
        """
        data, where = self._read_range(key, check)
        try:
            found = {m.suffix: data[m.start : m.start + m.size] for m in split_sample(data, key)}
            if members is not None:
                found = _select(found, members)
            return {s: decode(f"{key}.{s}", d) if decoded else d for s, d in found.items()}
        except KeyError as error:
            raise ShardError(f"{where}: {key}.{error.args[0]}: no such member") from error
        except ShardError as error:
            raise ShardError(f"{where}: {error}; run verify on this column") from error

    def _read_range(self, key: str, check: bool) -> tuple[bytes, str]:
        if key not in self._row:
            raise ShardError(f"{self.folder}: no sample {key}; it failed or was not planned")
        row = self._samples.slice(self._row[key], 1).to_pylist()[0]
        where = f"{self.folder.name}/{row['shard']}.tar"
        try:
            file = os.open(self.folder / f"{row['shard']}.tar", os.O_RDONLY)
            try:
                data = read_range(file, row["offset"], row["size"])
            finally:
                os.close(file)
        except OSError as error:
            raise ShardError(f"{where}: {key}: cannot read: {error.strerror}") from error
        if len(data) < row["size"]:
            raise ShardError(f"{where}: {key}: cut off; make the shard again")
        if check and hashlib.sha256(data).hexdigest() != row["sha256"]:
            raise ShardError(f"{where}: {key}: sha256 differs; make the shard again")
        return data, where


def read_clip(
    column: Column, key: str, views: Sequence[int], kind: str = "rgb", *, check: bool = False
) -> np.ndarray:
    """Views of one identity stacked in the order asked: rgb -> uint8 [V, H, W, 3].

    `kind` "depth" gives uint16 levels or float32 distances [V, h, w] as stored, "mask" uint8
    [V, h, w]. Raises ShardError as `Column.read`.
    """
    names = [f"view_{view:02d}.{kind}" for view in views]
    images = column.read(key, names, check=check)
    by_stem = {_stem(suffix): image for suffix, image in images.items()}
    return np.stack([by_stem[name] for name in names])


def zip_columns(columns: Sequence[Column]) -> list[str]:
    """Keys present in every column, in the order of the first."""
    first, *others = columns
    return [key for key in first.keys if all(key in column for column in others)]


def epoch_order(
    keys: Iterable[str], seed: int, epoch: int, rank: int = 0, world: int = 1
) -> list[str]:
    """The keys one of `world` ranks visits in an epoch, shuffled.

    The order is that of hash(seed, epoch, key): it depends on neither the shards nor the order of
    `keys`. Ranks get equal numbers, the first keys filling up the last round; an interrupted epoch
    resumes by skipping as many as were done. Raises ShardError if there are no keys.
    """
    salt = f"{seed}/{epoch}/"
    order = sorted(keys, key=lambda key: (hashlib.blake2b((salt + key).encode()).digest(), key))
    if not order:
        raise ShardError("no samples to order; are the columns of the same run?")
    rounds = -(-len(order) // world)
    return [order[i % len(order)] for i in range(rank, rounds * world, world)]


def _select(found: dict[str, bytes], members: Collection[str]) -> dict[str, bytes]:
    wanted = set(members)
    chosen = {s: d for s, d in found.items() if s in wanted or _stem(s) in wanted}
    missing = wanted - chosen.keys() - set(map(_stem, chosen))
    if missing:
        raise KeyError(min(missing))
    return chosen


def _stem(suffix: str) -> str:
    return suffix.rpartition(".")[0]
