"""How a column stands: which of its shards are there or being written, and how fast they come."""

import fcntl
import heapq
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pipeline.counts import Count
from pipeline.shards import ShardError
from pipeline.shards.ahead import look_ahead
from pipeline.shards.records import parse_outcome, read_file
from pipeline.stages.retry import find_set_aside

PAST = 600.0  # seconds at least of what a rate is taken over, and after which work has stopped
TURNS = 4  # shards that a job makes one after another in that time, at least
TIMED = 64  # newest shards of a column, of which is read how long they took
STALE = 3600.0  # seconds without a byte after which a writer counts as dead, lock or not


@dataclass(frozen=True)
class Writing:
    """A tar that a job is writing, or was writing when it died."""

    shard: str
    host: str
    bytes: int
    quiet: float  # seconds since the last byte
    alive: bool


@dataclass
class ColumnStatus:
    """A column: what was asked for, what is there, and how fast it comes."""

    name: str
    shards_asked: int
    samples_asked: int
    views: int  # of a sample
    shards: int = 0  # committed and whole as far as names and sizes tell
    count: Count = field(default_factory=Count)
    bytes: int = 0  # of these shards, indexes and records included
    newest: float = 0.0  # when the last one was committed, seconds since 1970
    writing: list[Writing] = field(default_factory=list)
    set_aside: int = 0  # shards that wait for being made again
    damaged: list[str] = field(default_factory=list)  # a line a shard
    samples_per_second: float | None = None  # of all jobs together, failed ones counted
    seconds_left: float | None = None  # none: not known, or nobody is at it
    bytes_to_come: int | None = None  # none: not known

    @property
    def missing(self) -> int:
        """Samples that are neither ok nor failed yet."""
        return self.samples_asked - self.count.total


class Stretch(NamedTuple):
    """When a job made a shard."""

    end: float  # seconds, on any clock
    seconds: float  # that it took
    samples: float


def measure_rate(made: Sequence[Stretch], under_way: float, now: float | None) -> float | None:
    """Samples per second of all jobs together over the recent past, None where nothing was made.

    A shard's samples are spread over the time that they took, so that one shard gives a rate and
    many that end together do not give an infinite one. `under_way` are samples of shards that are
    not finished; with `now` None nobody works any more, and the past ends with the last shard.
    """
    if not made:
        return None
    last = max(stretch.end for stretch in made)
    end = last if now is None else max(now, last)
    past = max(PAST, TURNS * max(stretch.seconds for stretch in made))
    start = max(end - past, min(stretch.end - stretch.seconds for stretch in made))
    samples = under_way
    for stretch in made:
        inside = stretch.end - max(start, stretch.end - stretch.seconds)
        if stretch.end > start:
            samples += stretch.samples * (inside / stretch.seconds if stretch.seconds else 1.0)
    return samples / (end - start) if end > start and samples else None


def look_at_column(
    column: Path, status: ColumnStatus, names: Sequence[str], now: float
) -> ColumnStatus:
    """The status with what is there of the shards with these names."""
    try:
        files = set(os.listdir(column))
    except FileNotFoundError:
        return status
    status.writing = _find_writing(column, files, now)
    status.set_aside = len(find_set_aside(column))
    paths = [column / f"{name}.parquet" for name in names if f"{name}.parquet" in files]
    dates = zip(paths, look_ahead(_date, paths), strict=True)
    dated = {path: date for path, date in dates if date is not None}
    newest = set(heapq.nlargest(TIMED, dated, key=dated.__getitem__))
    made: dict[Path, float] = {}  # samples, those not counted that were kept from an earlier shard
    timed: dict[Path, float] = {}
    for path, opened in zip(dated, look_ahead(_open, [*dated]), strict=True):
        try:
            if isinstance(opened, ShardError):
                raise opened
            outcome = parse_outcome(path, opened.parquet, timed=path in newest)
            if opened.tar != outcome.commit.bytes:
                what = f"{opened.tar} bytes, {outcome.commit.bytes} were committed"
                raise ShardError(f"{path.with_suffix('.tar')}: {what}")
            status.count.add(path, outcome)
        except ShardError as error:
            if path.exists():
                status.damaged.append(str(error))
            continue
        total = outcome.statuses.total()
        made[path] = total - outcome.commit.provenance.get("kept", {"samples": 0})["samples"]
        if path in newest:
            timed[path] = outcome.seconds * made[path] / max(total, 1)
        status.shards += 1
        status.bytes += len(opened.parquet) + opened.tar + opened.idx
    if made:
        status.newest = max(dated[path] for path in made)
        usual = sum(timed.values()) / max(len(timed), 1)
        stretches = [Stretch(dated[p], timed.get(p, usual), made[p]) for p in made]
        _measure_progress(status, stretches, now)
    return status


class Opened(NamedTuple):
    """A shard's files, before anything is made of them."""

    parquet: bytes
    tar: int  # bytes
    idx: int


def _date(parquet: Path) -> float | None:
    """When a shard was committed; None where a job has begun to write it anew."""
    with suppress(FileNotFoundError):
        return os.stat(parquet).st_mtime
    return None


def _open(parquet: Path) -> Opened | ShardError:
    base = str(parquet).removesuffix(".parquet")
    try:
        data = read_file(parquet)
        return Opened(data, os.stat(f"{base}.tar").st_size, os.stat(f"{base}.idx").st_size)
    except FileNotFoundError as error:
        return ShardError(f"{error.filename}: missing")
    except ShardError as error:
        return error


def _find_writing(column: Path, files: set[str], now: float) -> list[Writing]:
    """The temporaries of tars in a column; see `pipeline.shards.files.Temporary` for the names."""
    found = []
    for name in sorted(files):
        shard, _, rest = name.removeprefix(".").partition(".tar.")
        if name.startswith(".") and name.endswith(".tmp") and rest.count(".") >= 3:
            path = column / name
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            quiet = max(0.0, now - stat.st_mtime)
            alive = quiet < STALE and is_locked(path) is not False
            host = rest.rsplit(".", 3)[0]
            found.append(Writing(shard, host, stat.st_size, quiet, alive))
    return found


def _measure_progress(status: ColumnStatus, made: list[Stretch], now: float) -> None:
    alive = [writing for writing in status.writing if writing.alive]
    each = status.bytes / max(status.count.total, 1)
    under_way = sum(writing.bytes for writing in alive) / each if each else 0.0
    rate = measure_rate(made, under_way, now if alive else None)
    status.samples_per_second = rate
    if rate and (alive or now - status.newest < PAST):
        status.seconds_left = max(0.0, status.missing - under_way) / rate


def is_locked(path: Path) -> bool | None:
    """Whether another process holds the exclusive lock of a file; None where nobody can tell.

    To find out, a shared lock is taken for some microseconds. Where locks do not reach from machine
    to machine, those of others count as free.
    """
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(file)
    return False
