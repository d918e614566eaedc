"""Merge: the columns of several runs as one collection whose columns still zip."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import yaml

from pipeline.console import progress
from pipeline.datasets.columns import (
    align,
    is_column,
    list_columns,
    list_shards,
    read_rows,
    split_of,
)
from pipeline.datasets.places import Folder, check_space
from pipeline.datasets.rewriting import Moved, rewrite_shard
from pipeline.errors import PipelineError
from pipeline.requests import claim_folder
from pipeline.shards.indexes import write_wids
from pipeline.shards.reader import Column
from pipeline.shards.records import order_shard, read_commit
from pipeline.shards.samples import Sample, check_sample
from pipeline.shards.writer import is_committed

REQUEST = "merge.yaml"


@dataclass(frozen=True)
class Part:
    """One run to merge: its columns, and what goes in front of its keys."""

    folder: Path
    prefix: str  # empty, or "heads-"
    columns: dict[str, list[str]]  # shards
    keys: dict[str, list[str]]  # of each shard, in order; the same in all columns


class Move(NamedTuple):
    """A shard that goes into the collection under another number."""

    part: Part
    column: str
    shard: str
    name: str


def merge(
    runs: Sequence[Path], out: Path, columns: Sequence[str] = (), prefix: bool = False
) -> dict[str, int]:
    """Write OUT/COLUMN of all runs' shards, numbered on in the order of `runs`; shards of each.

    Without `prefix` shards are copied as they are, each tar compared with its record. With it every
    key gets the name of its run in front, in the JSON too; all other members are the same bytes.
    Failed samples go along. Finished shards are left as they are. Raises PipelineError for a column
    that a run lacks, samples of different members or shapes, keys that two runs share, columns of a
    run that do not zip, or a folder that holds something else.
    """
    if len(runs) < 2:
        raise PipelineError("merge: give two runs or more")
    parts = _open(runs, out, columns, prefix)
    _refuse_equal_keys(parts)
    for column in parts[0].columns:
        _compare_samples(parts, column)
    moves = _number(parts)
    claim_folder(out / REQUEST, _describe(parts), "merged collection")
    todo = [move for move in moves if not is_committed(out / move.column, move.name)]
    check_space(out, sum(read_commit(_record(move)).bytes for move in todo))
    for move in progress(todo, f"merge into {out}", len(todo)):
        _write(move, out)
    for column in parts[0].columns:
        write_wids(out / column)
    return dict(Counter(move.column for move in moves))


def _open(runs: Sequence[Path], out: Path, columns: Sequence[str], prefix: bool) -> list[Part]:
    folders = [run.resolve() for run in runs]
    if out.resolve() in folders:
        raise PipelineError(f"{out}: is one of the runs; choose another folder")
    if twice := [run for run, number in Counter(folders).items() if number > 1]:
        raise PipelineError(f"{twice[0]}: given twice")
    known = [name for folder in folders for name in list_columns(folder)]
    wanted = list(dict.fromkeys(columns or known))
    prefixes = _prefixes(folders) if prefix else [""] * len(folders)
    parts = []
    for folder, front in zip(folders, prefixes, strict=True):
        for name in wanted:
            if not is_column(folder / name):
                raise PipelineError(
                    f"{folder}: has no column {name!r}; make it, or choose columns that all runs "
                    "have by --column"
                )
        shards = {name: list_shards(folder / name) for name in wanted}
        rows = {name: read_rows(folder / name, names) for name, names in shards.items()}
        common = pa.concat_tables(align(rows, ["shard", "key"]).values())
        keys: dict[str, list[str]] = {}
        for row in common.to_pylist():
            keys.setdefault(row["shard"], []).append(row["key"])
        parts.append(Part(folder, front, shards, keys))
    return parts


def _prefixes(folders: Sequence[Path]) -> list[str]:
    """The runs' names, without their hashes where these are not needed to tell them apart."""
    names = [folder.name for folder in folders]
    short = [re.sub(r"-[0-9a-f]{10}$", "", name) for name in names]
    chosen = short if len(set(short)) == len(short) else names
    if len(set(chosen)) < len(chosen):
        raise PipelineError(f"{', '.join(names)}: two runs have one name; rename a folder")
    return [f"{name}-" for name in chosen]


