"""The Hugging Face Hub layout: where every shard of a run, or of a folder of columns, is published.

A folder a column, ``render/train-00000-of-00012.tar``, with the index and the record beside each
tar. Numbers count up in each split.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from pipeline.counts import count_column
from pipeline.datasets.columns import list_columns, list_shards, split_of
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder, open_run
from pipeline.shards.codecs import encode_json
from pipeline.shards.indexes import encode_wids
from pipeline.shards.records import Commit, read_commit
from pipeline.shards.verify import verify_shard
from pipeline.stages.verify import verify_folder


@dataclass(frozen=True)
class Shard:
    """A committed shard, and its name when it is published."""

    column: str
    split: str
    folder: Path
    name: str  # train-00003
    published: str  # train-00003-of-00012
    commit: Commit

    def source(self, extension: str) -> Path:
        return self.folder / f"{self.name}.{extension}"

    def target(self, extension: str) -> str:
        return f"{self.column}/{self.published}.{extension}"


@dataclass(frozen=True)
class Collection:
    """Columns to publish together: of a run, or of a folder that merge or reshard made."""

    name: str
    path: Path
    columns: dict[str, list[Shard]]
    run: RunFolder | None  # none where a folder was given

    def splits(self, column: str) -> dict[str, list[Shard]]:
        """The shards of a column by split, in the order of the shards."""
        by_split: dict[str, list[Shard]] = {}
        for shard in self.columns[column]:
            by_split.setdefault(shard.split, []).append(shard)
        return by_split


def open_collection(
    target: Path, out: Path, columns: Sequence[str] = (), workers: int = 1
) -> Collection:
    """The committed columns of a run manifest or of a folder; all but latents unless named.

    A run must be verified, and not changed since; the columns of a folder are verified here and
    now. Raises PipelineError with the first fault, or for a column that is not there.
    """
    if target.is_dir():
        chosen = _choose(target, list_columns(target), columns)
        for name in chosen:
            verify_folder(target / name, workers)
        shards = {name: list_shards(target / name) for name in chosen}
        path, title, run = target, target.resolve().name, None
    else:
        run = open_run(target, out)
        path, title = run.path, run.run.name
        rendered = (*run.run.columns, *run.run.stylized_columns)
        chosen = _choose(path, (*rendered, *run.run.latent_columns), columns or rendered)
        _check_verified(run, chosen)
        shards = {name: _planned(run, name) for name in chosen}
    return Collection(title, path, {name: _name(path / name, shards[name]) for name in shards}, run)


def index_published(shards: Sequence[Shard]) -> bytes:
    """The wids index of a column under its published names."""
    index = json.loads(encode_wids(shards[0].folder))
    names = {f"{shard.name}.tar": f"{shard.published}.tar" for shard in shards}
    index["shardlist"] = [
        entry | {"url": names[entry["url"]]}
        for entry in index["shardlist"]
        if entry["url"] in names
    ]
    return encode_json(index)


def _choose(path: Path, known: Sequence[str], wanted: Sequence[str]) -> list[str]:
    for name in wanted:
        if name not in known:
            raise PipelineError(f"{path}: no column {name!r}; there: {', '.join(known)}")
    return list(dict.fromkeys(wanted)) or [name for name in known if name[:8] != "latents-"]


def _planned(folder: RunFolder, column: str) -> list[str]:
    """The shards a run's column must have. Raises PipelineError with the first fault of one."""
    run, only = folder.run, None
    if column in run.stylized_columns:
        only = run.stylized_split
    elif column in run.latent_columns:
        only = "train"
    names = run.shard_names(only)
    for name in names:
        if findings := verify_shard(folder.column(column), name, deep=False):
            raise PipelineError(f"{folder.path}: {findings[0]}; then verify again")
    return names


def _check_verified(folder: RunFolder, columns: Sequence[str]) -> None:
    advice = "run `diffstyle360 verify` first"
    if not folder.verified_path.is_file():
        raise PipelineError(f"{folder.verified_path}: not there; {advice}")
    try:
        statuses: dict[str, Any] = json.loads(folder.verified_path.read_bytes())
    except ValueError:
        raise PipelineError(f"{folder.verified_path}: not JSON; {advice}") from None
    for column in columns:
        found = dict(count_column(folder.column(column)).statuses)
        if statuses.get(column) != found:
            raise PipelineError(
                f"{folder.column(column)}: changed since the run was verified: {found or 'empty'}, "
                f"then {statuses.get(column)}; {advice}"
            )


def _name(column: Path, names: Sequence[str]) -> list[Shard]:
    shards = []
    for split, group in groupby(sorted(names, key=split_of), split_of):
        members = list(group)
        for number, name in enumerate(members):
            published = f"{split}-{number:05d}-of-{len(members):05d}"
            commit = read_commit(column / f"{name}.parquet")
            shards.append(Shard(column.name, split, column, name, published, commit))
    order = {name: at for at, name in enumerate(names)}
    return sorted(shards, key=lambda shard: order[shard.name])
