"""Writing a shard: tar, .idx and Parquet, which reach their final names together or not at all."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from manifests.schemas import OK
from pipeline.shards import ShardError
from pipeline.shards.archive import KEY, Member, end_archive, pack_header, pad
from pipeline.shards.files import Temporary, explain, remove_leftovers, sync_folder
from pipeline.shards.indexes import encode_idx, index_sample
from pipeline.shards.records import Commit, encode_records, read_commit


class ShardWriter:
    """Writes the shard `name` of the column `folder` sample by sample, in the order given.

        with ShardWriter(folder, "train-00005", provenance) as shard:
            shard.add("train-00000042", {"view_00.rgb.png": ..., "json": ...}, seed=42, ...)

    A clean exit commits: the tar, its index, and last the Parquet, which marks the shard as
    whole. An exception, or a kill at any point, leaves no marker. The same samples make the same
    tar and index bytes. Raises ShardError for samples that do not fit and for full or read-only
    disks.
    """

    def __init__(self, folder: str | Path, name: str, provenance: Mapping[str, Any]):
        if not KEY.fullmatch(name):
            raise ShardError(f"shard {name!r}: a name is letters, digits, '-' and '_': rename it")
        self._finals = _paths(folder, name)
        self._label = f"{Path(folder).name}/{name}"
        self._provenance = dict(provenance)
        self._rows: dict[str, dict[str, Any]] = {}
        self._lines: list[str] = []  # of the .idx
        self._suffixes: tuple[str, ...] = ()  # of the first sample, and so of every sample
        self._size = 0
        self._sha256, self._md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="hash")
        self._hashing: list[Future[None]] = []
        self._open: list[Temporary] = []

    def __enter__(self) -> Self:
        tar = self._finals[0]
        with explain(tar):
            tar.parent.mkdir(parents=True, exist_ok=True)
            for final in self._finals:
                remove_leftovers(final)
            self._open = [Temporary(tar)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is not None:
            self._discard()
        else:
            self._commit()

    def add(
        self, key: str, members: Mapping[str, bytes], *, seed: int, split: str, seconds: float
    ) -> None:
        """Appends a sample. `members` maps suffix ("view_00.rgb.png") to bytes, "json" last."""
        self._expect_new(key)
        suffixes = tuple(members)
        if not suffixes or suffixes[-1] != "json":
            raise ShardError(f"{self._label}: {key}: the last member must be json")
        if self._lines and suffixes != self._suffixes:
            raise ShardError(f"{self._label}: {key}: members differ from the first sample's")
        pieces: list[bytes] = []
        index: list[Member] = []
        size = 0
        for suffix, data in members.items():
            header = pack_header(key, suffix, len(data))
            index.append(Member(suffix, size + len(header), len(data)))
            pieces += (header, data, pad(len(data)))
            size += sum(map(len, pieces[-3:]))
        sample = b"".join(pieces)
        row = _row(key, seed, split, OK, "") | {
            "offset": self._size,
            "size": size,
            "sha256": hashlib.sha256(sample).hexdigest(),
            "members": len(members),
            "seconds": float(seconds),
        }
        line = index_sample(key, self._size, index)
        self._append(sample)
        self._suffixes = suffixes
        self._lines.append(line)
        self._rows[key] = row

    def fail(self, key: str, kind: str, message: str, *, seed: int, split: str) -> None:
        """Records a sample that could not be made: a row of status `kind`, nothing in the tar."""
        self._expect_new(key)
        if not kind or kind == OK:
            raise ShardError(f"{self._label}: {key}: {kind!r} is no kind of failure")
        line = " ".join(message.split()).encode("utf-8", "replace").decode()
        self._rows[key] = _row(key, seed, split, kind, line)

    def _expect_new(self, key: str) -> None:
        if not self._open:
            raise ShardError(f"{self._label}: not open, or given up after an error: start it again")
        if not KEY.fullmatch(key):
            raise ShardError(f"{self._label}: key {key!r}: only letters, digits, '-' and '_'")
        if key in self._rows:
            raise ShardError(f"{self._label}: {key}: given twice; keys must be unique")

    def _append(self, data: bytes) -> None:
        try:
            with explain(self._finals[0]):
                self._open[0].write(data)
        except BaseException:
            self._discard()
            raise
        self._finish_hashing()  # beside the write above, and the caller's work before it
        self._hashing = [self._pool.submit(h.update, data) for h in (self._sha256, self._md5)]
        self._size += len(data)

    def _finish_hashing(self) -> None:
        for future in self._hashing:
            future.result()

    def _commit(self) -> None:
        if not self._open:
            raise ShardError(f"{self._label}: given up after an error; nothing was written")
        self._append(end_archive(self._size))
        self._finish_hashing()
        tar, idx, parquet = self._finals
        commit = Commit(
            samples=len(self._lines),
            bytes=self._size,
            sha256=self._sha256.hexdigest(),
            md5=self._md5.hexdigest(),
            provenance=self._provenance,
            pyarrow=pa.__version__,
        )
        publishing = False
        try:
            contents = {
                idx: encode_idx(self._lines),
                parquet: encode_records(list(self._rows.values()), commit),
            }
            with explain(tar):
                for final, data in contents.items():
                    self._open.append(Temporary(final))
                    self._open[-1].write(data)
                for temporary in self._open:
                    temporary.sync()
                publishing = True
                parquet.unlink(missing_ok=True)  # an older marker must not vouch for the new tar
                sync_folder(tar.parent)
                for temporary in self._open[:2]:
                    temporary.publish()
                sync_folder(tar.parent)
                self._open[2].publish()
                sync_folder(tar.parent)
        except BaseException:
            self._discard()
            if publishing:
                with explain(tar):
                    for final in (parquet, tar, idx):
                        final.unlink(missing_ok=True)
            raise
        self._open = []
        self._pool.shutdown()

    def _discard(self) -> None:
        self._pool.shutdown()
        for temporary in self._open:
            temporary.discard()
        self._open = []


def is_committed(folder: str | Path, name: str) -> bool:
    """Whether the shard's Parquet is there and readable, and its tar and index beside it."""
    tar, idx, parquet = _paths(folder, name)
    try:
        commit = read_commit(parquet)
        return tar.stat().st_size == commit.bytes and idx.is_file()
    except (ShardError, OSError):
        return False


def _paths(folder: str | Path, name: str) -> tuple[Path, Path, Path]:
    tar = Path(folder) / f"{name}.tar"
    return tar, tar.with_suffix(".idx"), tar.with_suffix(".parquet")


def _row(key: str, seed: int, split: str, status: str, message: str) -> dict[str, Any]:
    if not 0 <= seed < 2**32:
        raise ShardError(f"{key}: seed {seed} is not in [0, 2^32)")
    row = {"key": key, "split": split, "seed": int(seed), "status": status, "message": message}
    return row | dict.fromkeys(("offset", "size", "sha256", "members", "seconds"))
