"""`diffstyle360 bench workflow`: what Snakemake costs before any work is done."""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import yaml

from pipeline.bench.figures import json_option, peak_megabytes, show
from pipeline.errors import PipelineError


@click.command()
@click.option("--shards", default=10_000, show_default=True, help="Shards in the run.")
@click.option(
    "--snakefile", default="Snakefile", show_default=True, type=click.Path(path_type=Path)
)
@json_option
def workflow(shards: int, snakefile: Path, json_path: Path | None) -> None:
    """Time and memory of a dry run, `snakemake -n`, over a large rendering run."""
    if not snakefile.is_file():
        raise PipelineError(f"{snakefile}: not there; run this from the repository, or --snakefile")
    manifest = {
        "name": "bench",
        "seed": 0,
        "generator": {"source": "procedural"},
        "identities": {"train": shards},
        "rig": {"views": 32},
        "outputs": {"resolution": 512},
        "shards": {"identities": 1},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.yaml"
        path.write_text(yaml.safe_dump(manifest))
        command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "all"]
        command += ["--snakefile", str(snakefile), "--config", f"manifest={path}", f"out={folder}"]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - began
    if done.returncode:
        raise PipelineError(f"snakemake -n failed: {done.stderr.strip().splitlines()[-1]}")
    peak = peak_megabytes(resource.RUSAGE_CHILDREN)
    show({f"dry run of {shards} shards": {"seconds": seconds, "peak MB": peak}}, json_path)
