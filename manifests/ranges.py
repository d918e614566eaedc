"""Some of a run's shards, by number: what one invocation makes of a run that is too large for it.

``train-00003`` has the number 3. The digits are five at least, so ``train-99999`` is followed by
``train-100000`` and no name changes when a run grows.
"""

import re
from collections.abc import Sequence
from typing import Any

from manifests.loading import ManifestError
from manifests.run import RunManifest

KEY = "shards"  # of Snakemake's --config
MOST = 10**9


def parse_shard_range(text: Any) -> tuple[range, ...]:
    """``"0-9999,12000"`` (both ends in) as numbers of shards: ranges in order that do not touch.

    A plain number is taken as well, since Snakemake reads ``shards=7`` as one. Raises ManifestError
    for anything else, for a range that is empty, and for numbers that no run has.
    """
    if isinstance(text, bool) or not isinstance(text, int | str):
        raise ManifestError(f"{KEY}: {text!r} is neither a number nor ranges like '0-9999,12000'")
    parts = sorted((_part(part) for part in str(text).split(",")), key=lambda part: part.start)
    merged = [parts[0]]
    for part in parts[1:]:
        if part.start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(merged[-1].stop, part.stop))
        else:
            merged.append(part)
    return tuple(merged)


def _part(text: str) -> range:
    match = re.fullmatch(r"\s*(\d{1,10})(?:-(\d{1,10}))?\s*", text, re.ASCII)
    if match is None:
        raise ManifestError(
            f"{KEY}: {text!r} is neither a number of a shard nor a range like '0-9999'"
        )
    numbers = range(int(match[1]), int(match[2] or match[1]) + 1)
    if not numbers:
        raise ManifestError(f"{KEY}: {text!r} is empty; give the lower number first")
    if numbers[-1] >= MOST:
        raise ManifestError(f"{KEY}: {text!r}: a run has fewer than {MOST} shards")
    return numbers


def count_shards(run: RunManifest, split: str) -> int:
    """How many shards a split has; their numbers begin at 0."""
    return -(-run.count(split) // run.shards.identities)


def select_shards(run: RunManifest, ranges: Sequence[range], split: str | None = None) -> list[str]:
    """The shards with these numbers, of one split or of all, in the order of `shard_names`.

    Only their names are made, however many the run has. A split may have none of them. Raises
    ManifestError where a range has no shard of any split.
    """
    counts = {name: count_shards(run, name) for name in run.identities}
    largest = max(counts.values())
    for part in ranges:
        if part.start >= largest:
            raise ManifestError(
                f"{KEY}: {_show(part)}: no shard of this run has such a number; "
                f"they go from 0 to {largest - 1}"
            )
    return [
        f"{name}-{number:05d}"
        for name in (counts if split is None else (split,))
        for part in ranges
        for number in range(part.start, min(part.stop, counts[name]))
    ]


def shard_order(name: str) -> tuple[str, int]:
    """Split and number of a shard: sorts as the plan does, where text puts 100000 before 20000.

    Raises ValueError for a name that is none of a run's.
    """
    match = re.fullmatch(r"(.+)-(\d{5,10})", name, re.ASCII)
    if match is None:
        raise ValueError(f"{name!r}: not the name of a run's shard, such as train-00003")
    return match[1], int(match[2])


def _show(part: range) -> str:
    return str(part.start) if len(part) == 1 else f"{part.start}-{part[-1]}"
