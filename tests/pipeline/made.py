"""Shards and benchmarks as if something had made them."""

from pathlib import Path
from typing import Any

from pipeline.folders import RunFolder
from pipeline.shards.writer import ShardWriter

ON_CPU = {"device": "cpu", "device_name": "A CPU", "threads": 1}
ON_GPU = {"device": "cuda", "device_name": "A GPU", "threads": 4}


def write_shard(folder: RunFolder, name: str, made_by: dict[str, Any], seconds: list[float]) -> int:
    """A shard of tiny samples that took so long; its bytes with index and Parquet."""
    column = folder.column("render")
    with ShardWriter(column, name, made_by) as shard:
        for number, took in enumerate(seconds):
            members = {"json": b"{}"}
            shard.add(f"{name}-{number}", members, seed=1, split="train", seconds=took)
        shard.fail(f"{name}-bad", "non_finite", "a NaN", seed=1, split="train")
    return sum(path.stat().st_size for path in column.glob(f"{name}.*"))


def write_benchmark(folder: RunFolder, name: str, seconds: object) -> Path:
    """As Snakemake leaves it."""
    path = folder.path / "benchmarks" / f"{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t12.5\n")
    return path


def bytes_in(folder: RunFolder, column: str, shard: str = "*") -> int:
    """On the disk, the column's own index not counted."""
    paths = [*folder.column(column).glob(f"{shard}.*")]
    return sum(path.stat().st_size for path in paths if path.name != "wids.json")