def _refuse_equal_keys(parts: Sequence[Part]) -> None:
    owner: dict[str, Part] = {}
    for part in parts:
        for keys in part.keys.values():
            for key in keys:
                other = owner.setdefault(part.prefix + key, part)
                if other is not part:
                    raise PipelineError(
                        f"{part.folder}: {key} is also in {other.folder}; "
                        "give --prefix to put each run's name in front of its keys"
                    )


def _compare_samples(parts: Sequence[Part], column: str) -> None:
    """Raise PipelineError where samples of two runs have other members, types or shapes."""
    known: tuple[Part, dict[str, str]] | None = None
    for part in parts:
        specs = _specs(part, column)
        if specs is None:
            continue
        if known is None:
            known = part, specs
        elif list(specs.items()) != list(known[1].items()):
            first, theirs = known
            odd = next((m for m in [*specs, *theirs] if specs.get(m) != theirs.get(m)), None)
            what = (
                "the members are in another order"
                if odd is None
                else f"{odd} is {specs.get(odd, 'not there')}, there {theirs.get(odd, 'not there')}"
            )
            raise PipelineError(
                f"{part.folder / column}: samples are unlike those of {first.folder / column}: "
                f"{what}; they cannot be one column"
            )


def _specs(part: Part, column: str) -> dict[str, str] | None:
    """Members of the first sample, with type and shape of each; None where all samples failed."""
    for shard in part.columns[column]:
        opened = Column(part.folder / column, [shard])
        if opened.keys:
            key = opened.keys[0]
            members = opened.read(key, decoded=False, check=True)
            _, specs = check_sample(Sample(key, 0, "", members))
            return {suffix: specs.get(suffix, "JSON") for suffix in members}
    return None


def _number(parts: Sequence[Part]) -> list[Move]:
    """The shards in their new order: in each split, those of one run after the other's."""
    next_of: Counter[str] = Counter()
    moves = []
    for part in parts:
        names = {}
        for shard in sorted(part.keys, key=order_shard):
            split = split_of(shard)
            names[shard] = f"{split}-{next_of[split]:05d}"
            next_of[split] += 1
        moves += [
            Move(part, column, shard, names[shard])
            for column, shards in part.columns.items()
            for shard in shards
        ]
    return moves


def _record(move: Move) -> Path:
    return move.part.folder / move.column / f"{move.shard}.parquet"


def _write(move: Move, out: Path) -> None:
    source, prefix = move.part.folder / move.column, move.part.prefix
    commit = read_commit(_record(move))
    if prefix:
        rows = read_rows(source, [move.shard]).to_pylist()
        samples = (Moved(row, prefix + row["key"], row["split"]) for row in rows)
        opened = Column(source, [move.shard])
        rewrite_shard(opened, out / move.column, move.name, samples, commit.provenance)
        return
    place = Folder(out / move.column)
    place.copy_tar(source / f"{move.shard}.tar", f"{move.name}.tar", commit)
    for extension in ("idx", "parquet"):  # the record last: it says that the shard is whole
        data = (source / f"{move.shard}.{extension}").read_bytes()
        place.write(f"{move.name}.{extension}", data)


def _describe(parts: Sequence[Part]) -> str:
    """The request: runs and columns, each known by the hashes of its tars."""
    runs = []
    for part in parts:
        columns = {}
        for column, shards in part.columns.items():
            digest = hashlib.sha256()
            for shard in shards:
                commit = read_commit(part.folder / column / f"{shard}.parquet")
                digest.update(commit.sha256.encode())
            columns[column] = digest.hexdigest()
        runs.append({"run": part.folder.name, "prefix": part.prefix, "columns": columns})
    return yaml.safe_dump({"runs": runs}, sort_keys=False)
