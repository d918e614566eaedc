"""The same workflow by every executor: the same bytes, and a node may be lost on the way."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.folders import RunFolder, open_run
from tests.cluster.conftest import Slurm
from tests.pipeline.conftest import make_columns

ROOT = Path(__file__).parents[2]
CHANGES = {"identities": {"train": 4, "test": 1}, "shards.identities": 2, "finetune": None}
NO_GPU = [f"{rule}:gpu=0" for rule in ("render", "encode", "finetune", "stylize")]
SOON = "--latency-wait", "10", "--seconds-between-status-checks", "2"
FEW = "--jobs", "3"  # at once: fewer than there are shards, as in a large run

pytestmark = pytest.mark.slurm


def snakemake(manifest: Path, out: Path, *arguments: str) -> list[str]:
    config = ["--config", f"manifest={manifest}", f"out={out}"]
    return [sys.executable, "-m", "snakemake", *arguments, *config]


def by_slurm(manifest: Path, out: Path) -> list[str]:
    """The package's profile, on a cluster without GPUs and without accounting."""
    asked = ["--set-resources", *NO_GPU, "--slurm-no-account", "--slurm-status-command", "squeue"]
    asked += ["--slurm-init-seconds-before-status-checks", "2", *SOON, *FEW]
    return snakemake(manifest, out, "--profile", "profiles/slurm", *asked)


def members(folder: RunFolder) -> dict[str, bytes]:
    """Every tar and index that was rendered."""
    files = [
        path
        for column in folder.run.columns
        for path in sorted(folder.column(column).iterdir())
        if path.suffix in (".tar", ".idx")
    ]
    return {str(path.relative_to(folder.path)): path.read_bytes() for path in files}


@pytest.fixture(params=["tiny", pytest.param("demo", marks=pytest.mark.long)])
def manifest(
    request: pytest.FixtureRequest, write_manifest: Callable[..., Path], tiny_model: Path
) -> Path:
    """Of a run of seconds, or the demo's own."""
    if request.param == "demo":
        return ROOT / "manifests" / "runs" / "demo.yaml"
    return write_manifest(CHANGES | {"stylize.model": str(tiny_model)})


def test_slurm_makes_the_same_bytes_though_a_node_is_lost(
    slurm: Slurm, manifest: Path, tmp_path: Path
) -> None:
    alone = open_run(manifest, tmp_path / "alone")
    make_columns(alone)
    folder = open_run(manifest, tmp_path / "slurm")
    told = tmp_path / "told"
    with told.open("w") as stream:
        command = by_slurm(manifest, tmp_path / "slurm")
        process = subprocess.Popen(command, cwd=ROOT, env=slurm.environment, stderr=stream)
    try:
        slurm.wait(lambda: slurm.jobs_on("n2") or process.poll() is not None, seconds=600)
        lost = slurm.kill_node("n2")
        slurm.wait(lambda: not slurm.jobs_on("n2"))  # until Slurm has noticed
        slurm.start_node("n2")
        slurm.wait(lambda: process.poll() is not None, seconds=1800)
    finally:
        process.kill()
    assert process.returncode == 0, told.read_text()[-3000:]
    assert lost
    for job in lost:  # started again by Slurm itself, not by Snakemake
        assert "Restarts=1" in slurm.run("scontrol", "show", "job", job)
    assert folder.report_path.is_file()
    assert len(members(folder)) == len(folder.run.columns) * len(folder.run.shard_names()) * 2
    assert members(folder) == members(alone)
    assert not list(folder.path.rglob(".*.tmp"))


def test_cluster_generic_makes_the_same_bytes(slurm: Slurm, manifest: Path, tmp_path: Path) -> None:
    """By the profile's own commands, which are Slurm's."""
    alone = open_run(manifest, tmp_path / "alone")
    make_columns(alone)
    chosen = ["--profile", "profiles/cluster-generic", *SOON, *FEW, "--until", "render"]
    asked = [f"{rule}:gres=none" for rule in ("render", "stylize")]
    done = subprocess.run(
        snakemake(manifest, tmp_path / "generic", *chosen, "--set-resources", *asked),
        cwd=ROOT, env=slurm.environment, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert members(open_run(manifest, tmp_path / "generic")) == members(alone)
