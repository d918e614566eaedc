"""What a run still has to write, held against the space that is free."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from manifests.ranges import count_shards, shard_order
from manifests.stylizer import MODEL_FILES
from pipeline.bounds import SHARD_ENDS, bound_checkpoint, bound_sample
from pipeline.console import show_bytes
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.rates import measure_checkpoints, measure_column, size_of

CHECKPOINTS_KEPT = 2  # by a fine-tune; a third is there while it is written
SHOWN = 6  # stages in an error
METHODS = 6  # rows of metrics.parquet a view: ours, the truth's, baselines'
ROW, TABLE = 256, 40_000  # bytes of a row there, and of its frame


class Need(NamedTuple):
    """What a stage still has to write."""

    name: str  # of a column, or finetune, or evaluate
    bytes: float
    measured: bool  # else it is an upper bound


def estimate_bytes(folder: RunFolder) -> list[Need]:
    """What each stage of a run still has to write, without the pictures of its report.

    Committed shards count as written. A column with a shard is measured on it; the need of any
    other is an upper bound from the formats. Raises PipelineError where a stylizer's or a
    generator's folder cannot be read.
    """
    run = folder.run
    needs = []
    for column in (*run.columns, *run.latent_columns, *run.stylized_columns):
        samples, shards = _missing(folder, column)
        if rate := measure_column(folder, column):
            needs.append(Need(column, samples * rate.bytes, True))
        else:
            bound = samples * bound_sample(run, column) + shards * SHARD_ENDS
            needs.append(Need(column, bound, False))
    if run.finetune and not (folder.path / "stylizer" / MODEL_FILES[1]).is_file():
        measured = measure_checkpoints(folder)
        checkpoint, _ = measured or bound_checkpoint(run)
        model = bound_checkpoint(run)[1]
        there = size_of(folder.checkpoints) if folder.checkpoints.is_dir() else 0
        at_once = min(-(-run.finetune.steps // run.finetune.checkpoint_every), CHECKPOINTS_KEPT + 1)
        need = max(0, at_once * checkpoint - there) + model
        needs.append(Need("finetune", need, measured is not None))
    if run.stylize and not folder.metrics_path.is_file():
        identities = run.count(run.stylize.split) * len(run.stylize.references)
        rows = identities * METHODS * (run.rig.count + 1)
        needs.append(Need("evaluate", rows * ROW + TABLE, False))
    return needs


def check_space(folder: RunFolder) -> str | None:
    """Compare what a run still has to write with the free space of its file system.

    Returns one line where the upper bounds do not fit, None where they do. Raises PipelineError
    where what was measured alone does not fit.
    """
    return compare_space(folder.path, estimate_bytes(folder), "identities, views, outputs")


def compare_space(path: Path, needs: Sequence[Need], less: str) -> str | None:
    """As `check_space`, of these needs; `less` names what one may ask for less of."""
    free, known = free_bytes(path), [need for need in needs if need.measured]
    if sum(need.bytes for need in known) > free:
        raise PipelineError(_no_space(path, free, known, "needs another", less))
    if sum(need.bytes for need in needs) > free:
        return _no_space(path, free, needs, "may need up to another", less)
    return None


def free_bytes(path: Path) -> int:
    """What a user may still write on the file system of a folder, there or yet to be made."""
    place = next(each for each in (path, *path.absolute().parents) if each.is_dir())
    return shutil.disk_usage(place).free


def _no_space(path: Path, free: int, needs: Sequence[Need], how: str, less: str) -> str:
    largest = sorted(needs, key=lambda need: -need.bytes)
    shown = ", ".join(f"{need.name} {show_bytes(need.bytes)}" for need in largest[:SHOWN])
    if rest := largest[SHOWN:]:
        shown += f", {len(rest)} more {show_bytes(sum(need.bytes for need in rest))}"
    return (
        f"{path}: {show_bytes(free)} free, and this run {how} "
        f"{show_bytes(sum(need.bytes for need in needs))}: {shown}; free space there, choose "
        f"another disk by --out, or ask for less ({less})"
    )


def _missing(folder: RunFolder, column: str) -> tuple[int, int]:
    """Samples and shards of a column that are not committed; no shard is read."""
    run = folder.run
    splits = run.made_columns[column]
    samples = sum(run.count(split) for split in splits)
    shards = sum(count_shards(run, split) for split in splits)
    for path in folder.column(column).glob("[!.]*.parquet"):
        try:
            split, number = shard_order(path.stem)
        except ValueError:  # not of this run: for `verify` to find
            continue
        if split in splits and number < count_shards(run, split):
            first = number * run.shards.identities
            samples -= min(run.shards.identities, run.count(split) - first)
            shards -= 1
    return samples, shards
