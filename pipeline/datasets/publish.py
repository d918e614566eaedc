"""Publish: a run's columns in the Hub's layout, each tar checked against its record on the way."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.console import progress
from pipeline.datasets.card import MARK, check_splits, mark_of, write_card
from pipeline.datasets.layout import Collection, Shard, index_published
from pipeline.datasets.places import Folder, Store
from pipeline.errors import PipelineError
from pipeline.shards.indexes import WIDS
from pipeline.shards.reader import Column
from pipeline.stages import pictures
from pipeline.stages.report import SHEET_ROWS, SHEET_VIEWS

README = "README.md"
FILES = "tar", "idx", "parquet"  # of a shard, in the order in which they are written


def publish(collection: Collection, place: Folder | Store, licence: str | None) -> int:
    """Write all that is not there yet; the number of shards that were written.

    README.md comes last, and goes first where anything is to be written: a folder that has one is
    whole. A tar that is there counts if its size and hash are right; in a store, if its size is and
    the record beside it is the same. Raises PipelineError for a tar that is missing or not as it
    was committed, a place that holds something else, or one that is too small.
    """
    check_splits(collection)
    _refuse_others(collection, place)
    shards = [shard for column in collection.columns.values() for shard in column]
    lacking = [shard for shard in shards if not place.has_size(shard.target("tar"), shard.commit)]
    place.check_space(sum(shard.commit.bytes for shard in lacking))
    compared = progress(shards, f"compare {place}", len(shards))
    todo = [shard for shard in compared if not _is_there(shard, place)]
    if todo:
        _remove_card(place)
    for shard in progress(todo, f"publish {place}", len(todo)):
        place.copy_tar(shard.source("tar"), shard.target("tar"), shard.commit)
        for extension in FILES[1:]:
            place.write(shard.target(extension), shard.source(extension).read_bytes())
    images = dict(_show(collection))
    small = images | dict(_describe(collection))
    extras = {name: data for name, data in small.items() if place.read(name) != data}
    card = write_card(collection, licence, list(images)).encode()
    if extras or place.read(README) != card:
        _remove_card(place)
        for name, data in extras.items():
            place.write(name, data)
        place.write(README, card)
    return len(todo)


def _remove_card(place: Folder | Store) -> None:
    if place.read(README) is not None:
        place.remove(README)


def _is_there(shard: Shard, place: Folder | Store) -> bool:
    return all(
        place.read(shard.target(extension)) == shard.source(extension).read_bytes()
        for extension in FILES[1:]
    ) and place.has_tar(shard.target("tar"), shard.commit)


def _refuse_others(collection: Collection, place: Folder | Store) -> None:
    """Raise PipelineError where the place holds a card or shards of anything else."""
    if isinstance(place, Folder) and place.path.resolve() == collection.path.resolve():
        raise PipelineError(f"{place}: is what is to be published; choose another folder")
    card = place.read(README)
    if card is not None and mark_of(collection).encode() not in card:
        whose = "another data set's" if MARK.encode() in card else "not written by publish"
        raise PipelineError(f"{place}/{README}: {whose}; move it away or choose another folder")
    for column in place.names():
        ours = {s.target(e) for s in collection.columns.get(column, []) for e in FILES}
        for name in place.names(column):
            path = f"{column}/{name}"
            if name[0] != "." and name.rpartition(".")[2] in FILES and path not in ours:
                raise PipelineError(
                    f"{place}/{path}: of a column or a number of shards that is not published now; "
                    "remove it or choose another folder"
                )


def _describe(collection: Collection) -> Iterator[tuple[str, bytes]]:
    """The small files beside the shards, but for the card."""
    for column, shards in collection.columns.items():
        yield f"{column}/{WIDS}", index_published(shards)
    if collection.run is not None:
        yield "plan.parquet", _rename_plan(collection)


def _rename_plan(collection: Collection) -> bytes:
    """The run's plan with published names in `shard`; of splits that are published alone."""
    assert collection.run is not None
    shards = [shard for column in collection.columns.values() for shard in column]
    names = {shard.name: shard.published for shard in shards}
    plan = collection.run.plan
    plan = plan.filter(pa.compute.is_in(plan["shard"], pa.array(list(names))))
    renamed = pa.array([names[name] for name in plan["shard"].to_pylist()], pa.string())
    at = plan.schema.get_field_index("shard")
    plan = plan.set_column(at, plan.schema.field("shard"), renamed)
    metadata = pq.read_schema(collection.run.plan_path).metadata
    sink = pa.BufferOutputStream()
    pq.write_table(plan.replace_schema_metadata(metadata), sink)
    return sink.getvalue().to_pybytes()


def _show(collection: Collection) -> Iterator[tuple[str, bytes]]:
    """Pictures by name: the report's where there are, else a contact sheet of each column."""
    kept = collection.path / "pictures"
    for turntable in sorted(kept.glob("turntable-*.webp"))[:1]:
        yield f"pictures/{turntable.name}", turntable.read_bytes()
    for column, shards in collection.columns.items():
        comparison = kept / f"compare-{column.removeprefix('stylized-')}.webp"
        if column.startswith("stylized-") and comparison.is_file():
            yield f"pictures/{comparison.name}", comparison.read_bytes()
        sheet = kept / f"sheet-{column}.webp"
        if sheet.is_file():
            yield f"pictures/{sheet.name}", sheet.read_bytes()
        elif _has_images(opened := Column(shards[0].folder, [shard.name for shard in shards])):
            made = pictures.column_sheet(opened, SHEET_ROWS, SHEET_VIEWS)
            yield f"pictures/{sheet.name}", pictures.encode_webp(made)


def _has_images(column: Column) -> bool:
    if not column.keys:
        return False
    members = column.read(column.keys[0], decoded=False)
    return any(suffix.startswith("view_00.rgb.") for suffix in members)
