"""Verify: every shard is whole, and the columns of a run hold exactly what was planned."""

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from pipeline.counts import count_column
from pipeline.datasets.columns import align, is_column, list_shards, read_rows
from pipeline.errors import PipelineError
from pipeline.folders import BulkFolder, RunFolder
from pipeline.shards.files import explain, sync_folder, write_whole
from pipeline.shards.indexes import write_wids
from pipeline.shards.verify import Finding, verify_column
from pipeline.stages.retry import hold_run


def verify_run(folder: RunFolder | BulkFolder, workers: int = 1, repair: bool = False) -> int:
    """Check all columns of a run, print every fault, and return how many samples were asked for.

    `workers` threads take a shard each; what is printed and written does not depend on how many.
    A column without a fault gets its wids index; a run without one its `verified.json`, which says
    how the samples of each column ended. `repair` removes the files of shards whose bytes are not
    those that were committed, so that the run makes them again; a shard that was committed as it is
    and is wrong would only come out the same. Raises PipelineError with the first fault, or where
    a snakemake is making the run that is to be repaired.
    """
    findings: list[Finding] = []
    removed = 0
    statuses: dict[str, dict[str, int]] = {}
    planned = list(folder.planned_keys())
    with hold_run(folder.path) if repair else nullcontext():
        for column, expected in planned:
            found = verify_column(folder.column(column), expected, workers=workers)
            if not found:
                write_wids(folder.column(column))
                statuses[column] = dict(count_column(folder.column(column)).statuses)
            elif repair:
                removed += _remove_damaged(folder.column(column), found)
            findings += found
        if removed:  # else snakemake sees nothing to make
            folder.verified_path.unlink(missing_ok=True)
            folder.report_path.unlink(missing_ok=True)
    _refuse(folder.path, findings, removed)
    write_whole(folder.verified_path, json.dumps(statuses, indent=1, sort_keys=True).encode())
    return sum(sum(column.values()) for column in statuses.values())


def verify_folder(folder: Path, workers: int = 1) -> int:
    """Check one column by itself, or all columns in a folder and that they zip; print every fault,
    and return how many samples they record.

    `workers` as of `verify_run`. Raises PipelineError with the first fault, or for no column.
    """
    inside = sorted(folder.glob("[!.]*/"))
    columns = [folder] if _has_shards(folder) else [path for path in inside if _has_shards(path)]
    if not columns:
        raise PipelineError(
            f"{folder}: no shard here, nor in a folder in it; give a column, or columns"
        )
    _refuse(folder, [found for path in columns for found in verify_column(path, workers=workers)])
    align({path.name: read_rows(path, list_shards(path)) for path in columns}, ["shard", "key"])
    return sum(count_column(path).total for path in columns)


def _has_shards(folder: Path) -> bool:
    """Also where every record is damaged, and `is_column` is false."""
    return any(folder.glob("*-[0-9]*.tar")) or is_column(folder)


def _remove_damaged(column: Path, findings: Sequence[Finding]) -> int:
    """Remove shards that are damaged, what marks them as whole first; how many there were."""
    damaged = sorted({f.shard for f in findings if f.shard and f.kind in ("corrupt", "missing")})
    for shard in damaged:
        with explain(column / shard):
            (column / f"{shard}.parquet").unlink(missing_ok=True)
            sync_folder(column)
            for extension in ("tar", "idx"):
                (column / f"{shard}.{extension}").unlink(missing_ok=True)
    return len(damaged)


def _refuse(where: Path, findings: Sequence[Finding], removed: int = 0) -> None:
    for finding in findings:
        print(finding, file=sys.stderr)
    if findings:
        told = f"{where}: {len(findings)} faults found, the first: {findings[0]}"
        if removed:
            told += f"; {removed} damaged shards were removed: run the workflow again"
        raise PipelineError(told)
