"""A run that is killed and damaged over and over ends as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.folders import RunFolder, open_run
from tests.test_workflow import ROOT, all_samples, make, snakemake

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "3"))
LONGEST = 12.0  # seconds a round may take before the kill
CHANGES = {
    "identities": {"train": 5, "test": 2},
    "shards.identities": 1,
    "finetune.steps": 8,
    "finetune.checkpoint_every": 2,
}


def kill_some(process: subprocess.Popen, draw: random.Random) -> None:
    """SIGKILL a job, whose Snakemake then goes on for a while, or all at once."""
    jobs = [pid for pid in members_of(process.pid) if pid != process.pid]
    if jobs and draw.random() < 0.5:
        os.kill(draw.choice(jobs), signal.SIGKILL)
        time.sleep(draw.uniform(0, 4))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def members_of(group: int) -> list[int]:
    """The processes of a group that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # gone
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


def damage_some(folder: RunFolder, draw: random.Random) -> Path | None:
    """Flip a byte of a file of a committed shard, or cut it; None where none is committed."""
    markers = sorted(folder.path.glob("*/t*-0*.parquet"))
    if not markers:
        return None
    path = draw.choice(markers).with_suffix(draw.choice((".tar", ".idx", ".parquet")))
    content = bytearray(path.read_bytes())
    place = draw.randrange(len(content))
    if draw.random() < 0.5:
        content[place] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
    else:
        path.write_bytes(content[:place])
    return path


def repair(manifest: Path, out: Path) -> str:
    command = [sys.executable, "-m", "pipeline.cli", "verify", str(manifest), "--out", str(out)]
    done = subprocess.run([*command, "--repair"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    return done.stderr


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_kills_and_damage_leave_no_trace(
    write_manifest: Callable[..., Path], tmp_path: Path, tiny_model: Path
) -> None:
    manifest = write_manifest(CHANGES | {"finetune.start": str(tiny_model)})
    folder, seed = open_run(manifest, tmp_path / "chaos"), random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    for _ in range(ROUNDS):
        process = subprocess.Popen(
            snakemake(manifest, tmp_path / "chaos", "--cores", "2", "--quiet", "all"),
            cwd=ROOT,
            start_new_session=True,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(draw.uniform(2, LONGEST))
        except subprocess.TimeoutExpired:
            kill_some(process, draw)
        if damaged := damage_some(folder, draw):
            assert f"{damaged.parent.name}/{damaged.name}" in repair(manifest, tmp_path / "chaos")
            assert not damaged.exists()

    make(manifest, tmp_path / "chaos", "--cores", "2", "--quiet", "all")
    make(manifest, tmp_path / "smooth", "--cores", "2", "--quiet", "all")
    smooth = open_run(manifest, tmp_path / "smooth")
    assert folder.report_path.is_file()
    assert not list(folder.path.rglob(".*.tmp"))
    assert all_samples(folder) == all_samples(smooth)
    weights = [some.stylizer / "model.safetensors" for some in (folder, smooth)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
