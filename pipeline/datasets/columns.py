"""Folders of columns: which shards each holds, and whether the columns zip."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from pipeline.errors import PipelineError
from pipeline.folders import open_run
from pipeline.inputs.columns import is_our_record
from pipeline.shards.records import list_records, read_records

_NAME = re.compile(r"(.+?)-\d{5,}(-of-\d{5,})?")  # train-00003, or as published
ROWS = ["key", "split", "seed", "status", "message", "size", "seconds"]


def split_of(shard: str) -> str:
    """``train`` of ``train-00003``. Raises PipelineError for a name that is no shard's."""
    match = _NAME.fullmatch(shard)
    if match is None:
        raise PipelineError(f"{shard}: not named like a shard, such as train-00003; rename it")
    return match[1]


def list_columns(folder: Path) -> list[str]:
    """Names of the columns in a folder, `render` first. Raises PipelineError for none."""
    if not folder.is_dir():
        raise PipelineError(f"{folder}: no such folder; give a run's folder, or one of columns")
    names = [path.name for path in sorted(folder.iterdir()) if is_column(path)]
    if not names:
        raise PipelineError(f"{folder}: holds no column; run the stages that make them")
    return sorted(names, key=lambda name: (name != "render", name))


def is_column(folder: Path) -> bool:
    """Whether a folder holds shards of ours."""
    first = min(folder.glob("*.parquet"), default=None) if folder.is_dir() else None
    return first is not None and is_our_record(first)


def list_shards(column: Path) -> list[str]:
    """The committed shards of a column, in order.

    Raises PipelineError where there is none, or where a tar lies there without its record.
    """
    if not column.is_dir():
        raise PipelineError(f"{column}: no such folder; give the folder of a column")
    names = [path.stem for path in list_records(column)]
    if not names:
        raise PipelineError(f"{column}: no committed shard here; run the stage that makes it")
    if begun := {path.stem for path in column.glob("[!.]*.tar")} - set(names):
        raise PipelineError(
            f"{column / min(begun)}.tar: has no .parquet, so it is not whole; "
            "run the stage that makes it again"
        )
    return names


def read_rows(column: Path, shards: Sequence[str]) -> pa.Table:
    """The rows of some shards, failed samples too: ROWS and the `shard` of each.

    Raises ShardError for a record that cannot be read.
    """
    tables = []
    for shard in shards:
        table = read_records(column / f"{shard}.parquet", ROWS)[0].replace_schema_metadata()
        tables.append(table.append_column("shard", pa.array([shard] * len(table), pa.string())))
    return pa.concat_tables(tables).combine_chunks()


def align(columns: Mapping[str, pa.Table], fields: Sequence[str]) -> dict[str, pa.Table]:
    """The rows of every split, that all columns have in common: their `fields`, in order.

    A column may lack a split, as stylized ones do, but no sample of one that it has. Raises
    PipelineError that names the column and the first sample at which it leaves the others.
    """
    splits: dict[str, tuple[str, pa.Table]] = {}
    for name, table in columns.items():
        for split in table["split"].unique().to_pylist():
            part = table.filter(pa.compute.equal(table["split"], split)).select(fields)
            first, known = splits.setdefault(split, (name, part))
            if not part.equals(known):
                ours, theirs = part.to_pylist(), known.to_pylist()
                at = next((i for i, row in enumerate(ours) if row not in theirs[i : i + 1]), -1)
                odd = theirs[len(ours)] if at < 0 else ours[at]
                raise PipelineError(
                    f"{name}: does not zip with {first}: they part at {'/'.join(odd.values())}; "
                    "take columns of one run, all of their shards made"
                )
    return {split: part for split, (_, part) in splits.items()}


def choose_columns(target: Path, out: Path, wanted: Sequence[str]) -> list[Path]:
    """The columns of a target: the folder of one itself, or of many, or a run's manifest.

    Raises PipelineError for one in `wanted` that is not there.
    """
    if target.is_file():
        target = open_run(target, out).path
    if is_column(target):
        if wanted:
            raise PipelineError(f"{target}: is a column itself; leave out --column")
        return [target]
    known = list_columns(target)
    for name in wanted:
        if name not in known:
            raise PipelineError(f"{target}: no column {name!r}; there: {', '.join(known)}")
    return [target / name for name in wanted or known]
