"""`diffstyle360 bench care`: what it costs to look after a run of a million samples."""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import yaml

from manifests.schemas import OK
from pipeline.bench.figures import json_option, show
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder, open_run
from pipeline.shards.archive import Member
from pipeline.shards.indexes import encode_idx, index_sample
from pipeline.shards.records import Commit, encode_records

VERBS: dict[str, list[str]] = {"status": [], "stats": [], "retry-failed": ["--dry-run"]}
SIZE = 64  # samples in a shard
BYTES = 1 << 20  # of a sample in the tar; the tars are holes, and take no space
INDEX = encode_idx([index_sample("train-00000000", 0, [Member("view_00.rgb.png", 512, 1024)])])
PROVENANCE = {  # about as long as the render stage's
    "column": "render",
    "run": "0" * 64,
    "generator": {"source": "procedural", "digest": "0" * 64},
    "ops": dict.fromkeys(("march", "styled_conv", "bias_act", "upfirdn2d"), "native"),
    "outputs": {"resolution": 512, "rgb": "png", "depth": "png16", "mask": True},
    "rig": {"kind": "orbit", "views": 32, "elevation": 0.0, "radius": None},
    "device": "cuda",
    "threads": 8,
}


@click.command()
@click.option(
    "--rows", type=click.IntRange(min=1), default=1_000_000, show_default=True,
    help="Samples in the run's one column.",
)  # fmt: skip
@click.option(
    "--failed", type=click.FloatRange(0, 1), default=0.01, show_default=True,
    help="Share of them that failed, anywhere.",
)  # fmt: skip
@json_option
def care(rows: int, failed: float, json_path: Path | None) -> None:
    """Seconds and memory of `status`, `stats` and `retry-failed` over one large column."""
    manifest = {
        "name": "bench",
        "seed": 0,
        "generator": {"source": "procedural"},
        "identities": {"train": rows},
        "rig": {"views": 32},
        "shards": {"identities": SIZE},
    }
    figures = {}
    with tempfile.TemporaryDirectory() as base:
        path = Path(base) / "bench.yaml"
        path.write_text(yaml.safe_dump(manifest))
        folder = open_run(path, base)
        _fill(folder, rows, failed)
        shards = len(folder.run.shard_names())
        for verb, options in VERBS.items():
            arguments = [verb, str(path), "--out", base, *options]
            figures[f"{' '.join([verb, *options])}, {shards} shards"] = _measure(arguments)
    show(figures, json_path)


def _fill(folder: RunFolder, rows: int, failed: float) -> None:
    """Commit all shards of the column; those with as many samples and failures are the same."""
    column, draw = folder.column("render"), random.Random(0)
    column.mkdir(parents=True)
    records: dict[tuple[int, int], bytes] = {}
    for number, name in enumerate(folder.run.shard_names()):
        count = min(SIZE, rows - number * SIZE)
        lost = sum(draw.random() < failed for _ in range(count))
        if (count, lost) not in records:
            records[count, lost] = _encode_shard(count, lost)
        with (column / f"{name}.tar").open("wb") as file:
            file.truncate((count - lost) * BYTES)
        (column / f"{name}.idx").write_bytes(INDEX)
        (column / f"{name}.parquet").write_bytes(records[count, lost])


def _encode_shard(count: int, lost: int) -> bytes:
    """The Parquet of a shard whose first `lost` samples failed."""
    rows: list[dict[str, Any]] = []
    for index in range(count):
        row = {"key": f"train-{index:08d}", "split": "train", "seed": index}
        if index < lost:
            row |= {"status": "non_finite", "message": f"seed {index}: image is not finite"}
            row |= dict.fromkeys(("offset", "size", "sha256", "members", "seconds"))
        else:
            row |= {"status": OK, "message": "", "offset": (index - lost) * BYTES, "size": BYTES}
            row |= {"sha256": f"{index:064x}", "members": 97, "seconds": 0.5}
        rows.append(row)
    commit = Commit(
        samples=count - lost,
        bytes=(count - lost) * BYTES,
        sha256="0" * 64,
        md5="0" * 32,
        provenance=PROVENANCE,
        pyarrow=pa.__version__,
    )
    return encode_records(rows, commit)


def _measure(arguments: list[str]) -> dict[str, float]:
    """A verb in a process of its own, from its start to its end."""
    code = (
        "import sys; from pipeline.bench.figures import peak_megabytes; import pipeline.cli; "
        "pipeline.cli.cli(standalone_mode=False); print(peak_megabytes(), file=sys.stderr)"
    )
    before, began = os.times(), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    seconds, after = time.perf_counter() - began, os.times()
    if done.returncode:
        raise PipelineError(f"{arguments[0]} failed: {done.stderr.strip().splitlines()[-1]}")
    busy = sum(after[2:4]) - sum(before[2:4])  # of children, user and system
    return {"seconds": seconds, "CPU seconds": busy, "peak MB": float(done.stderr.split()[-1])}
