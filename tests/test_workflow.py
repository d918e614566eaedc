"""The whole run under real Snakemake: same bytes for any cut of the work, and after any kill."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.folders import RunFolder, open_run
from pipeline.shards.reader import Column
from tests.pipeline.conftest import make_columns

ROOT = Path(__file__).parents[1]
CHANGES = {
    "identities": {"train": 2, "test": 1},
    "finetune.steps": 6,
    "finetune.checkpoint_every": 1,
}


def snakemake(manifest: Path, out: Path, *arguments: str) -> list[str]:
    config = ["--config", f"manifest={manifest}", f"out={out}"]
    return [sys.executable, "-m", "snakemake", *arguments, *config]


def make(manifest: Path, out: Path, *arguments: str) -> str:
    done = subprocess.run(
        snakemake(manifest, out, *arguments), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def make_until(manifest: Path, out: Path, started: Callable[[], bool], cores: int = 2) -> None:
    """Run the workflow and SIGKILL it with all its jobs as soon as `started`."""
    process = subprocess.Popen(
        snakemake(manifest, out, "--cores", str(cores), "--quiet", "all"),
        cwd=ROOT,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not started():
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def all_samples(folder: RunFolder) -> dict[tuple[str, str], dict[str, bytes]]:
    samples = {}
    for name in (*folder.run.columns, *folder.run.stylized_columns):
        column = Column(folder.column(name))
        samples |= {(name, key): column.read(key, decoded=False) for key in column.keys}
    return samples


def test_any_cut_and_any_kill_give_the_same_bytes(
    write_manifest: Callable[..., Path], tmp_path: Path, tiny_model: Path
) -> None:
    changes = CHANGES | {"finetune.start": str(tiny_model)}
    one = write_manifest(changes | {"shards.identities": 1}, "one by one.yaml")
    smooth = open_run(one, tmp_path / "one")
    make_columns(smooth)
    made = make(one, tmp_path / "one", "--cores", "1", "--until", "stylize")
    assert "rule render" not in made

    many = write_manifest(changes | {"shards.identities": 4}, "many.yaml")
    folder = open_run(many, tmp_path / "many")
    render, stylized = folder.column("render"), folder.column("stylized-statue")
    for started in (
        lambda: any(render.glob(".*.tar.*.tmp")),
        lambda: any(folder.checkpoints.glob("checkpoint-*")),
        lambda: any(stylized.glob(".*.tar.*.tmp")),
    ):
        make_until(many, tmp_path / "many", started)
    assert not folder.report_path.exists()
    make(many, tmp_path / "many", "--cores", "2", "--quiet", "all")

    assert folder.report_path.is_file()
    assert not list(folder.path.rglob(".*.tmp"))
    samples = all_samples(folder)
    assert len(samples) == 3 + 3 + 1
    assert samples == all_samples(smooth)
    weights = [f.stylizer / "model.safetensors" for f in (folder, smooth)]
    assert weights[0].read_bytes() == weights[1].read_bytes()

    hour = 3600.0  # which the clock of the node is behind that made this shard
    os.utime(render / "train-00000.parquet", times=(time.time() - hour, time.time() - hour))
    many.write_text("# a comment renders nothing again\n" + many.read_text())
    assert "Nothing to be done" in make(many, tmp_path / "many", "--cores", "2")


def test_a_second_snakemake_on_the_same_run_is_refused(
    write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = write_manifest()
    folder = open_run(manifest, tmp_path)
    folder.path.mkdir(parents=True)
    with (folder.path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            snakemake(manifest, tmp_path, "--cores", "1"), cwd=ROOT, capture_output=True, text=True
        )
    assert done.returncode != 0
    assert "another snakemake is making this run" in done.stderr
    assert not folder.plan_path.exists()


@pytest.mark.parametrize(
    ("removed", "jobs"),
    [
        ((), {"plan", "render", "finetune", "stylize", "evaluate", "verify", "report"}),
        (("finetune", "stylize"), {"plan", "render", "verify", "report"}),
        (("stylize",), {"plan", "render", "finetune", "verify", "report"}),
    ],
)
def test_stages_follow_the_manifest(
    write_manifest: Callable[..., Path], tmp_path: Path, removed: tuple[str, ...], jobs: set[str]
) -> None:
    manifest = write_manifest(dict.fromkeys(removed))
    shown = subprocess.run(
        snakemake(manifest, tmp_path, "-n"), cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    for job in ("plan", "render", "finetune", "stylize", "evaluate", "verify", "report"):
        assert (f"rule {job}:" in shown.stdout) == (job in jobs), job


def test_a_range_of_shards_makes_their_columns_alone(
    write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = write_manifest({"identities": {"train": 3, "test": 1}, "shards.identities": 1})

    def plan(shards: str) -> subprocess.CompletedProcess[str]:
        command = [*snakemake(manifest, tmp_path, "-n"), f"shards={shards}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    shown = plan("1-2").stdout
    assert "rule finetune:" not in shown
    assert "rule report:" not in shown
    for column in ("render", "style-statue"):
        for shard, made in (("train-00000", False), ("train-00001", True), ("train-00002", True)):
            assert (f"{column}/{shard}.tar" in shown) == made
    assert "test-00000" not in shown
    refused = plan("3-9")
    assert refused.returncode != 0
    assert "error: shards: 3-9: no shard of this run has such a number" in refused.stderr


@pytest.mark.parametrize(
    ("resources", "command"),
    [
        ((), " diffstyle360 finetune"),
        (("gpu=0",), " diffstyle360 finetune"),
        (("gpu=1",), " diffstyle360 finetune"),
        (("gpu=8",), " torchrun --no-python --nproc-per-node 8 --standalone diffstyle360 finetune"),
        (
            ("gpu=16", "nodes=2", "mpi=srun"),
            " srun torchrun --no-python --nproc-per-node 8 --nnodes 2",
        ),
    ],
)
def test_training_takes_the_gpus_it_is_given(
    write_manifest: Callable[..., Path], tmp_path: Path, resources: tuple[str, ...], command: str
) -> None:
    given = [f"finetune:{resource}" for resource in resources]
    asked = ["-n", "-p", *(["--set-resources", *given] if given else [])]
    shown = subprocess.run(
        snakemake(write_manifest(), tmp_path, *asked), cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    assert command in shown.stdout


def test_cached_latents_come_before_training(
    write_manifest: Callable[..., Path], tmp_path: Path, tiny_model: Path
) -> None:
    manifest = write_manifest({"finetune.start": str(tiny_model), "finetune.cache_latents": True})
    shown = subprocess.run(
        snakemake(manifest, tmp_path, "-n"), cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("rule encode:") == 2 * 2  # shards of train, columns


def test_a_run_that_trains_nothing_needs_no_train_split(
    write_manifest: Callable[..., Path], tmp_path: Path, tiny_model: Path
) -> None:
    changes = {"finetune": None, "identities": {"test": 1}, "stylize.model": str(tiny_model)}
    shown = subprocess.run(
        snakemake(write_manifest(changes), tmp_path, "-n"), cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    assert "rule verify:" in shown.stdout


def test_a_wrong_manifest_is_one_line(write_manifest: Callable[..., Path], tmp_path: Path) -> None:
    manifest = write_manifest({"sed": 1})
    done = subprocess.run(
        snakemake(manifest, tmp_path, "-n"), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "sed: unknown key; did you mean 'seed'?" in done.stderr
