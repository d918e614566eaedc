"""From what a stage makes of an identity to a committed shard: encoded beside the making."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.console import progress
from pipeline.shards import ShardError
from pipeline.shards.encoding import encode_ahead
from pipeline.shards.writer import ShardWriter


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
    made: Iterable[Made | Failure],
    total: int,
    encoders: int,
) -> None:
    """Write the shard of a column from its samples, in the order of the plan.

    `encoders` threads encode beside the making; their number changes no byte.
    """
    with ShardWriter(column, shard, provenance) as writer:
        encoded = encode_ahead(_encode, made, workers=encoders, ahead=2 * encoders)
        for sample, members in progress(encoded, f"{column.name}/{shard}", total):
            names = {name: sample.row[name] for name in ("key", "seed", "split")}
            if isinstance(sample, Failure):
                writer.fail(kind=sample.kind, message=sample.message, **names)
            else:
                writer.add(members=members, seconds=sample.seconds, **names)


def _encode(sample: Made | Failure) -> tuple[Made | Failure, dict[str, bytes]]:
    if isinstance(sample, Failure):
        return sample, {}
    try:
        return sample, sample.encode()
    except ShardError as error:  # a value the format cannot hold, such as a depth behind the end
        return Failure(sample.row, "cannot_encode", str(error)), {}
