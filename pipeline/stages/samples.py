"""From what a stage makes of an identity to a committed shard: encoded beside the making."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.console import progress
from pipeline.shards import ShardError
from pipeline.shards.encoding import encode_ahead
from pipeline.shards.writer import ShardWriter
from pipeline.stages.retry import Kept, drop_set_aside, open_kept


@dataclass
class Made:
    """A sample that was made; `encode` gives its members in their order in the tar."""

    row: dict[str, Any]  # of the plan
    encode: Callable[[], dict[str, bytes]]
    seconds: float


@dataclass
class Failure:
    """A sample that could not be made; it becomes a row of the shard's record."""

    row: dict[str, Any]
    kind: str
    message: str


def write_samples(
    column: Path,
    shard: str,
    provenance: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    make: Callable[[list[dict[str, Any]]], Iterable[Made | Failure]],
    encoders: int,
) -> None:
    """Write the shard of a column: a sample for each row of the plan, in their order.

    `make` says what becomes of the rows that it is given, in their order. Where the shard was set
    aside to be retried these are the failed ones alone, and the others are copied as they are.
    `encoders` threads encode beside the making; their number changes no byte.
    """
    kept = open_kept(column, shard, provenance)
    if kept.seconds:
        about = {"samples": len(kept.seconds), "provenance": kept.provenance}
        provenance = provenance | {"kept": about}
    with ShardWriter(column, shard, provenance) as writer:
        samples = _fill_in(rows, kept, make)
        encoded = encode_ahead(_encode, samples, workers=encoders, ahead=2 * encoders)
        for sample, members in progress(encoded, f"{column.name}/{shard}", len(rows)):
            names = {name: sample.row[name] for name in ("key", "seed", "split")}
            if isinstance(sample, Failure):
                writer.fail(kind=sample.kind, message=sample.message, **names)
            else:
                writer.add(members=members, seconds=sample.seconds, **names)
    drop_set_aside(column, shard)


def _fill_in(
    rows: Sequence[dict[str, Any]],
    kept: Kept,
    make: Callable[[list[dict[str, Any]]], Iterable[Made | Failure]],
) -> Iterator[Made | Failure]:
    """A sample for each row: the one that was kept, else the one that is made of it now."""
    missing = [row for row in rows if row["key"] not in kept.seconds]
    made = iter(make(missing) if missing else ())
    for row in rows:
        key = row["key"]
        if key in kept.seconds:
            yield Made(row, partial(kept.read, key), kept.seconds[key])
        else:
            yield next(made)


def _encode(sample: Made | Failure) -> tuple[Made | Failure, dict[str, bytes]]:
    if isinstance(sample, Failure):
        return sample, {}
    try:
        return sample, sample.encode()
    except ShardError as error:  # a value the format cannot hold, such as a depth behind the end
        return Failure(sample.row, "cannot_encode", str(error)), {}
