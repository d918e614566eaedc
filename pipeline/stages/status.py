"""Status: how a run of either kind stands, from its files alone; nothing is written."""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests.bulk_plan import read_outline
from manifests.stylizer import MODEL_FILES
from pipeline.folders import Folder, RunFolder
from pipeline.inputs.remote import CACHE
from pipeline.space import free_bytes
from pipeline.stages.column_status import PAST, ColumnStatus, is_locked, look_at_column
from pipeline.stages.retry import LOCK

STEPS = 50  # last ones, of the fine-tune's rate
TAIL = 1 << 16  # bytes of loss.csv that are read


@dataclass(frozen=True)
class FinetuneStatus:
    steps_asked: int
    steps: int  # done
    loss: float | None  # of the last one
    steps_per_second: float | None
    seconds_left: float | None
    saved: bool  # the stylizer is there


@dataclass(frozen=True)
class Artefact:
    there: bool
    stale: bool  # older than a shard that it is made of


@dataclass(frozen=True)
class RunStatus:
    folder: Path
    started: bool  # the folder is there
    locked: bool | None  # a snakemake is making the run; none: the file system does not tell
    columns: list[ColumnStatus]
    finetune: FinetuneStatus | None
    artefacts: dict[str, Artefact]
    bytes_free: int  # on the run's file system
    content: tuple[int, int] | None = None  # tars that were fetched, and their bytes

    @property
    def bytes(self) -> int:
        """Of all columns, shards that are being written included."""
        return sum(c.bytes + sum(w.bytes for w in c.writing) for c in self.columns)

    @property
    def bytes_to_come(self) -> int | None:
        """Of the shards that are missing; None where no shard tells how large they get."""
        known = [column.bytes_to_come for column in self.columns]
        return None if None in known or not known else sum(filter(None, known))

    @property
    def fits(self) -> bool | None:
        """Whether what is to come fits on the disk; None where that is not known."""
        wanted = self.bytes_to_come
        return None if wanted is None else wanted <= self.bytes_free


def look_at_run(folder: RunFolder) -> RunStatus:
    """How a run stands now, from whichever machine sees its folder; one not begun has nothing."""
    now = time.time()
    run, path = folder.run, folder.path
    columns = []
    for name, splits in run.made_columns.items():
        shards = [shard for split in splits for shard in run.shard_names(split)]
        asked = ColumnStatus(name, len(shards), sum(map(run.count, splits)), run.rig.count)
        columns.append(look_at_column(folder.column(name), asked, shards, now))
    _estimate_bytes(columns)
    stylized = [column for column in columns if column.name in run.stylized_columns]
    return RunStatus(
        folder=path,
        started=path.is_dir(),
        locked=is_locked(path / LOCK),
        columns=columns,
        finetune=_look_at_finetune(folder, now),
        artefacts=_look_at_artefacts(folder, columns, stylized),
        bytes_free=free_bytes(path),
    )


def look_at_bulk(folder: Folder) -> RunStatus:
    """How a bulk stylization stands; one that is not planned yet has no columns.

    Its plan says all that was asked for. Raises ManifestError where that cannot be read.
    """
    now, path = time.time(), folder.path
    planned = read_outline(folder.plan_path) if folder.plan_path.is_file() else {}
    columns = []
    for name, asked in planned.items():
        shards = list(asked.samples)
        status = ColumnStatus(name, len(shards), sum(asked.samples.values()), asked.views)
        columns.append(look_at_column(folder.column(name), status, shards, now))
    _estimate_bytes(columns)
    tars = [tar.stat().st_size for tar in (path / CACHE).glob("[!.]*.tar")]
    return RunStatus(
        folder=path,
        started=path.is_dir(),
        locked=is_locked(path / LOCK),
        columns=columns,
        finetune=None,
        artefacts=_look_at_artefacts(folder, columns),
        bytes_free=free_bytes(path),
        content=(len(tars), sum(tars)) if tars else None,
    )


def _estimate_bytes(columns: list[ColumnStatus]) -> None:
    """Sets what each column still takes: as its samples so far, or else as those of all columns."""
    total = sum(column.count.total for column in columns)
    usual = sum(column.bytes for column in columns) / total if total else None
    for column in columns:
        each = column.bytes / column.count.total if column.count.total else usual
        if not column.missing:
            column.bytes_to_come = 0
        elif each is not None:
            begun = sum(writing.bytes for writing in column.writing if writing.alive)
            column.bytes_to_come = max(0, math.ceil(column.missing * each) - begun)


def _look_at_finetune(folder: RunFolder, now: float) -> FinetuneStatus | None:
    wanted = folder.run.finetune
    if wanted is None:
        return None
    saved = all((folder.path / "stylizer" / name).is_file() for name in MODEL_FILES)
    path = folder.checkpoints / "loss.csv"
    rows = _read_losses(path) if path.is_file() else []
    if not rows:
        return FinetuneStatus(wanted.steps, 0, None, None, None, saved)
    steps, loss = int(rows[-1]["step"]) + 1, rows[-1]["loss"]
    seconds = sum(row["seconds"] for row in rows[-STEPS:])
    rate = len(rows[-STEPS:]) / seconds if seconds > 0 else None
    left = None
    if rate and not saved and now - path.stat().st_mtime < max(PAST, 10 / rate):
        left = (wanted.steps - steps) / rate
    return FinetuneStatus(wanted.steps, steps, loss, rate, left, saved)


def _read_losses(path: Path) -> list[dict[str, float]]:
    """Step, loss and seconds of the last rows of a loss.csv; one that is not whole is left out."""
    with path.open("rb") as file:
        names = file.readline().decode("utf-8", "replace").strip().split(",")
        first = file.tell()
        size = file.seek(0, os.SEEK_END)
        file.seek(max(first, size - TAIL))
        lines = file.read().decode("utf-8", "replace").split("\n")[:-1]  # whole ones end so
    if size - TAIL > first:
        del lines[0]
    rows = []
    for line in lines:
        try:
            row = dict(zip(names, map(float, line.split(",")), strict=True))
            rows.append({name: row[name] for name in ("step", "loss", "seconds")})
        except (ValueError, KeyError):  # cut off, or written over
            continue
    return [row for row in rows if all(map(math.isfinite, row.values()))]


def _look_at_artefacts(
    folder: Folder, columns: Sequence[ColumnStatus], measured: Sequence[ColumnStatus] = ()
) -> dict[str, Artefact]:
    """The files that come after the columns, and the plan before them."""
    newest = max((column.newest for column in columns), default=0.0)
    paths = {"plan": (folder.plan_path, 0.0)}
    if measured and isinstance(folder, RunFolder):
        paths["metrics"] = folder.metrics_path, max(column.newest for column in measured)
    paths["verified"] = folder.verified_path, newest
    paths["report"] = folder.report_path, newest
    found = {}
    for name, (path, since) in paths.items():
        there = path.is_file()
        found[name] = Artefact(there, there and path.stat().st_mtime < since)
    return found
