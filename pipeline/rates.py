"""Rates: what was made, and how long and how much of the disk it took."""

import csv
import statistics
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pyarrow.compute as pc

from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.shards.records import Commit, read_records

SAMPLED = 200  # shards of a column that are read, at most


class Device(NamedTuple):
    kind: str  # "cuda" or "cpu"
    name: str
    threads: int

    @property
    def units(self) -> int:
        """What an hour on it counts: one of a GPU, or of so many cores."""
        return 1 if self.kind == "cuda" else self.threads


class Rate(NamedTuple):
    """What a sample of a column costs, on average over some committed shards."""

    samples: int  # that were counted; failures are none
    seconds: float  # a sample
    bytes: float  # a sample: its share of the tar, the index and the Parquet
    overhead: float | None  # seconds of a job beyond its samples; None: not timed
    device: Device


def measure_column(folder: RunFolder, column: str) -> Rate | None:
    """The rate of a column on the device that made most of its samples; None where it has none.

    At most `SAMPLED` shards are read, evenly spread. Raises ShardError for a damaged Parquet,
    PipelineError for a damaged benchmark.
    """
    made: dict[Device, list[tuple[int, float, int, float | None]]] = defaultdict(list)
    paths = sorted(folder.column(column).glob("[!.]*.parquet"))
    for place in range(min(len(paths), SAMPLED)):
        path = paths[place * len(paths) // min(len(paths), SAMPLED)]
        rows, commit = read_records(path, ["seconds"])
        if not commit.samples:
            continue
        seconds, index = pc.sum(rows["seconds"]).as_py(), path.with_suffix(".idx")
        size = commit.bytes + path.stat().st_size
        size += index.stat().st_size if index.is_file() else 0
        took = read_benchmark(_benchmark_path(folder, column, path.stem))
        overhead = None if took is None else max(0.0, took - seconds)
        made[device_of(commit, path)].append((commit.samples, seconds, size, overhead))
    if not made:
        return None
    device = max(made, key=lambda one: sum(shard[0] for shard in made[one]))
    counts, times, sizes, overheads = zip(*made[device], strict=True)
    known = [overhead for overhead in overheads if overhead is not None]
    samples, middle = sum(counts), statistics.median(known) if known else None
    return Rate(samples, sum(times) / samples, sum(sizes) / samples, middle, device)


def read_benchmark(path: Path) -> float | None:
    """Seconds of a job that Snakemake timed; None where it did not.

    Raises PipelineError for a file that is no benchmark.
    """
    if not path.is_file():
        return None
    try:
        with path.open(newline="") as file:
            return float(list(csv.DictReader(file, delimiter="\t"))[-1]["s"])
    except (IndexError, KeyError, TypeError, ValueError):
        raise PipelineError(
            f"{path}: not a benchmark of Snakemake's; remove it, and its job counts as not timed"
        ) from None


def _benchmark_path(folder: RunFolder, column: str, shard: str) -> Path:
    stage, name = "render", column
    for verb, prefix in (("encode", "latents-"), ("stylize", "stylized-")):
        if column.startswith(prefix):
            stage, name = verb, column.removeprefix(prefix)
    return folder.path / "benchmarks" / stage / name / f"{shard}.tsv"


def device_of(commit: Commit, path: Path) -> Device:
    """The device that made a shard. Raises PipelineError where its record does not say it."""
    facts = commit.provenance
    try:
        return Device(facts["device"], facts["device_name"], facts["threads"])
    except KeyError as error:
        raise PipelineError(f"{path}: does not say its {error.args[0]}; make it again") from None


def read_step_seconds(folder: RunFolder) -> list[float]:
    """Seconds of the steps of a fine-tune, a torn last row left out; none where it made none.

    Raises PipelineError for a table that is not one of losses.
    """
    path = folder.checkpoints / "loss.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    times: list[float] = []
    for number, row in enumerate(rows):
        try:
            times.append(float(row["seconds"]))
        except (KeyError, TypeError, ValueError):
            if number + 1 == len(rows) and "seconds" in row:
                break
            raise PipelineError(
                f"{path}: row {number + 2} has no seconds; remove the folder, and train again"
            ) from None
    return times


def measure_checkpoints(folder: RunFolder) -> tuple[int, int] | None:
    """Bytes of the largest checkpoint of a fine-tune, and of the model it made.

    A model that is not made yet has no bytes; None where no checkpoint is.
    """
    sizes = [size_of(path) for path in folder.checkpoints.glob("checkpoint-[0-9]*")]
    return (max(sizes), size_of(folder.path / "stylizer")) if sizes else None


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder and below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
