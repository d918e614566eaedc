"""Retry: shards with failed samples, set aside so that these alone are made again.

A shard is never changed. One that is to be made again moves, whole, into COLUMN/.retry; the stage
that writes it anew copies from there what was ok, computes the rest, and removes it once the new
shard is committed. Whatever is killed when, a shard is whole in one of the two places.
"""

import fcntl
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manifests.schemas import OK
from pipeline.counts import Count
from pipeline.errors import PipelineError
from pipeline.shards import ShardError
from pipeline.shards.codecs import encode_json
from pipeline.shards.files import explain, sync_folder
from pipeline.shards.indexes import WIDS
from pipeline.shards.reader import Column
from pipeline.shards.records import check_records, list_records, read_outcomes, read_records

ASIDE = ".retry"  # in a column's folder
LOCK = ".lock"  # in a run's folder; the Snakefile holds it while it makes the run
COMPUTED = {  # what a record says of how a shard was computed; all else decides its content
    "program", "python", "torch", "device", "device_name", "threads", "ops", "compiled", "kept",
}  # fmt: skip


@dataclass
class Failed:
    """The shards of a column in which samples failed, and how the samples of these ended."""

    shards: list[str] = field(default_factory=list)
    count: Count = field(default_factory=Count)


def find_failed(column: Path, kinds: Collection[str] = ()) -> Failed:
    """The committed shards with a failed sample, of one of these kinds if any is named.

    Raises PipelineError where a Parquet is damaged.
    """
    found, paths = Failed(), list_records(column)
    try:
        for path, outcome in zip(paths, read_outcomes(paths), strict=True):
            failures = outcome.statuses.keys() - {OK}
            if failures & set(kinds) if kinds else failures:
                found.count.add(path, outcome)
                found.shards.append(path.stem)
    except ShardError as error:
        raise PipelineError(
            f"{error}; remove this file, then its stage makes the shard again"
        ) from error
    return found


def find_set_aside(column: Path) -> list[str]:
    """The shards that were set aside and not made again yet."""
    names = [path.stem for path in list_records(column / ASIDE)]
    return [name for name in names if not (column / f"{name}.parquet").exists()]


def set_aside(column: Path, shards: Sequence[str]) -> None:
    """Move committed shards into COLUMN/.retry, and finish what an earlier call left undone.

    First the tar gets a second name there, then the Parquet moves, and last the old name goes. A
    file system without hard links has the tar move after its Parquet. Raises ShardError where the
    disk refuses.
    """
    aside = column / ASIDE
    with explain(aside):
        if shards:
            (column / WIDS).unlink(missing_ok=True)  # it names them; verify writes it again
            aside.mkdir(exist_ok=True)
        for name in shards:
            (aside / f"{name}.tar").unlink(missing_ok=True)
            with suppress(OSError):  # no hard links here, or the tar is lost
                os.link(column / f"{name}.tar", aside / f"{name}.tar")
        for name in shards:
            os.replace(column / f"{name}.parquet", aside / f"{name}.parquet")
        if shards:
            sync_folder(aside)
            sync_folder(column)
        for name in find_set_aside(column):
            _finish(column, name)
        for name in {path.stem for path in aside.glob("*")}:
            if (column / f"{name}.parquet").exists():  # made again, by a stage that was killed then
                drop_set_aside(column, name)


def drop_set_aside(column: Path, shard: str) -> None:
    """Remove what was set aside of a shard, if anything was."""
    aside = column / ASIDE
    with explain(aside):
        (aside / f"{shard}.parquet").unlink(missing_ok=True)
        (aside / f"{shard}.tar").unlink(missing_ok=True)
    with suppress(OSError):  # not there, or others are in it
        aside.rmdir()


@contextmanager
def hold_run(folder: Path) -> Iterator[None]:
    """Keep Snakemake from making the run in `folder` meanwhile.

    Raises PipelineError where one is making it. File systems without locks keep nobody.
    """
    file = os.open(folder / LOCK, os.O_CREAT | os.O_WRONLY, 0o666)
    try:
        if _lock(file) is False:
            raise PipelineError(
                f"{folder}: a snakemake is making this run; wait for it, or stop it"
            )
        yield
    finally:
        os.close(file)


@dataclass
class Kept:
    """The samples of a shard that was set aside which are ok, and so need not be made again."""

    samples: Column
    seconds: Mapping[str, float]  # spent on each, by key
    provenance: Mapping[str, Any]  # of what made them

    def read(self, key: str) -> dict[str, bytes]:
        """Members by suffix, in their order. Raises PipelineError where they are damaged by now."""
        try:
            return self.samples.read(key, decoded=False, check=True)
        except ShardError as error:
            raise PipelineError(
                f"{self.samples.folder}: {error}; run the stage again, it makes this sample anew"
            ) from error


NOTHING = Kept(Column(ASIDE, ()), {}, {})


def open_kept(column: Path, shard: str, provenance: Mapping[str, Any]) -> Kept:
    """What can be kept of a shard that was set aside, every sample's hash checked.

    `provenance` is that of the shard to come: what was made of anything else is not kept. What
    cannot be kept is told on stderr.
    """
    record = column / ASIDE / f"{shard}.parquet"
    if not record.is_file():
        return NOTHING
    where = f"{column.name}/{shard}, set aside"
    try:
        with explain(record.parent):
            _finish(column, shard)
        if what := check_records(record):
            raise ShardError(f"{record}: {what}")
        table, commit = read_records(record, ["key", "status", "seconds"])
    except ShardError as error:
        _tell(where, f"{error}; all its samples are made again")
        return NOTHING
    if _decisive(commit.provenance) != _decisive(provenance):
        _tell(where, "was made of something else than now; all its samples are made again")
        return NOTHING
    samples = Column(record.parent, [shard])
    seconds: dict[str, float] = {}
    damaged: list[str] = []
    for row in table.to_pylist():
        if row["status"] == OK:
            try:
                samples.read(row["key"], decoded=False, check=True)
                seconds[row["key"]] = row["seconds"]
            except ShardError as error:
                damaged.append(str(error))
    if damaged:
        number = f"{len(damaged)} of {commit.samples} samples"
        _tell(where, f"{number} damaged and made again, the first: {damaged[0]}")
    made_by, earlier = commit.provenance, commit.provenance.get("kept")
    if earlier and earlier["samples"] == commit.samples:
        made_by = earlier["provenance"]  # what came between made none of them
    return Kept(samples, seconds, made_by)


def _finish(column: Path, name: str) -> None:
    """The last steps for a shard whose Parquet was set aside; they may be repeated."""
    tar, aside = column / f"{name}.tar", column / ASIDE / f"{name}.tar"
    with suppress(FileNotFoundError):
        if not aside.exists() or os.path.samefile(tar, aside):  # else it is a new one, unfinished
            tar.with_suffix(".idx").unlink(missing_ok=True)
            os.replace(tar, aside)  # which does nothing where both are one file
            tar.unlink(missing_ok=True)


def _decisive(provenance: Mapping[str, Any]) -> bytes:
    """What decided the samples' content, to be compared."""
    return encode_json({k: v for k, v in provenance.items() if k not in COMPUTED})


def _lock(file: int) -> bool | None:
    """Lock an open file, unless another process has; None on a file system without locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _tell(where: str, what: str) -> None:
    print(f"diffstyle360: {where}: {what}", file=sys.stderr)
